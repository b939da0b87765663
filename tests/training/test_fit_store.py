"""Activations are kept between calls and processes; pictures are known by their content; changing ones are noticed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fit_sides import CLASSES, SHAPE, assert_same_history, both, compiled, small_network

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen import store as store_module  # noqa: E402
from greffon.frozen.activations import Activations  # noqa: E402
from greffon.frozen.store import ActivationStore  # noqa: E402
from greffon.training.fit import fit  # noqa: E402

CHANGING = "the pictures change from one pass to the next"


def build(**options):
    return compiled(small_network(**options))


def report(model, *args, **options):
    return fit(model, *args, **{"verbose": 0, "batch_size": 8} | options).greffon


SCRIPT = """
import json, sys
import numpy as np
sys.path.insert(0, {folder!r})
from fit_sides import compiled, small_network
import keras
keras.layers.Conv2D(3, 3), keras.layers.Dense(3)  # other automatic names than in the first process
from greffon.training.fit import fit
data = np.load({file!r})
history = fit(compiled(small_network()), data["x"], data["y"], batch_size=8, epochs=2, verbose=0)
print("report", json.dumps(history.greffon.to_dict() | {{"loss": history.history["loss"]}}))
"""


def test_second_process_runs_the_trunk_zero_times(data, tmp_path):
    file = tmp_path / "data.npz"
    np.savez(file, x=data.x, y=data.y)
    first = report(build(), data.x, data.y)
    assert (first.computed, first.stored, first.engine) == (40, 40, "onnx")
    script = SCRIPT.format(folder=str(Path(__file__).parent), file=str(file))
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, check=True)
    second = json.loads(done.stdout.split("report ")[1])
    assert second["computed"] == 0
    assert second["engine"] is None
    assert second["reused"] == 40
    assert second["why_not"] is None
    assert len(second["loss"]) == 2


def test_pictures_are_known_in_any_order_from_any_source_and_in_any_dtype(data):
    import tensorflow as tf

    report(build(), data.x, data.y)
    order = np.random.default_rng(3).permutation(40)
    dataset = tf.data.Dataset.from_tensor_slices((data.x.astype("float32"), data.y)).shuffle(40).batch(7)
    for again in (
        report(build(), data.x[order], data.y[order]),
        report(build(), data.x.astype("float32"), data.y),
        report(build(), dataset, shuffle=False),
        report(build(), tf.constant(data.x), data.y),
    ):
        assert (again.computed, again.engine) == (0, None)
        assert again.reused >= 40


def test_dataset_is_computed_once_and_an_array_of_the_same_pictures_not_at_all(data):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((data.x, data.y)).batch(8)
    first = report(build(), dataset, shuffle=False, epochs=3)
    assert (first.computed, first.stored, first.reused) == (40, 40, 80)
    assert report(build(), data.x, data.y).computed == 0


def test_five_more_pictures_cost_five(data):
    report(build(), data.x[:35], data.y[:35])
    assert report(build(), data.x, data.y).computed == 5


def test_another_head_costs_nothing_and_other_weights_cost_everything(data):
    report(build(), data.x, data.y)
    model = small_network()
    other = compiled(
        keras.Sequential([keras.Model(model.input, model.get_layer("flat").output), layers.Dense(CLASSES, "softmax")])
    )
    assert report(other, data.x, data.y).computed == 0
    model = build()
    kernel = model.get_layer("conv1").kernel
    kernel.assign(kernel * 1.001)
    assert report(model, data.x, data.y).computed == 40


def test_float16_takes_half_the_room_and_is_kept_apart(data):
    wide = fit(build(), data.x, data.y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    keras.utils.set_random_seed(9)
    narrow = fit(build(), data.x, data.y, batch_size=8, epochs=2, verbose=0, shuffle=False, activations="float16")
    assert narrow.greffon.computed == 40
    np.testing.assert_allclose(narrow.history["loss"], wide.history["loss"], rtol=1e-2)
    with ActivationStore() as store:
        sizes = {np.dtype(info.tensors[0].dtype): info.tensors[0].nbytes for info in store.info()}
    assert sizes == {np.dtype("float32"): 8 * 8 * 8 * 4, np.dtype("float16"): 8 * 8 * 8 * 2}


def large_activations():
    keras.utils.set_random_seed(1)
    pictures = keras.Input(SHAPE)
    x = layers.Flatten()(layers.Rescaling(1e4)(layers.Conv2D(4, 3, trainable=False)(pictures)))
    return compiled(keras.Model(pictures, layers.Dense(CLASSES, activation="softmax")(layers.LayerNormalization()(x))))


@pytest.mark.parametrize("as_dataset", [False, True])
def test_numbers_beyond_float16_are_kept_in_float32_and_it_is_said(data, as_dataset, capsys):
    import tensorflow as tf

    def source():
        columns = (data.x, data.y)
        return (tf.data.Dataset.from_tensor_slices(columns).batch(8),) if as_dataset else columns

    options = {"epochs": 2, "shuffle": False} | ({} if as_dataset else {"batch_size": 8})
    history = fit(large_activations(), *source(), activations="float16", verbose=2, **options)
    expected = large_activations().fit(*source(), verbose=0, **options).history["loss"]
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-4)
    (note,) = history.greffon.notes
    assert "beyond the range of float16" in note
    assert capsys.readouterr().out.count("beyond the range of float16") == 1


@pytest.mark.filterwarnings("ignore:activations are computed again instead of kept")
@pytest.mark.parametrize("as_dataset", [False, True])
def test_store_that_cannot_be_used_is_said_and_training_goes_on(data, as_dataset, tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "a file"))

    def arguments():
        import tensorflow as tf

        if as_dataset:
            return {"x": tf.data.Dataset.from_tensor_slices((data.x, data.y)).batch(8), "shuffle": False}
        return {"x": data.x, "y": data.y, "batch_size": 8}

    run = both(build, lambda: arguments() | {"verbose": 2, "epochs": 2})
    assert_same_history(run, pictures=40)
    assert run.report.stored == 0
    assert run.report.computed == (80 if as_dataset else 40)  # arrays are held in memory
    (note,) = run.report.notes
    assert "activations are not kept" in note
    assert "activations are not kept" in capsys.readouterr().out


def test_activations_that_do_not_fit_the_memory_are_read_from_the_store(data, monkeypatch):
    memory = {"of": []}
    original = Activations.__init__

    def poor(self, *args, **options):
        original(self, *args, **options | {"memory": 0})
        memory["of"].append(self)

    monkeypatch.setattr(Activations, "__init__", poor)
    run = both(build, lambda: {"x": data.x, "y": data.y, "batch_size": 8})
    assert_same_history(run, pictures=40)
    assert run.report.computed == 40
    assert run.report.reused >= 3 * 40
    assert not any(activations.in_memory for activations in memory["of"])


def test_what_neither_memory_nor_store_can_hold_is_computed_again(data, monkeypatch):
    original = Activations.__init__
    monkeypatch.setattr(
        Activations, "__init__", lambda self, *args, **options: original(self, *args, **options | {"memory": 0})
    )
    monkeypatch.setattr(store_module, "_MOST_BYTES", 10 * 8 * 8 * 8 * 4)
    run = both(build, lambda: {"x": data.x, "y": data.y, "batch_size": 8, "epochs": 2})
    assert_same_history(run, pictures=40)
    assert run.report.stored < 40
    assert run.report.computed > 40


# --- pictures that change ---------------------------------------------------------------------------------------------


def augmented(data):
    """A dataset that shifts the brightness of every picture, drawn anew in every pass."""
    import tensorflow as tf

    random = tf.random.Generator.from_seed(3)
    made = tf.data.Dataset.from_tensor_slices((data.x.astype("float32"), data.y))
    return made.map(lambda x, y: (x + random.uniform((), -20.0, 20.0), y)).batch(8)


class Augmented(keras.utils.PyDataset):
    def __init__(self, data, *, plain_passes=0, **options):
        super().__init__(**options)
        self.data, self.random, self.plain_passes = data, np.random.default_rng(5), plain_passes
        self.passes = 0

    def on_epoch_begin(self):
        self.passes += 1

    def __len__(self):
        return math.ceil(len(self.data.x) / 8)

    def __getitem__(self, index):
        rows = slice(index * 8, (index + 1) * 8)
        shift = self.random.uniform(-20, 20) if self.passes > self.plain_passes else 0.0
        return self.data.x[rows] + shift, self.data.y[rows]


@pytest.mark.parametrize("source", [augmented, Augmented])
def test_pictures_that_change_are_noticed_said_once_and_not_kept(data, source, capsys):
    def arguments():
        return {"x": source(data), "shuffle": False, "epochs": 4, "verbose": 2, "validation_data": (data.vx, data.vy)}

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert run.report.computed == 12 + 4 * 40
    (note,) = run.report.notes
    assert CHANGING in note
    assert capsys.readouterr().out.count(CHANGING) == 1
    with ActivationStore() as store:
        assert sum(info.entries for info in store.info()) == 12  # those of the validation


def test_validation_pictures_that_change_are_noticed_too(data):
    def arguments():
        return {"x": data.x, "y": data.y, "batch_size": 8, "validation_data": augmented(data), "validation_freq": 2}

    run = both(build, lambda: arguments() | {"epochs": 4})
    assert_same_history(run, pictures=40)
    assert CHANGING in run.report.notes[0]
    with ActivationStore() as store:
        assert sum(info.entries for info in store.info()) == 40


def test_known_pictures_survive_a_training_with_changing_ones(data):
    """What an earlier training stored is not this one's to remove."""
    report(build(), data.x, data.y)
    changing = report(build(), Augmented(data, plain_passes=1), shuffle=False, epochs=3)
    assert CHANGING in changing.notes[0]
    assert (changing.reused, changing.computed) == (40, 80)
    assert report(build(), data.x, data.y).computed == 0


def test_pictures_that_come_back_are_kept_although_others_change(data):
    """Half of the pictures stand still: that is no source whose pictures change."""

    class Half(Augmented):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return np.where(np.arange(8)[:, None, None, None] % 2, x, self.data.x[index * 8 : index * 8 + 8]), y

    given = report(build(), Half(data), shuffle=False, epochs=3)
    assert given.notes == []
    assert given.reused == 2 * 20


@pytest.mark.parametrize("shuffled", [False, True])
def test_plain_finite_dataset_is_never_accused(data, shuffled):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((data.x, data.y))
    dataset = (dataset.shuffle(40) if shuffled else dataset).batch(8)
    held_out = tf.data.Dataset.from_tensor_slices((data.vx, data.vy)).batch(5)
    given = report(build(), dataset, shuffle=False, epochs=4, validation_data=held_out, validation_freq=2)
    assert given.notes == []
    assert given.computed == 52


def test_unseen_pictures_with_steps_per_epoch_are_simply_computed(data):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((data.x, data.y)).batch(8).repeat()
    given = report(build(), dataset, shuffle=False, epochs=2, steps_per_epoch=2)
    assert given.notes == []
    # Two passes without one known picture; what was prefetched behind them counts as well.
    assert 32 <= given.computed <= 40


def test_changing_pictures_with_as_many_steps_as_the_source_has_are_noticed(data):
    given = report(build(), Augmented(data), shuffle=False, epochs=3, steps_per_epoch=5)
    assert CHANGING in given.notes[0]
