"""Threads and batch size: measured once, remembered by machine and kind of graph, and only a matter of speed."""

from __future__ import annotations

import json

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.errors import InputError  # noqa: E402
from greffon.frozen import remembered  # noqa: E402
from greffon.frozen import tuning as tuning_module  # noqa: E402
from greffon.frozen.build import build_engine  # noqa: E402
from greffon.frozen.graph import flatten  # noqa: E402
from greffon.frozen.quantise import quantisation_of  # noqa: E402
from greffon.frozen.tuning import Tuning, default_tuning, recalled, tuned  # noqa: E402


def graph_of(*, filters=4, side=12, seed=0, name="some"):
    keras.utils.set_random_seed(seed)
    return flatten(keras.Sequential([keras.Input((side, side, 3)), layers.Conv2D(filters, 3, name=name)]))


class Clock:
    """Stands in for the engine and the time that it takes, so that nothing depends on the machine."""

    def __init__(self, monkeypatch, seconds, *, cores=2, share=1.0):
        self.now, self.cpu, self.runs, self.seconds = 0.0, 0.0, [], seconds
        monkeypatch.setattr(tuning_module, "usable_cores", lambda: cores)
        monkeypatch.setattr(tuning_module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(tuning_module.time, "process_time", lambda: self.cpu)
        clock = self

        class FakeEngine:
            def __init__(self, graph, model, *, threads, batch_size):
                self.threads = threads

            def run(self, pictures):
                rows = len(pictures[0])
                clock.runs.append((self.threads, rows))
                spent = clock.seconds(self.threads, rows) * rows
                clock.now += spent
                clock.cpu += spent * self.threads * share

        monkeypatch.setattr(tuning_module, "OrtEngine", FakeEngine)


def test_the_fastest_is_found(monkeypatch):
    Clock(monkeypatch, lambda threads, rows: 0.004 / threads * (1.2 if rows < 16 else 1.0))
    assert tuned(graph_of()) == Tuning(2, 16)


def test_larger_batches_have_to_be_clearly_faster(monkeypatch):
    Clock(monkeypatch, lambda threads, rows: 0.002 / threads * (1 - 0.0004 * rows))
    assert tuned(graph_of()) == Tuning(2, 8)


def test_fewer_threads_are_taken_where_more_are_in_the_way(monkeypatch):
    Clock(monkeypatch, lambda threads, rows: {4: 0.002, 3: 0.0019, 2: 0.001, 1: 0.002}[threads], cores=4)
    assert tuned(graph_of()).threads == 2


def test_many_cores_are_tried_in_halves(monkeypatch):
    clock = Clock(monkeypatch, lambda threads, rows: 0.001 / threads, cores=48)
    assert tuned(graph_of()).threads == 48
    assert {threads for threads, _ in clock.runs} == {48, 24, 12, 6, 3, 1}


@pytest.mark.parametrize(("each", "pictures"), [(1e-4, None), (0.02, None), (0.1, None), (0.02, 1000), (0.001, 400)])
def test_time_is_bounded(monkeypatch, each, pictures):
    clock = Clock(monkeypatch, lambda threads, rows: each)
    tuned(graph_of(), pictures=pictures)
    expected = np.inf if pictures is None else each * pictures
    assert clock.now <= max(min(2.0, expected / 20), 9 * each) + 1e-9


def test_for_few_pictures_nothing_is_measured(monkeypatch, cache_folder):
    clock = Clock(monkeypatch, lambda threads, rows: 0.001)
    assert tuned(graph_of(), pictures=50) == default_tuning() == Tuning(2, 32)
    assert not clock.runs
    assert not (cache_folder / "machine.json").exists()


def test_where_others_are_at_work_nothing_is_remembered(monkeypatch, cache_folder):
    Clock(monkeypatch, lambda threads, rows: 0.001, share=0.5)
    assert tuned(graph_of()) == default_tuning()
    assert not (cache_folder / "machine.json").exists()


def test_a_usual_batch_where_only_smaller_ones_could_be_measured(monkeypatch):
    clock = Clock(monkeypatch, lambda threads, rows: 0.08)
    assert tuned(graph_of()).batch_size == 32
    assert max(rows for _, rows in clock.runs) < 32


# --- remembering ---------------------------------------------------------------------------------------------------


def test_second_time_nothing_is_measured_whatever_weights_and_names(monkeypatch):
    clock = Clock(monkeypatch, lambda threads, rows: 0.001 / threads)
    found = tuned(graph_of())
    done = len(clock.runs)
    assert tuned(graph_of(seed=1, name="other")) == recalled(graph_of()) == found
    assert tuned(graph_of(), pictures=1) == found
    assert len(clock.runs) == done > 0
    for other in (graph_of(filters=5), graph_of(side=13)):
        assert recalled(other) is None
    assert recalled(graph_of(), "int8") is None
    monkeypatch.setattr(remembered, "cpu_model", lambda: "another processor")
    assert recalled(graph_of()) is None


@pytest.mark.parametrize("content", ["", "[]", "no json", '{"KEY": {"threads": 0, "batch_size": 8}}', '{"KEY": 3}'])
def test_an_unreadable_file_is_nothing_remembered(monkeypatch, cache_folder, content):
    Clock(monkeypatch, lambda threads, rows: 0.001)
    found = tuned(graph_of())
    (key,) = json.loads((cache_folder / "machine.json").read_text())
    (cache_folder / "machine.json").write_text(content.replace("KEY", key))
    assert recalled(graph_of()) is None
    assert tuned(graph_of()) == found == recalled(graph_of())


def test_where_nothing_can_be_written_it_is_measured_all_the_same(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "file"))
    Clock(monkeypatch, lambda threads, rows: 0.001 if rows < 64 else 0.0005)
    assert tuned(graph_of()).batch_size == 64
    assert recalled(graph_of()) is None


# --- on the real engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_measured_on_onnx_runtime(monkeypatch, precision):
    monkeypatch.setattr(tuning_module, "_QUIET", 0.0)
    graph, some = graph_of(), np.zeros((2, 12, 12, 3), np.uint8)
    how = quantisation_of(graph, lambda: [some]) if precision == "int8" else None
    found = tuned(graph, precision, quantisation=how)
    assert found == recalled(graph, precision)
    assert found.batch_size in tuning_module.BATCHES
    engine = build_engine(graph, precision=precision)
    assert (engine.threads, engine.batch_size) == (found.threads, found.batch_size)


def test_any_size_of_picture_and_several_inputs(monkeypatch):
    monkeypatch.setattr(tuning_module, "_QUIET", 0.0)
    pixels, number = keras.Input((None, None, 3)), keras.Input((2,))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, strides=2)(pixels))
    assert tuned(flatten(keras.Model([pixels, number], layers.Add()([pooled, number])))).threads >= 1


def test_a_graph_that_onnx_runtime_does_not_take_is_not_measured():
    class Doubled(layers.Layer):
        def call(self, inputs):
            return inputs * 2

    graph = flatten(keras.Sequential([keras.Input((3,)), Doubled()]))
    assert tuned(graph) == default_tuning()
    assert tuned(graph_of(), "int8") == default_tuning()  # which needs ranges to be measured


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_numbers_are_the_same_to_the_bit_whatever_the_tuning(precision):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(pixels))
    x = layers.MaxPooling2D(3, 2)(layers.Conv2D(19, 3, padding="same")(x))
    graph = flatten(keras.Model(pixels, [x, layers.Dense(9)(layers.GlobalAveragePooling2D()(x))]))
    numbers = np.random.default_rng(0).integers(0, 256, (13, 24, 24, 3), dtype=np.uint8)
    engines = [
        build_engine(graph, precision=precision, calibration=lambda: [numbers], tuning=Tuning(threads, size))
        for threads in (1, 2, 4)
        for size in (1, 3, 8, 64)
    ]
    assert {(engine.threads, engine.batch_size) for engine in engines} >= {(1, 1), (4, 64)}
    expected = engines[0].run([numbers])
    for engine in engines[1:]:
        for ours, theirs in zip(engine.run([numbers]), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_said_goes_before_what_is_remembered(monkeypatch):
    with monkeypatch.context() as patched:
        Clock(patched, lambda threads, rows: 0.001 if rows < 64 else 0.0005)
        assert tuned(graph_of()).batch_size == 64
    engine = build_engine(graph_of(), batch_size=5, tuning=Tuning(1, 7))
    assert (engine.threads, engine.batch_size) == (1, 5)


# --- a record ------------------------------------------------------------------------------------------------------


def test_tuning_goes_through_json():
    tuning = Tuning(3, 16)
    assert Tuning.from_dict(json.loads(json.dumps(tuning.to_dict()))) == tuning


@pytest.mark.parametrize(
    "values", [{}, {"threads": 2}, {"threads": 2, "batch_size": 0}, {"threads": True, "batch_size": 8}, [2, 8], None]
)
def test_what_is_no_tuning(values):
    with pytest.raises(InputError, match="threads and batch_size"):
        Tuning.from_dict(values)


def test_the_graph_is_written_once_for_measuring_and_for_use(monkeypatch):
    from greffon.frozen import emit as emit_module

    written, emit = [], emit_module.emit
    monkeypatch.setattr(emit_module, "emit", lambda graph, **options: written.append(graph) or emit(graph, **options))
    engine = build_engine(graph_of(), pictures=100_000)
    assert engine.name == "onnx"
    assert len(written) == 1
