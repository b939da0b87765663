"""Engines: the same numbers from both, whatever the batch; falling back is said."""

from __future__ import annotations

import threading

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.errors import InputError  # noqa: E402
from greffon.frozen import build as build_module  # noqa: E402
from greffon.frozen import hardware  # noqa: E402
from greffon.frozen.agreement import made_up, relative_difference  # noqa: E402
from greffon.frozen.build import build_engine  # noqa: E402
from greffon.frozen.engine import KerasEngine, OrtEngine  # noqa: E402
from greffon.frozen.graph import flatten  # noqa: E402


def network(seed=0, side=24):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    x = layers.BatchNormalization()(layers.Conv2D(11, 3, padding="same")(x))
    y = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(pixels, [layers.MaxPooling2D()(x), layers.Dropout(0.5)(layers.Dense(7)(y))])


def uint8_pictures(rows, side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)


class Doubled(layers.Layer):
    """A layer that no emitter knows."""

    def call(self, inputs):
        return inputs * 2


@pytest.fixture(scope="module")
def graph():
    return flatten(network())


@pytest.mark.parametrize("prefer", ["onnx", "keras"])
def test_engine_gives_what_the_model_predicts(prefer):
    model = network()
    engine = build_engine(flatten(model), prefer=prefer, batch_size=4)
    assert engine.name == prefer
    assert (engine.why_not_onnx is None) == (prefer == "onnx")
    numbers = uint8_pictures(11)
    for ours, theirs in zip(engine.run([numbers]), model.predict(numbers.astype("float32"), verbose=0), strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(("prefer", "tolerance"), [("onnx", 0), ("keras", 1e-6)])
def test_numbers_of_a_picture_do_not_depend_on_its_batch(graph, prefer, tolerance):
    engine = build_engine(graph, prefer=prefer, batch_size=5)
    numbers = uint8_pictures(13)
    together = engine.run([numbers])
    for cuts in ([1] * 13, [5, 5, 3], [2, 11], [6, 7]):
        parts = np.split(numbers, np.cumsum(cuts)[:-1])
        for apart, whole in zip(zip(*(engine.run([part]) for part in parts), strict=True), together, strict=True):
            assert np.abs(np.concatenate(apart) - whole).max() <= tolerance * np.abs(whole).max()


@pytest.mark.parametrize("prefer", ["onnx", "keras"])
def test_any_number_dtype_and_memory_order(graph, prefer):
    engine = build_engine(graph, prefer=prefer, batch_size=4)
    numbers = uint8_pictures(4)
    expected = engine.run([numbers])
    others = [numbers.astype(dtype) for dtype in ("float32", "float64", "float16", "int32")]
    for other in [*others, np.asfortranarray(numbers), np.flip(np.flip(numbers, 0), 0)]:
        for ours, theirs in zip(engine.run([other]), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_counters_count_pictures_and_calls_and_no_padding(graph):
    for prefer in ("onnx", "keras"):
        engine = build_engine(graph, prefer=prefer, batch_size=4)
        assert (engine.rows, engine.calls) == (0, 0)
        for rows in (6, 1, 0):
            engine.run([uint8_pictures(rows)])
        assert (engine.rows, engine.calls) == (7, 3)


def test_no_pictures_give_no_rows(graph):
    outputs = build_engine(graph).run([uint8_pictures(0)])
    assert [output.shape for output in outputs] == [(0, 12, 12, 11), (0, 7)]


@pytest.mark.parametrize("prefer", ["onnx", "keras"])
def test_several_inputs_in_the_graphs_order(prefer):
    a, b = keras.Input((6, 6, 3)), keras.Input((4,))
    x = layers.Multiply()([layers.Conv2D(4, 3)(a), layers.Reshape((1, 1, 4))(b)])
    model = keras.Model([b, a], [x, b])
    engine = build_engine(flatten(model), prefer=prefer, batch_size=2)
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(5, 4)).astype("float32"), random.normal(size=(5, 6, 6, 3)).astype("float32")]
    for ours, theirs in zip(engine.run(inputs), model.predict(inputs, verbose=0), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefer", ["onnx", "keras"])
def test_pictures_of_any_size(prefer):
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(5, 3, strides=2, padding="same")])
    engine = build_engine(flatten(model), prefer=prefer, batch_size=2)
    assert engine.name == prefer
    for side in (9, 12):
        numbers = uint8_pictures(3, side)
        theirs = model.predict(numbers.astype("float32"), verbose=0)
        assert np.abs(engine.run([numbers])[0] - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert engine.run([uint8_pictures(0, 9)])[0].shape == (0, 0, 0, 5)


@pytest.mark.parametrize("prefer", ["onnx", "keras"])
def test_integer_input_is_cut_to_whole_numbers_as_keras_does(prefer):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Rescaling(0.5)])
    engine = build_engine(flatten(model), prefer=prefer)
    assert engine.name == prefer
    assert engine.run([np.array([[1.9, -1.9, 2, 0]])])[0].tolist() == [[0.5, -0.5, 1, 0]]


def test_keras_traces_once_whatever_the_number_of_pictures():
    calls = []

    class Traced(layers.Layer):
        def call(self, inputs):
            calls.append(inputs.shape)
            return inputs + 1

    graph = flatten(keras.Sequential([keras.Input((3,)), Traced()]))
    calls.clear()
    engine = build_engine(graph, prefer="keras", batch_size=4)
    for rows in (1, 2, 3, 4, 5, 9):
        assert engine.run([np.zeros((rows, 3))])[0].shape == (rows, 3)
    if keras.backend.backend() != "torch":  # which compiles nothing
        assert len(calls) == 1


# --- falling back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", ["auto", "onnx"])
def test_unknown_layer_falls_back_to_keras_and_is_named(prefer):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3), Doubled(name="odd_one")])
    engine = build_engine(flatten(model), prefer=prefer)
    assert isinstance(engine, KerasEngine)
    assert engine.why_not_onnx == "odd_one (Doubled) is not known"
    numbers = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    np.testing.assert_allclose(engine.run([numbers])[0], model.predict(numbers, verbose=0), rtol=1e-6)


def test_disagreement_with_keras_falls_back_and_says_how_far(graph, monkeypatch):
    from greffon.frozen import emit

    other = emit.emit(flatten(network(seed=1)))
    monkeypatch.setattr(emit, "emit", lambda graph: other)
    engine = build_engine(graph)
    assert engine.name == "keras"
    assert "differ by" in engine.why_not_onnx
    assert build_engine(graph, check=False).name == "onnx"


def test_what_onnx_runtime_cannot_load_falls_back(graph, monkeypatch):
    from greffon.frozen import emit

    monkeypatch.setattr(emit, "emit", lambda graph: b"no model")
    engine = build_engine(graph)
    assert engine.name == "keras"
    assert engine.why_not_onnx.startswith("ONNX Runtime failed: ")


def test_auto_takes_keras_where_it_has_an_accelerator(graph, monkeypatch):
    assert build_engine(graph).name == "onnx"
    monkeypatch.setattr(build_module, "has_accelerator", lambda: True)
    engine = build_engine(graph)
    assert engine.name == "keras"
    assert "accelerator" in engine.why_not_onnx
    assert build_engine(graph, prefer="onnx").name == "onnx"


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [[], [uint8_pictures(2, 23)], [uint8_pictures(2)[0]], [uint8_pictures(2), uint8_pictures(2)]],
    ids=["none", "another size", "no batch", "too many"],
)
def test_arrays_that_the_graph_does_not_take(graph, inputs):
    for prefer in ("onnx", "keras"):
        with pytest.raises(InputError, match=r"\(None, 24, 24, 3\)"):
            build_engine(graph, prefer=prefer, check=False).run(inputs)


def test_rows_that_differ():
    a, b = keras.Input((2,)), keras.Input((2,))
    engine = build_engine(flatten(keras.Model([a, b], layers.Add()([a, b]))))
    with pytest.raises(InputError, match="same number of rows"):
        engine.run([np.zeros((3, 2)), np.zeros((2, 2))])


@pytest.mark.parametrize("options", [{"prefer": "tvm"}, {"batch_size": 0}, {"threads": 0}])
def test_options_out_of_range(graph, options):
    with pytest.raises(InputError, match="must be"):
        build_engine(graph, **options)


# --- threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", ["onnx", "keras"])
def test_several_threads_may_run(graph, prefer):
    engine = build_engine(graph, prefer=prefer, batch_size=3)
    batches = [uint8_pictures(4, seed=seed) for seed in range(8)]
    expected = [engine.run([batch]) for batch in batches]
    answers = [None] * len(batches)

    def work(number):
        answers[number] = engine.run([batches[number]])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(answers, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert (engine.rows, engine.calls) == (64, 16)


def test_number_of_threads(graph):
    assert build_engine(graph, threads=1).threads == 1
    engine = build_engine(graph)
    assert isinstance(engine, OrtEngine)
    assert engine.threads == hardware.usable_cores()


def test_usable_cores_counts_a_core_once_and_heeds_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.setattr(hardware, "_siblings", lambda processor: f"{processor % 3},{processor % 3 + 3}")
    monkeypatch.setattr(hardware, "_quota", lambda: 2**31)
    assert hardware.usable_cores() == 3
    monkeypatch.setattr(hardware, "_quota", lambda: 2)
    assert hardware.usable_cores() == 2


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({}, 2**31),
        ({"cpu.max": "max 100000\n"}, 2**31),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2**31),
    ],
    ids=["no limit", "version 2, no limit", "version 2", "version 1", "version 1, no limit"],
)
def test_quota_of_a_container(tmp_path, files, processors):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert hardware._quota(tmp_path) == processors


# --- agreement -----------------------------------------------------------------------------------------------------


def test_relative_difference_is_the_worst_rows():
    theirs = np.array([[10.0, -100], [1, 0.5]])
    assert relative_difference(theirs, theirs) == 0
    assert relative_difference(theirs + np.array([[1, 0], [0, 0]]), theirs) == pytest.approx(0.01)
    assert relative_difference(theirs + np.array([[1, 0], [0.1, 0]]), theirs) == pytest.approx(0.1)
    assert relative_difference(theirs[:1], theirs) == float("inf")
    assert relative_difference(np.ones((2, 3)), np.zeros((2, 3))) > 1e30
    assert relative_difference(np.zeros((2, 3)), np.zeros((2, 3))) == 0


def test_relative_difference_wants_infinities_and_nan_at_the_same_places():
    theirs = np.array([[np.nan, np.inf, -np.inf, 2]])
    assert relative_difference(theirs, theirs) == 0
    for place, wrong in ((0, 1.0), (1, -np.inf), (2, 0.0), (3, np.nan), (3, np.inf)):
        ours = theirs.copy()
        ours[0, place] = wrong
        assert relative_difference(ours, theirs) == float("inf")


def test_made_up_pictures_are_always_the_same_and_of_both_kinds():
    first = made_up((None, None, 40, 3))
    assert first.shape == (2, 128, 40, 3)
    np.testing.assert_array_equal(first, made_up((None, None, 40, 3)))
    assert 100 < first[0].mean() < 150
    assert abs(first[1].mean()) < 0.1


def test_threads_that_spin_give_the_same_bits(graph):
    pictures = [made_up(graph.specs[tensor].shape) for tensor in graph.inputs]
    sleeping = build_engine(graph, check=False, threads=2).run(pictures)
    spinning = build_engine(graph, check=False, threads=2, spin=True).run(pictures)
    for ours, theirs in zip(spinning, sleeping, strict=True):
        np.testing.assert_array_equal(ours, theirs)
