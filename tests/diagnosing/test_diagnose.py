"""Each cause is planted alone in a small run, and has to come first; a run without any has none."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from planted import NAMES, SIDE, labels_of, render, rewritten, train

import greffon
from greffon.diagnosing.labelling import try_shifts
from greffon.diagnosing.outputs import try_class_order
from greffon.diagnosing.subject import Subject
from greffon.errors import DataError, InputError
from greffon.frozen.store import ActivationStore
from greffon.training.progress import Reporter

EXPERIMENTS = {"class order": try_class_order, "labels off by some rows": try_shifts}


def first_of(run, cause, **options):
    """The finding of a cause, once it is the first."""
    found = greffon.diagnose(run, **options)
    assert found.findings[0].verdict == "found", str(found)
    assert found.findings[0].cause == cause, str(found)
    return found.findings[0]


@pytest.fixture(params=["alone", pytest.param("whole", marks=pytest.mark.large)])
def found_of(request, loaded, healthy, tmp_path):
    """The finding of a cause that is planted in the healthy run: of all experiments in the large run, else of its own.

    That one looks at the run in memory, which takes a fraction of the time.
    """

    def alone(cause, *, class_names=None, split=None):
        run = copy.copy(loaded)
        run.bundle = replace(loaded.bundle, class_names=class_names or loaded.bundle.class_names)
        if split is not None:
            run.bundle.__dict__["split"] = split
        options = {"columns": None, "most": 1000, "store": ActivationStore(), "progress": Reporter()}
        found = EXPERIMENTS[cause](Subject(run, None, **options))
        assert found.verdict == "found", found
        return found

    def whole(cause, **changes):
        return first_of(rewritten(healthy, tmp_path / "run", **changes), cause)

    return alone if request.param == "alone" else whole


@pytest.fixture(scope="module")
def loaded(healthy):
    return greffon.load(healthy)


@pytest.fixture(scope="module")
def diagnosed(loaded):
    return greffon.diagnose(loaded)


def test_a_run_without_a_fault_has_none(diagnosed, healthy):
    assert diagnosed.ok, str(diagnosed)
    assert len({it.cause for it in diagnosed.findings}) == 12
    assert [it.cause for it in diagnosed.findings if it.verdict == "not tested"] == []
    assert diagnosed.path == healthy / "diagnosis.json"
    assert json.loads(diagnosed.path.read_text()) == json.loads(json.dumps(diagnosed.to_dict()))
    assert "None of 12 causes was found." in str(diagnosed)
    greffon.load(healthy)  # the file is none that a run may not hold


@pytest.mark.usefixtures("place")
def test_the_command_to_look_at_the_pictures_is_whole(loaded):
    options = {"columns": None, "most": 1000, "store": None, "progress": Reporter()}
    root = loaded.bundle.record["root"]
    for data in (None, root):
        command = Subject(loaded, data, **options).check_command
        assert shlex.split(command) == ["greffon", "check", root, "--weights", "thin", "--image-size", str(SIDE)]


@pytest.mark.usefixtures("place")
def test_outputs_in_another_order(found_of):
    found = found_of("class order", class_names=("frame", "wedge", "circle", "ladder"))
    assert found.change.now < 0.1
    assert found.change.without > 0.9
    assert found.details["order"] == [2, 0, 3, 1]


@pytest.mark.usefixtures("place")
def test_moved_labels(found_of, loaded):
    rows = loaded.bundle.split.sample(fraction=1.0, shuffle=True, seed=0)
    labels = rows["label"].to_list()
    found = found_of("labels off by some rows", split=rows.with_columns(label=pl.Series(labels[1:] + labels[:1])))
    assert found.details["order"] == "moved by +1 row"
    assert found.change.gain > 0.5


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_a_healthy_run_that_was_fine_tuned_has_none(easy, tmp_path):
    stages = (
        greffon.Stage(name="probe", optimizer="lbfgs"),
        greffon.Stage(name="last", unfreeze="conv5_block3", learning_rate=1e-4, epochs=4, only_if_better=True),
    )
    found = greffon.diagnose(train(easy, tmp_path / "run", *stages))
    assert found.ok, str(found)


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_a_run_by_the_default_recipe_whose_head_pools_all_blocks(easy, tmp_path, monkeypatch):
    monkeypatch.setattr("greffon.training.pooling.choose_pool", lambda *_: ("blocks2", {"blocks2": 0.1}))
    recipe = greffon.Recipe()
    run = train(easy, tmp_path / "run", *recipe.stages, head=recipe.head)
    found = greffon.diagnose(run)
    assert found.ok, str(found)
    [rate] = [it for it in found.findings if it.cause == "learning rate"]
    assert rate.verdict == "not found", str(rate)
    assert [it.cause for it in found.findings if it.verdict == "not tested"] == []


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_wrong_preprocessing(hard, tmp_path):
    found = first_of(train(hard, tmp_path / "run", preprocessing="tf"), "wrong preprocessing")
    assert "--preprocessing caffe" in found.advice  # what the embedded weights want but for a grey level
    assert found.change.interval[0] > 0.1


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_shuffled_labels(easy, tmp_path):
    paths, labels = labels_of(easy)
    labels = [labels[place] for place in np.random.default_rng(3).permutation(len(labels))]
    found = first_of(
        train(pl.DataFrame({"path": paths, "label": labels}), tmp_path / "run"), "labels shuffled or constant"
    )
    assert found.details["p"] > 0.05


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_constant_labels(healthy, tmp_path):
    from greffon.bundle.read import read_bundle

    split = read_bundle(healthy).split
    constant = pl.when(pl.col("split") == "train").then(pl.lit("frame")).otherwise(pl.col("label"))
    found = first_of(
        rewritten(healthy, tmp_path / "run", split=split.with_columns(label=constant)), "labels shuffled or constant"
    )
    assert "'frame'" in found.said


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_one_class_for_everything(healthy, tmp_path):
    def raise_bias(model):
        kernel, bias = model.get_layer("head_output").get_weights()
        bias[2] += 60
        model.get_layer("head_output").set_weights([kernel, bias])

    found = first_of(rewritten(healthy, tmp_path / "run", change=raise_bias), "one class predicted")
    assert found.details["class"] == NAMES[2]
    assert found.details["share"] == 1.0


@pytest.mark.large
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("rate", "unfreeze", "too", "pool"),
    [
        (1e-7, "none", "too low", "avg"),
        (1e-7, "none", "too low", "blocks2"),
        # A head that reads all blocks names these pictures by the earlier ones, whatever a rate does to the last block.
        (0.1, "conv5_block3", "too high", "avg"),
        (1e-2, "all", "too high", "blocks2"),
    ],
)
def test_learning_rate(easy, tmp_path, rate, unfreeze, too, pool):
    stage = greffon.Stage(epochs=5, learning_rate=rate, unfreeze=unfreeze, keep_best=False)
    head = greffon.Head(pool=pool, kept_share=0.25)
    found = first_of(train(easy, tmp_path / "run", stage, head=head), "learning rate")
    assert found.details["too"] == too
    assert found.details["history"]["head"]


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_too_few_pictures(tmp_path):
    few = render(tmp_path / "pictures", (7,) * 4, noise=20.0, contrast=0.25)
    found = first_of(train(few, tmp_path / "run"), "too few pictures")
    low, high = found.change.interval
    assert 0 < low < found.change.gain <= high


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_copies_on_both_sides(tmp_path):
    from PIL import Image

    from greffon.pictures.catalog import Catalog

    pictures = render(tmp_path / "pictures", (20,) * 4, noise=30.0, contrast=0.25)
    for file in sorted(pictures.rglob("*.png")):
        Image.open(file).resize((80, 80)).save(file.with_name(f"{file.stem}-copy.png"))
    rows = Catalog.from_folder(pictures).ok
    copies = pl.col("path").str.contains("copy") & (pl.int_range(pl.len()) % 3 < 2)
    side = pl.when(copies).then(pl.lit("val")).otherwise(pl.lit("train"))
    rows.with_columns(split=side).select("hash", "label", "split", "path").write_parquet(tmp_path / "split.parquet")
    found = first_of(train(pictures, tmp_path / "run", split=tmp_path / "split.parquet"), "leak")
    assert found.change.gain < -0.05
    assert found.details["share"] > 0.8


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_imbalance(tmp_path):
    pictures = render(tmp_path / "pictures", (70, 10, 10, 10), noise=30.0, contrast=0.3)
    found = first_of(train(pictures, tmp_path / "run"), "class imbalance")
    assert found.change.measure == "balanced accuracy"


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_wrong_labels(easy, tmp_path):
    paths, labels = labels_of(easy)
    random = np.random.default_rng(5)
    labels = [NAMES[random.integers(4)] if random.random() < 0.25 else label for label in labels]
    found = first_of(train(pl.DataFrame({"path": paths, "label": labels}), tmp_path / "run"), "label noise")
    low, high = found.details["estimated_share_interval_95"]
    assert low < 0.19 < high  # three of four draws give another label


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_a_head_that_learned_by_heart(easy, tmp_path):
    """All numbers that the pictures to learn from leave open are by chance: right on these, and on no others."""
    from greffon.bundle.read import read_bundle

    first = train(easy, tmp_path / "first", head=greffon.Head(pool="flatten"))

    def fill(model):
        import keras

        from greffon.pictures.decode import decode

        split = read_bundle(first).split.filter(pl.col("split") == "train")
        pixels = np.stack([decode(easy / path, SIDE, "crop") for path in split["path"]]).astype(np.float32)
        flat = keras.Model(model.input, model.get_layer("head_output").input).predict(pixels, verbose=0)
        kernel, bias = model.get_layer("head_output").get_weights()
        chance = np.random.default_rng(0).normal(size=kernel.shape) * 20 * kernel.std()
        known = np.linalg.qr(flat.T.astype(np.float64))[0]
        chance -= known @ (known.T @ chance)
        model.get_layer("head_output").set_weights([kernel + chance, bias])

    found = first_of(rewritten(first, tmp_path / "run", change=fill), "head too large")
    assert found.details["accuracy_on_training_pictures"] > 0.9
    assert found.change.without > 0.9


@pytest.mark.large
@pytest.mark.usefixtures("place")
def test_stored_statistics_of_something_else(easy, tmp_path):
    import keras

    def move(model):
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                gamma, beta, mean, variance = layer.get_weights()
                layer.set_weights([gamma, beta, mean + 4 * np.sqrt(variance), variance])

    stages = (
        greffon.Stage(name="probe", optimizer="lbfgs"),
        greffon.Stage(
            name="last", epochs=1, learning_rate=1e-5, unfreeze="conv5_block3", batch_norm="train", keep_best=False
        ),
    )
    run = rewritten(train(easy, tmp_path / "first", *stages), tmp_path / "run", change=move)
    found = first_of(run, "BatchNorm gap")
    assert found.details["batch_norms_on_batch_statistics"] == 3
    assert found.change.without > 0.8  # of 28 pictures, with the statistics of these alone


@pytest.mark.usefixtures("place")
def test_moved_pictures_are_found_by_content_and_gone_ones_are_told(healthy, easy, tmp_path):
    run = shutil.copytree(healthy, tmp_path / "run")
    moved = shutil.copytree(easy, tmp_path / "moved")
    for file in sorted(moved.rglob("00*.png")):
        file.unlink()
    predictor = greffon.load(run)
    options = {"columns": None, "most": 1000, "store": None, "progress": Reporter()}
    predictor.bundle.__dict__["record"] = {}  # it does not say where they were
    subject = Subject(predictor, moved, **options)
    assert len(subject.frame) == 96 - 40
    assert any("40 of 96 pictures are gone" in note for note in subject.notes)
    with pytest.raises(DataError, match="--data"):
        Subject(predictor, None, **options)


@pytest.mark.parametrize("pictures", [19, 1.5, True, -1])
def test_too_few_to_look_at_is_refused(healthy, pictures):
    with pytest.raises(InputError, match="pictures must be a whole number"):
        greffon.diagnose(healthy, pictures=pictures)


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="no run"):
        greffon.diagnose(tmp_path)
