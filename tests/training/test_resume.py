"""A training that is interrupted, and what it ends with."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import polars as pl
import pytest
from dying import Dies, Killed
from short import short_backbone

import greffon
from greffon.bundle.read import read_bundle
from greffon.errors import DataError, InputError
from greffon.pictures.catalog import Catalog
from greffon.training import checkpoint, kept_pictures, purpose, stage_memory, stage_tail, tail
from greffon.training.choices import Choices
from greffon.training.interrupts import InterruptedTraining, Interrupts
from greffon.training.ordered import StageFeed
from greffon.training.partial import Partial, partial_of
from greffon.training.progress import Reporter
from greffon.training.reproduce import compare

DOCUMENT = Path(__file__).parents[2] / "docs" / "resume.md"
CLASSES = ("blue", "red", "stripes")
RECIPE = greffon.Recipe(
    weights="none",
    image_size=32,
    views=2,
    feature_noise=0.05,
    head=greffon.Head(pool="auto", dropout=0.2),
    stages=(
        greffon.Stage(name="probe", optimizer="lbfgs"),
        greffon.Stage(name="head", learning_rate=1e-3, epochs=2, batch_size=8, patience=None),
        greffon.Stage(name="block", unfreeze="conv5", learning_rate=1e-3, epochs=2, batch_size=8, only_if_better=True),
    ),
)


def render(folder, count=10):
    from PIL import Image

    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.normal(80, 30, (36, 40, 3))
            pixels[..., label] += 60
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A small network, and checkpoints inside epochs, as large activations have them."""
    monkeypatch.setattr(purpose, "build_backbone", short_backbone())
    monkeypatch.setattr(tail, "_SMALL", 0)


def digest(run):
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    files = [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("validation.parquet", "history.csv")]
    return [record["weights_sha256"], *files, [stage["proof"]["digest"] for stage in record["stages"]]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Pictures, and a training of them that nobody interrupts; with a cache that lasts as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(purpose, "build_backbone", short_backbone())
        patch.setattr(tail, "_SMALL", 0)
        folder = render(tmp_path_factory.mktemp("pictures") / "all")
        out = tmp_path_factory.mktemp("runs") / "run"
        run = greffon.train(folder, out=out, recipe=RECIPE, reporter=Reporter(), checkpoint_every=0.0)
        yield SimpleNamespace(folder=folder, run=run, digest=digest(run.path))


class DiesWhenTold(Dies):
    """In a note, too."""

    def note(self, text):
        if self.what in text:
            raise Killed


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self):
        self.warned, self.noted, self.told = [], [], []

    def note(self, text):
        self.noted.append(text)

    def warn(self, text):
        self.warned.append(text)

    def epoch(self, stage, epoch, epochs, logs, best):
        self.told.append((stage, epoch))


def dies_at_checkpoint(monkeypatch, number, *, before):
    """The process ends before or behind the writing of a checkpoint, counted over the training."""
    real, count = checkpoint.save_state, [0]

    def save(file, state):
        count[0] += 1
        if not before:
            real(file, state)
        if count[0] == number:
            raise Killed
        if before:
            real(file, state)

    monkeypatch.setattr("greffon.training.partial.save_state", save)


@pytest.mark.large  # a handful of real kills is in test_kills.py
@pytest.mark.parametrize(
    "moment",
    [
        ("checkpoint", 9, False),  # inside an epoch of the block
        ("told", "block 2", None),
        *(("checkpoint", number, number % 2) for number in range(1, 13)),
    ],
)
def test_a_killed_training_ends_as_if_it_had_not_been(undisturbed, tmp_path, monkeypatch, moment):
    kind, when, before = moment
    out = tmp_path / "run"
    reporter = DiesWhenTold(when) if kind == "told" else Reporter()
    with monkeypatch.context() as patch:
        if kind == "checkpoint":
            dies_at_checkpoint(patch, when, before=before)
        with pytest.raises(Killed):
            greffon.train(undisturbed.folder, out=out, recipe=RECIPE, reporter=reporter, checkpoint_every=0.0)
    assert not out.exists() and partial_of(out).is_dir()
    long_ago = {"seconds": 1000.0, "trunk_seconds": 500.0}
    (partial_of(out) / "times.json").write_text(json.dumps(long_ago), encoding="utf-8")
    heard = Heard()
    run = greffon.resume(out, reporter=heard)
    assert digest(run.path) == undisturbed.digest
    assert not partial_of(out).exists()
    assert heard.told == [(row["stage"], row["epoch"]) for row in read_bundle(run.path).history.to_dicts()]
    assert json.loads((run.path / "run.json").read_text())["training"]["resumed"] == 1
    assert any(text.startswith(("goes on ", "all stages had ended")) for text in heard.noted)
    assert run.summary["seconds"] > 1000 and run.summary["trunk_seconds"] >= 500, "of both processes"


@pytest.mark.large
@pytest.mark.parametrize("kind", ["xla", "int8"])
def test_other_engines_give_the_same_bits_again_too(undisturbed, tmp_path, monkeypatch, kind):
    """Interrupted inside an epoch and resumed, and reproduced."""
    recipe = RECIPE
    if kind == "xla":
        monkeypatch.setattr(stage_tail, "XLA_TRIED", 0.0)
        monkeypatch.setattr(stage_tail, "XLA_PAYS", np.inf)
    else:
        recipe = RECIPE.replace(precision="int8", min_agreement=0.0)

    def train(name):
        return greffon.train(
            undisturbed.folder, out=tmp_path / name, recipe=recipe, reporter=Reporter(), checkpoint_every=0.0
        )

    whole = train("whole")
    record = json.loads((whole.path / "run.json").read_text(encoding="utf-8"))
    if kind == "xla":
        assert [stage["xla"] for stage in record["stages"]] == [False, True, True]
    else:
        assert record["trunk"]["precision"] == "int8"
    assert digest(whole.path) != undisturbed.digest
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at_checkpoint(patch, 9, before=False)
        train("killed")
    assert digest(greffon.resume(tmp_path / "killed", reporter=Reporter()).path) == digest(whole.path)
    assert greffon.reproduce(whole.path, reporter=Reporter()).same


def left(out):
    """The checkpoint of a training that was interrupted."""
    partial = Partial.reopen(out)
    partial.release()
    return partial.load()


def test_a_signal_waits_for_the_next_step(undisturbed, tmp_path, monkeypatch):
    """The first one; there is a checkpoint afterwards although none was due, and the training says how to go on."""
    out = tmp_path / "runs" / "first"
    heard = Heard()
    begins = "on_train_batch_begin"
    with monkeypatch.context() as patch, pytest.raises(InterruptedTraining) as stopped:
        patch.setattr(stage_memory.BatchMemory, begins, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        greffon.train(undisturbed.folder, out=out, recipe=RECIPE, reporter=heard)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    state = left(out)
    assert (state["inside"]["epoch"], state["inside"]["step"]) == (0, 1)
    assert state["inside"]["seconds"] > 0
    assert any(f"--resume {out}" in text for text in heard.warned)
    # What is there is not lost by accident.
    with pytest.raises(InputError, match="--resume"):
        greffon.train(undisturbed.folder, out=out, recipe=RECIPE, reporter=Reporter())
    # Pictures that are not the same are not trained on; whoever puts them back can go on.
    moved = undisturbed.folder / "red" / "0.png"
    moved.rename(tmp_path / "0.png")
    try:
        with pytest.raises(DataError, match=r"1 gone: red/0\.png \(put it back\)"):
            greffon.resume(out, reporter=Reporter())
    finally:
        (tmp_path / "0.png").rename(moved)
    # As docs/resume.md has it.
    [program] = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    session = {}
    exec(compile(program, str(DOCUMENT), "exec"), session)
    assert digest(session["run"].path) == undisturbed.digest


@pytest.fixture
def heard_sigint():
    """A shell that starts the tests in the background has them ignore SIGINT, and what is ignored is not watched."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_sigint")
def test_a_second_signal_does_not_wait():
    interrupts = Interrupts()
    with interrupts.watched(), interrupts.waits():
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(InterruptedTraining) as stopped:
            signal.raise_signal(signal.SIGINT)
    assert stopped.value.exit_code == 130
    with Interrupts().watched(), pytest.raises(InterruptedTraining):
        signal.raise_signal(signal.SIGINT)  # nothing to wait for


def test_a_programs_own_handler_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with Interrupts().watched():
            signal.raise_signal(signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


# --- the folder ---


def asked(**more):
    return {"recipe": RECIPE.model_dump(mode="json"), "own_layer": False, "overwrite": False, "data": None} | more


def test_a_full_disk_leaves_the_last_good_checkpoint_and_the_training(tmp_path, monkeypatch):
    partial, warned = Partial.create(tmp_path / "run", asked(), overwrite=False, every=0.0), []
    partial.warn = warned.append
    partial.save({"epoch": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("greffon.training.partial.save_state", full)
        partial.save({"epoch": 2})
        partial.save({"epoch": 3})
    assert partial.load() == {"epoch": 1}
    assert len(warned) == 1 and "No space left on device" in warned[0]
    partial.save({"epoch": 4})
    assert partial.load() == {"epoch": 4}
    partial.discard()
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(tmp_path):
    first = Partial.create(tmp_path / "run", asked(), overwrite=False)
    for again in (
        lambda: Partial.reopen(tmp_path / "run"),
        lambda: Partial.create(tmp_path / "run", asked(), overwrite=True),
    ):
        with pytest.raises(InputError, match="another process"):
            again()
    first.release()
    again = Partial.reopen(tmp_path / "run.partial")
    assert again.out == tmp_path / "run"
    again.release()


def test_nothing_is_lost_by_accident(tmp_path):
    out = tmp_path / "run"
    partial = Partial.create(out, asked(), overwrite=False)
    partial.release()
    partial = Partial.create(out, asked(), overwrite=False)  # there was no checkpoint yet
    partial.save({"epoch": 1})
    partial.release()
    with pytest.raises(InputError, match=r"greffon train --resume .*--overwrite"):
        Partial.create(out, asked(), overwrite=False)
    begun = Partial.create(out, asked(), overwrite=True)
    assert begun.load() is None
    begun.discard()
    partial_of(out).mkdir()
    (partial_of(out) / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        Partial.create(out, asked(), overwrite=True)
    assert (partial_of(out) / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "", "{", '{"version": 99}'])
def test_what_cannot_be_resumed(tmp_path, content):
    if content is not None:
        partial_of(tmp_path / "run").mkdir()
        (partial_of(tmp_path / "run") / "job.json").write_text(content)
    with pytest.raises(InputError, match=r"no interrupted training|another version"):
        greffon.resume(tmp_path / "run", reporter=Reporter())


def test_a_training_that_ended_is_not_resumed(undisturbed):
    with pytest.raises(InputError, match=r"is whole.*--reproduce"):
        greffon.resume(undisturbed.run.path, reporter=Reporter())


def test_objects_of_a_process_that_is_gone(tmp_path):
    Partial.create(tmp_path / "run", asked(split=None, manifest=None, columns=None), overwrite=False).release()
    with pytest.raises(InputError, match="an object in Python"):
        greffon.resume(tmp_path / "run", reporter=Reporter())
    own = asked(own_layer=True, split=None)
    Partial.create(tmp_path / "own", own, overwrite=False).release()
    with pytest.raises(InputError, match="layer given in Python"):
        greffon.resume(tmp_path / "own", reporter=Reporter())
    with pytest.raises(InputError, match=r"that was given has none"):
        greffon.resume(tmp_path / "own", recipe=greffon.Recipe(), reporter=Reporter())


def test_another_recipe_than_that_of_the_training_is_named_by_what_differs(tmp_path):
    Partial.create(tmp_path / "run", asked(split=None, manifest=None, columns=None), overwrite=False).release()
    with pytest.raises(InputError, match=r"the training began with: seed differs; it is kept .* left out"):
        greffon.resume(tmp_path / "run", recipe=RECIPE.replace(seed=5), reporter=Reporter())


def test_what_to_do_with_pictures_that_are_not_the_same_is_said_for_each_kind(tmp_path):
    before, now = Catalog.from_folder(render(tmp_path / "a", count=3)), render(tmp_path / "b", count=4)
    (now / "red" / "1.png").unlink()
    (now / "red" / "2.png").write_bytes((now / "blue" / "0.png").read_bytes())
    with pytest.raises(DataError) as refused:
        kept_pictures.check_same_data(before, Catalog.from_folder(now), "the interrupted training")
    said = str(refused.value)
    for line in ("1 gone: red/1.png (put it back)", "red/2.png", "(take them away again)", "Or train anew"):
        assert line in said
    assert kept_pictures.is_gone(str(tmp_path / "c")) and not kept_pictures.is_gone(now)
    assert not any(map(kept_pictures.is_gone, ("https://host/photos", str(tmp_path / "*.tar"), [1, 2])))


def test_where_an_interrupted_training_goes_on():
    memory = stage_memory.Memory(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    assert memory.where(RECIPE.stages) == "goes on at the beginning of stage 'probe'"
    memory.finished = [{}]
    memory.inside = {"epoch": 1, "step": 3, "seconds": 50.0}
    assert memory.where(RECIPE.stages) == (
        "goes on in stage 'head', epoch 2 of 2, behind step 3; what ran before is told again"
    )
    memory.stage_begins()
    assert memory.stage_seconds > 50
    memory.finished = [{}] * 3
    assert memory.where(RECIPE.stages).startswith("all stages had ended")


# --- order, choices ---


class Rows:
    """Stands where activations stand: a row is its number."""

    in_memory, shapes, dtypes = True, [(1,)], [np.dtype(np.float32)]

    def __len__(self):
        return 20

    def gather(self, rows):
        return [np.asarray(rows, np.float32)[:, None]]


def passes(feed, count):
    found = []
    for _ in range(count):
        feed.on_epoch_begin()
        if keras.backend.backend() == "tensorflow":
            batches = [batch[0].numpy().ravel() for batch in feed.get_tf_dataset()]
        else:
            batches = [np.asarray(batch[0]).ravel() for batch in feed.get_numpy_iterator()]
        found.append([batch.tolist() for batch in batches])
        feed.on_epoch_end()
    return found


@pytest.mark.parametrize("weighted", [False, True])
def test_an_epoch_begins_at_any_batch(weighted):
    y = np.eye(2, dtype=np.float32)[np.arange(10) % 2]

    def feed():
        rows = np.arange(20).reshape(10, 2)
        weights = np.ones(10, np.float32) if weighted else None
        return StageFeed(Rows(), rows=rows, y=y, batch_size=4, shuffle=True, seed=3, sample_weight=weights)

    whole = passes(feed(), 3)
    assert [len(batch) for batch in whole[0]] == [4, 4, 2]
    assert all(sorted(row // 2 for batch in epoch for row in batch) == list(range(10)) for epoch in whole)
    assert len({str(epoch) for epoch in whole}) == 3  # other orders and views in every epoch
    later = feed()
    later.at(1, skipped=2)
    assert passes(later, 2) == [whole[1][2:], whole[2]]


def test_what_was_chosen_by_timing_is_chosen_again():
    from greffon.frozen.graph import flatten

    graph = flatten(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]))
    kept = []
    first = Choices(changed=kept.append)
    first.engine(graph, pictures=1)
    assert first.xla("a", lambda: True)
    [engine] = kept[-1]["engines"].values()
    assert engine["engine"] == "onnx" and kept[-1]["xla"] == {"a": True}
    other = json.loads(json.dumps(kept[-1]))
    name = next(iter(other["engines"]))
    other["engines"][name] |= {"threads": 1, "batch_size": 3}
    again = Choices(other).engine(graph, pictures=100_000)
    assert (again.threads, again.batch_size) == (1, 3)
    other["engines"][name]["engine"] = "keras"
    assert Choices(other).engine(graph, pictures=1).name == "keras"


# --- reproducing ---


def test_a_run_is_reproduced_to_the_bit(undisturbed, tmp_path):
    found = greffon.reproduce(undisturbed.run.path, out=tmp_path / "again", reporter=Reporter())
    assert found.same and found.history_equal and found.path == tmp_path / "again"
    assert digest(found.path) == undisturbed.digest
    assert json.loads(json.dumps(found.to_dict()))["same"] is True
    assert "the same to the bit" in str(found)


def test_how_far_two_runs_are_apart(undisturbed):
    bundle = read_bundle(undisturbed.run.path)
    table = bundle.table
    moved = SimpleNamespace(
        record=bundle.record | {"weights_sha256": "other", "log_loss": bundle.record["log_loss"] + 1.0},
        table=table.with_columns(pl.col("p_blue") * 0.5),
        history=bundle.history,
        model=lambda: moved_model(bundle.model()),
    )
    found = compare(bundle, moved)
    assert not found.same and not found.weights_equal and found.history_equal
    assert found.weights_apart[0] == pytest.approx(0.25) and "bias" in found.weights_apart[1]
    assert found.probabilities_apart == pytest.approx(float(table["p_blue"].max()) / 2)
    assert "not the same" in str(found) and "log_loss" in str(found)
    moved.table = table.head(2)
    with pytest.raises(InputError, match="same pictures"):
        compare(bundle, moved)


def moved_model(model):
    bias = model.get_layer("head_output").bias
    bias.assign(bias + 0.25)
    return model


def test_a_run_whose_pictures_changed_is_not_reproduced(undisturbed, tmp_path, monkeypatch):
    pictures = shutil.copytree(undisturbed.folder, tmp_path / "pictures")
    real = kept_pictures.catalog_of_run
    monkeypatch.setattr(
        "greffon.training.reproduce.catalog_of_run", lambda bundle: replace(real(bundle), root=pictures)
    )
    (pictures / "red" / "0.png").write_bytes((pictures / "blue" / "0.png").read_bytes())
    (pictures / "red" / "1.png").unlink()
    with pytest.raises(DataError) as refused:
        greffon.reproduce(undisturbed.run.path, reporter=Reporter())
    assert "1 gone: red/1.png" in str(refused.value) and "1 changed: red/0.png" in str(refused.value)
    shutil.rmtree(pictures)
    with pytest.raises(DataError, match="is gone"):
        greffon.reproduce(undisturbed.run.path, reporter=Reporter())
