"""A whole training, from a folder of pictures to a run, on small pictures that the tests render."""

from __future__ import annotations

import json

import keras
import numpy as np
import polars as pl
import pytest
from short import short_backbone

import greffon
from greffon.bundle.read import read_bundle
from greffon.errors import DataError, InputError
from greffon.frozen.engine import Engine
from greffon.pictures import decode as pictures
from greffon.pictures import views
from greffon.training import purpose, stage_tail, tail
from greffon.training.progress import Reporter
from greffon.training.stage_result import StageResult
from greffon.training.stage_tail import StageTail

SIDE = 32
HEAD = greffon.Stage(name="head", epochs=2, learning_rate=1e-2)
BLOCK = greffon.Stage(name="block", unfreeze="conv5_block3", epochs=2, learning_rate=1e-3)
RECIPE = greffon.Recipe(weights="thin", image_size=SIDE, stages=(HEAD, BLOCK))
HEAD_ALONE = RECIPE.replace(stages=(HEAD.replace(epochs=1),))


def render(folder, classes=("blue", "red", "stripes"), count=14):
    from PIL import Image

    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.normal(80, 30, (40, 48, 3))
            pixels[..., label] += 100
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory):
    return render(tmp_path_factory.mktemp("pictures"))


class Notes(Reporter):
    """Keeps what is said."""

    def __init__(self):
        self.said, self.tables = [], []

    def note(self, text):
        self.said.append(text)

    def warn(self, text):
        self.said.append(text)

    def stage(self, name, index, count, table=None):
        self.tables.append(table)


@pytest.fixture(scope="module")
def trained(photos_folder, tmp_path_factory):
    """One run that several tests look at, and what it said; made with a cache of its own, as it outlives a test."""
    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("module-cache")))
        run = greffon.train(photos_folder, out=tmp_path_factory.mktemp("runs") / "run", recipe=RECIPE, reporter=notes)
    return run, notes


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


@pytest.fixture
def short_network(monkeypatch):
    """The network of a training has one block in each group, and three in the last."""
    monkeypatch.setattr(purpose, "build_backbone", short_backbone((1, 1, 1, 3)))


@pytest.fixture
def computed(monkeypatch):
    """Counts the pictures that go through an engine."""
    rows = []
    run_engine = Engine.run

    def counted(self, inputs):
        rows.append(len(inputs[0]))
        return run_engine(self, inputs)

    monkeypatch.setattr(Engine, "run", counted)
    return rows


def pixels_of(folder, frame):
    return np.stack([pictures.decode(folder / path, SIDE, "crop") for path in frame["path"]])


def test_the_table_is_what_the_plain_model_says(run, photos_folder):
    bundle = read_bundle(run.path)
    plain = keras.saving.load_model(run.path / "model.keras")
    probabilities = plain.predict(pixels_of(photos_folder, bundle.table), verbose=0)
    kept = bundle.table.select(pl.col("^p_.*$")).to_numpy()
    np.testing.assert_allclose(kept, probabilities, atol=2e-3)  # activations are kept in float16
    right = [
        name == bundle.class_names[best]
        for name, best in zip(bundle.table["label"], probabilities.argmax(1), strict=True)
    ]
    assert run.summary["accuracy"] == pytest.approx(np.mean(right))


def test_the_frozen_part_is_the_weight_sets(run):
    plain = keras.saving.load_model(run.path / "model.keras")
    thin = greffon.resnet50("thin", input_shape=(SIDE, SIDE, 3))
    moved = set()
    for layer in thin.layers[2:]:
        for ours, theirs in zip(plain.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            if layer.name != "conv1_conv" and not np.array_equal(ours, theirs):  # its channels are turned round
                moved.add(layer.name.rpartition("_")[0].rpartition("_")[0])
    assert moved == {"conv5_block3"}
    stages = json.loads((run.path / "run.json").read_text())["stages"]
    assert [stage["proof"]["holds"] for stage in stages] == [True, True]
    assert [stage["proof"]["changed"] for stage in stages] == [[], []]


def test_the_record(run):
    record = json.loads((run.path / "run.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == ["head", "block"]
    assert [stage["cut"] for stage in record["stages"]] == ["head_pool", "conv5_block2_out"]
    assert record["trunk"]["computed"] == 42  # each picture once for both cuts
    assert record["pictures"] == {"train": 33, "val": 9, "test": 0}
    history = pl.read_csv(run.path / "history.csv")
    assert history["stage"].to_list() == ["head", "head", "block", "block"]
    assert history.columns[3:] == ["loss", "accuracy", "val_loss", "val_accuracy"]  # as of a head that is solved
    assert history["epoch"].to_list() == [1, 2, 1, 2]
    assert history["learning_rate"].to_list() == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])
    assert str(run.path) in str(run)


@pytest.mark.usefixtures("short_network")
def test_the_recipe_file_gives_the_same_training_and_the_trunk_does_not_run(photos_folder, tmp_path, computed):
    first = greffon.train(photos_folder, out=tmp_path / "a", recipe=RECIPE, reporter=Reporter())
    assert first.summary["trunk"]["computed"] == 42
    again = greffon.Recipe.from_yaml(first.path / "recipe.yaml")
    second = greffon.train(photos_folder, out=tmp_path / "b", recipe=again, reporter=Reporter())
    trunk = second.summary["trunk"]
    assert (trunk["computed"], trunk["reused"], trunk["engine"], trunk["activations"]) == (0, 42, None, "float16")
    assert (first.path / "history.csv").read_text() == (second.path / "history.csv").read_text()
    one, other = (keras.saving.load_model(it.path / "model.keras").get_weights() for it in (first, second))
    assert all(map(np.array_equal, one, other))


@pytest.mark.usefixtures("short_network")
def test_an_interrupted_trunk_goes_on_where_it_was(photos_folder, tmp_path, computed, monkeypatch):
    read = views.decode_views_many
    calls = []

    def interrupted(requests, *options):
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(requests, *options)

    monkeypatch.setattr(views, "decode_views_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        greffon.train(photos_folder, out=tmp_path / "run", recipe=HEAD_ALONE, reporter=Reporter())
    assert not (tmp_path / "run").exists()
    assert 0 < calls[0] < 42
    monkeypatch.setattr(views, "decode_views_many", read)
    run = greffon.train(photos_folder, out=tmp_path / "run", recipe=HEAD_ALONE, reporter=Reporter())
    assert run.summary["trunk"]["computed"] == 42 - calls[0]
    assert run.summary["trunk"]["reused"] == calls[0]


@pytest.mark.usefixtures("short_network")
def test_views_are_computed_once_and_those_of_a_run_without_views_are_reused(photos_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "cache"))
    one = greffon.train(photos_folder, out=tmp_path / "one", recipe=HEAD_ALONE, reporter=Reporter())
    assert one.summary["trunk"]["computed"] == 42
    recipe = HEAD_ALONE.replace(views=3, augment="colour")
    several = greffon.train(photos_folder, out=tmp_path / "several", recipe=recipe, reporter=Reporter())
    assert several.summary["trunk"]["computed"] == 2 * 33
    assert several.summary["trunk"]["reused"] == 42
    more = greffon.train(photos_folder, out=tmp_path / "more", recipe=recipe.replace(views=4), reporter=Reporter())
    assert more.summary["trunk"]["computed"] == 33
    assert greffon.Recipe.from_yaml(more.path / "recipe.yaml").views == 4


def test_nothing_is_said_of_time_that_was_not_saved(run):
    lines = str(run)
    assert "saved" in lines
    worse = type(run)(run.path, run.measures, run.summary | {"seconds_saved": -0.5})
    assert "saved" not in str(worse)
    unknown = type(run)(run.path, run.measures, run.summary | {"seconds_saved": None})
    assert "saved" not in str(unknown)


def test_what_cannot_be_read_is_listed_and_left_out(tmp_path):
    folder = render(tmp_path / "pictures", classes=("a", "b"), count=6)
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    (folder / "b" / "notes.txt").write_text("no picture")
    notes = Notes()
    recipe = RECIPE.replace(stages=(HEAD.replace(epochs=1),))
    run = greffon.train(folder, out=tmp_path / "run", recipe=recipe, reporter=notes)
    assert run.summary["left_out"] == {"unreadable": 1, "ignored": 1}
    assert any("a/broken.jpg" in text for text in notes.said)
    assert any("b/notes.txt" in text for text in notes.said)
    assert sum(run.summary["pictures"].values()) == 12


def test_missing_weights_stop_before_a_picture_is_read(tmp_path):
    with pytest.raises(InputError, match=r"(?s)greffon weights fetch imagenet.*--weights thin"):
        greffon.train(tmp_path / "does-not-exist", out=tmp_path / "run", reporter=Reporter())
    with pytest.raises(InputError, match="no run"):
        greffon.train(tmp_path, out=tmp_path / "run", recipe=greffon.Recipe(weights=str(tmp_path)), reporter=Reporter())


def test_a_run_serves_as_weights(run, photos_folder, tmp_path):
    notes = Notes()
    stage = HEAD.replace(epochs=1, learning_rate=1e-12)
    recipe = RECIPE.replace(weights=str(run.path), stages=(stage,), seed=7)
    same = greffon.train(photos_folder, out=tmp_path / "same", recipe=recipe, reporter=notes)
    assert any("backbone and head" in text for text in notes.said)
    assert not any("Left out" in text for text in notes.said)
    # Nearly nothing was learned, so it answers as the run that it began with.
    ours, theirs = (read_bundle(it.path).table.select(pl.col("^p_.*$")).to_numpy() for it in (same, run))
    np.testing.assert_allclose(ours, theirs, atol=5e-3)
    # What that run has learned from is not held out, whatever the seed; and a third run would know of all that.
    one, other = (read_bundle(it.path) for it in (run, same))
    assert other.split.equals(one.split)
    assert any("33 pictures that" in text and "9 that it held out" in text for text in notes.said)
    assert not any("flatter" in text for text in notes.said)
    assert dict(other.earlier.iter_rows()) == one.known == other.known
    other = render(tmp_path / "other", classes=("x", "y"), count=4)
    greffon.train(other, out=tmp_path / "two", recipe=recipe, reporter=notes)
    assert any("other classes" in text for text in notes.said)


@pytest.mark.usefixtures("short_network")
def test_pictures_of_the_earlier_run_that_are_held_out_again_are_counted(run, photos_folder, tmp_path):
    """By a written split; the network stands for the earlier run's."""
    bundle = read_bundle(run.path)
    frame = bundle.split.with_columns(split=pl.Series(["val", "train"] * 21))
    frame.select("hash", "label", "split", "path").write_parquet(tmp_path / "split.parquet")
    again = dict(frame.select("hash", "split").iter_rows())
    count = sum(side == "val" and bundle.known[content] == "train" for content, side in again.items())
    notes, stages = Notes(), (greffon.Stage(name="probe", optimizer="lbfgs"),)
    recipe = RECIPE.replace(weights=str(run.path / "model.keras"), stages=stages)
    found = greffon.train(
        photos_folder, out=tmp_path / "run", recipe=recipe, reporter=notes, split=tmp_path / "split.parquet"
    )
    assert any(f"{count} of 21 pictures held out for validation were learned from" in text for text in notes.said)
    assert found.summary["learned_before"]["val"] == {"pictures": count, "of": 21}
    (line,) = (line for line in str(found).splitlines() if line.startswith("validation"))
    assert f"had learned from {count} of these 21 pictures" in line
    assert "choose" not in str(found), "nothing was chosen by them"
    assert f"had learned from {count} of these 21" in (found.path / "README.md").read_text(encoding="utf-8")
    assert str(found).splitlines()[0].startswith("3 x 5 folds") and "flattered" in str(found).splitlines()[0]


def test_the_freeze_table_is_shown_once_and_else_what_changes(trained):
    first, second = trained[1].tables
    assert str(first).startswith("trains: head") and "\n" not in str(first)
    assert "conv5_block3" in str(second) and str(second).count("\n") > 10


def test_more_epochs_are_suggested_once_and_only_where_the_last_was_the_best(trained):
    record = json.loads((trained[0].path / "run.json").read_text(encoding="utf-8"))
    cut_off = [stage for stage in record["stages"] if stage["best_epoch"] == 2]
    hints = [line for line in str(trained[0]).splitlines() if "more epochs may help" in line]
    assert len(hints) == bool(cut_off)
    rows = [{"learning_rate": 0.1}] * 2

    def improves(**changes):
        given = {"history": rows, "best": 2, "stage": HEAD, "more": {}} | changes
        return StageResult(table=None, cut="", proof=None, seconds=0.0, trunk_macs=0, xla=False, **given).still_improves

    assert improves()
    assert not improves(best=1) and not improves(stage=HEAD.replace(epochs=3)) and not improves(more={"kept": False})
    solved = {"history": [{"learning_rate": None}], "best": 1, "stage": HEAD.replace(optimizer="lbfgs", epochs=1)}
    assert not improves(**solved)


@pytest.mark.usefixtures("short_network")
def test_stages_that_freeze_again_do_not_use_old_activations(photos_folder, tmp_path):
    """What the first stage moves lies in the trunk of the second, whose activations must be computed after it."""
    stages = (BLOCK.replace(name="first", learning_rate=1e-2), HEAD.replace(name="then", epochs=1))
    run = greffon.train(photos_folder, out=tmp_path / "run", recipe=RECIPE.replace(stages=stages), reporter=Reporter())
    bundle = read_bundle(run.path)
    plain = keras.saving.load_model(run.path / "model.keras")
    probabilities = plain.predict(pixels_of(photos_folder, bundle.table), verbose=0)
    np.testing.assert_allclose(bundle.table.select(pl.col("^p_.*$")).to_numpy(), probabilities, atol=2e-3)


@pytest.mark.usefixtures("short_network")
def test_nothing_frozen_and_statistics_of_the_batch(photos_folder, tmp_path):
    stage = greffon.Stage(name="all", unfreeze="all", batch_norm="train", epochs=1, learning_rate=1e-5)
    run = greffon.train(
        photos_folder, out=tmp_path / "run", recipe=RECIPE.replace(stages=(stage,)), reporter=Reporter()
    )
    record = json.loads((run.path / "run.json").read_text())["stages"][0]
    assert record["cut"] == ""
    assert record["proof"]["moving_statistics"] > 0
    # Not for the training: near-copies are looked for with what the head takes.
    assert run.summary["trunk"]["computed"] == sum(run.summary["pictures"].values())


@pytest.mark.usefixtures("short_network")
def test_the_tutorial_recipe_on_several_labels_compiled_once(photos_folder, tmp_path, monkeypatch):
    traced, step = [], StageTail.train_step
    monkeypatch.setattr(StageTail, "train_step", lambda self, *batch: traced.append(batch) or step(self, *batch))
    monkeypatch.setattr(stage_tail, "_is_short", lambda *_: False)  # steps are timed, as those of a long stage are,
    monkeypatch.setattr(tail, "_SMALL", 0)  # and called one by one, as at the usual size
    recipe = greffon.recipe.RECIPES["tutorial"].replace(weights="thin", image_size=SIDE)
    recipe = recipe.replace(
        stages=(recipe.stages[0].replace(epochs=1),), head=recipe.head.replace(hidden=8, output="sigmoid")
    )
    run = greffon.train(photos_folder, out=tmp_path / "run", recipe=recipe, reporter=Reporter())
    assert not any("folded" in note for note in run.summary["notes"])
    bundle = read_bundle(run.path)
    assert bundle.several_labels
    assert bundle.preprocessing.resize == "stretch"
    assert json.loads((run.path / "run.json").read_text())["stages"][0]["cut"] == "conv5_block2_out"
    assert len(traced) == 1


@pytest.mark.usefixtures("short_network")
def test_a_loss_that_is_no_number_names_the_learning_rate(photos_folder, tmp_path):
    recipe = RECIPE.replace(stages=(HEAD.replace(optimizer="sgd", learning_rate=1e38),))
    with pytest.raises(InputError, match="learning-rate"):
        greffon.train(photos_folder, out=tmp_path / "run", recipe=recipe, reporter=Reporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("short_network")
def test_a_picture_that_goes_bad_is_named(photos_folder, tmp_path, monkeypatch):
    def bad(requests, *options):
        return iter([DataError("blue/1.png: truncated")] * len(requests))

    monkeypatch.setattr(views, "decode_views_many", bad)
    with pytest.raises(DataError, match=r"blue/1\.png"):
        greffon.train(photos_folder, out=tmp_path / "run", recipe=RECIPE, reporter=Reporter())


@pytest.mark.usefixtures("short_network")
def test_numbers_too_large_for_float16_are_kept_in_float32(photos_folder, tmp_path, monkeypatch):
    build = purpose.build_backbone

    def loud(*arguments):
        backbone, record, notes = build(*arguments)
        kernel = backbone.get_layer("conv5_block3_3_conv").kernel
        kernel.assign(kernel * 1e6)
        return backbone, record, notes

    monkeypatch.setattr(purpose, "build_backbone", loud)
    notes = Notes()
    recipe = RECIPE.replace(stages=(HEAD.replace(epochs=1, learning_rate=1e-9),))
    run = greffon.train(photos_folder, out=tmp_path / "run", recipe=recipe, reporter=notes)
    assert run.summary["trunk"]["activations"] == "float32"
    assert any("float16" in text for text in notes.said)


def test_a_run_keeps_small_pictures_and_what_the_network_sees_in_them(run, photos_folder):
    import io

    from PIL import Image

    from greffon.bundle.contract import contract_of
    from greffon.bundle.neighbours import read_neighbours
    from greffon.pictures.decode import decode

    bundle = read_bundle(run.path)
    kept = read_neighbours(bundle)
    assert [probe["origin"] for probe in contract_of(bundle)["probes"]] == ["validation"] * 8
    assert len({probe["label"] for probe in contract_of(bundle)["probes"]}) > 1
    assert set(kept.paths) == set(bundle.split.filter(pl.col("split") == "train")["path"])
    assert [bundle.class_names[label] for label in kept.labels] == [path.split("/")[0] for path in kept.paths]
    with Image.open(io.BytesIO(kept.thumbnails[3])) as small:
        assert (small.format, max(small.size)) == ("JPEG", SIDE)
    pixels = np.stack([decode(photos_folder / path, SIDE, bundle.preprocessing.resize) for path in kept.paths])
    (features,) = greffon.load(run.path).engine.run([pixels], wanted=["features"])
    cosines = (features * kept.features).sum(axis=1) / np.linalg.norm(features, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


@pytest.mark.usefixtures("short_network")
def test_without_pictures_nothing_of_them_is_in_a_run(photos_folder, tmp_path):
    recipe = RECIPE.replace(stages=(HEAD.replace(epochs=1),), head=greffon.Head(pool="grid2"), image_size=64)
    with_them = greffon.train(photos_folder, out=tmp_path / "with", recipe=recipe, reporter=Reporter())
    assert (with_them.path / "neighbours.npz").is_file()  # also behind a pooling that is not the average
    run = greffon.train(photos_folder, out=tmp_path / "without", recipe=recipe, reporter=Reporter(), pictures=False)
    contract = json.loads((run.path / "contract.json").read_text(encoding="utf-8"))
    assert [probe["origin"] for probe in contract["probes"]] == ["rendered"] * 8
    for file in run.path.rglob("*"):
        if file.is_file() and file.parent.name != "probes":
            content = file.read_bytes()
            assert not any(start in content for start in (b"\x89PNG", b"\xff\xd8\xff", b"features.npy")), file
