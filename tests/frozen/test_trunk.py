"""The frozen part at work: computed once, read from then on, in the dtype that was asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.errors import InputError  # noqa: E402
from greffon.frozen import quantise  # noqa: E402
from greffon.frozen import trunk as trunk_module  # noqa: E402
from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.frozen.keys import content_keys  # noqa: E402
from greffon.frozen.store import ActivationStore  # noqa: E402
from greffon.frozen.trunk import DoesNotFitFloat16, Trunk  # noqa: E402
from greffon.frozen.trunks import Trunks  # noqa: E402
from greffon.frozen.tuning import Tuning  # noqa: E402

SHAPE = (8, 8, 3)


def model_of(shape=SHAPE, *, scale=1.0, seed=0):
    keras.utils.set_random_seed(seed)
    pictures = keras.Input(shape, name="pictures")
    conv = layers.Conv2D(4, 3, trainable=False, name="conv")
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Rescaling(scale)(conv(pictures)))
    return keras.Model(pictures, layers.Dense(2)(x))


def pictures(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def keys_of(x):
    return content_keys([x], ["float32"])


@pytest.fixture
def store(tmp_path):
    with ActivationStore(tmp_path) as store:
        yield store


def expected(model, x):
    return keras.Model(model.inputs, model.get_layer("pool").output).predict(x, verbose=0)


def test_second_time_is_read_and_no_engine_is_built(store, monkeypatch):
    model, x = model_of(), pictures(5)
    first = Trunk(find_cut(model), [SHAPE], store=store)
    (given,) = first.fetch(keys_of(x), lambda rows: [x[rows]])
    np.testing.assert_allclose(given, expected(model, x.astype("float32")), rtol=1e-4, atol=1e-4)
    assert (first.counts.computed, first.counts.reused, first.counts.stored) == (5, 0, 5)
    assert first.engine_name == "onnx"
    assert first.counts.seconds > 0

    def no_engine(*_, **__):
        raise AssertionError("the store has everything")

    monkeypatch.setattr(trunk_module, "build_engine", no_engine)
    second = Trunk(find_cut(model), [SHAPE], store=store)
    (again,) = second.fetch(keys_of(x)[::-1], lambda rows: no_engine())
    np.testing.assert_array_equal(again, given[::-1])
    assert (second.counts.computed, second.counts.reused) == (0, 5)
    assert second.engine_name is None


def test_only_what_is_missing_is_loaded_and_a_picture_that_comes_twice_is_computed_once(store):
    x = pictures(6)
    trunk = Trunk(find_cut(model_of()), [SHAPE], store=store)
    trunk.fetch(keys_of(x[:2]), lambda rows: [x[rows]])
    asked = []
    wanted = np.array([4, 0, 4, 5, 1, 4])

    def load(rows):
        asked.extend(wanted[rows].tolist())
        return [x[wanted[rows]]]

    (given,) = trunk.fetch(keys_of(x[wanted]), load)
    assert sorted(asked) == [4, 5]
    assert trunk.counts.computed == 4
    (reference,) = Trunk(find_cut(model_of()), [SHAPE]).fetch(keys_of(x[wanted]), lambda rows: [x[wanted[rows]]])
    np.testing.assert_allclose(given, reference, rtol=1e-6)


@pytest.mark.parametrize("change", [{"seed": 1}, {"scale": 0.5}])
def test_other_weights_or_options_miss(store, change):
    x = pictures(3)
    Trunk(find_cut(model_of()), [SHAPE], store=store).fetch(keys_of(x), lambda rows: [x[rows]])
    other = Trunk(find_cut(model_of(**change)), [SHAPE], store=store)
    assert other.missing(keys_of(x)).tolist() == [0, 1, 2]


def test_float16_is_kept_apart_at_half_the_bytes(store):
    x = pictures(3)
    wide = Trunk(find_cut(model_of(scale=0.01)), [SHAPE], store=store)
    narrow = Trunk(find_cut(model_of(scale=0.01)), [SHAPE], store=store, dtype="float16")
    (a,), (b,) = (trunk.fetch(keys_of(x), lambda rows: [x[rows]]) for trunk in (wide, narrow))
    assert narrow.counts.computed == 3
    assert (a.dtype, b.dtype) == (np.float32, np.float16)
    assert narrow.nbytes * 2 == wide.nbytes == 16
    np.testing.assert_array_equal(a.astype("float16"), b)


@pytest.mark.parametrize("scale", [1e4, float("nan")])
def test_numbers_beyond_float16_are_refused(store, scale):
    x = pictures(3)
    trunk = Trunk(find_cut(model_of(scale=scale)), [SHAPE], store=store, dtype="float16")
    with pytest.raises(DoesNotFitFloat16):
        trunk.fetch(keys_of(x), lambda rows: [x[rows]])


def test_without_a_store_everything_is_computed_every_time():
    x = pictures(3)
    trunk = Trunk(find_cut(model_of()), [SHAPE])
    for _ in range(2):
        trunk.fetch(keys_of(x), lambda rows: [x[rows]])
    assert (trunk.counts.computed, trunk.counts.stored) == (6, 0)
    assert trunk.missing(keys_of(x)).tolist() == [0, 1, 2]


def test_store_can_be_left_alone_and_made_to_forget(store):
    x = pictures(4)
    trunk = Trunk(find_cut(model_of()), [SHAPE], store=store)
    trunk.fetch(keys_of(x[:1]), lambda rows: [x[rows]], store=False)
    assert trunk.missing(keys_of(x)).size == 4
    trunk.fetch(keys_of(x), lambda rows: [x[rows]])
    trunk.forget(keys_of(x[:3]))
    assert trunk.missing(keys_of(x)).tolist() == [0, 1, 2]


def test_second_input_passes_the_cut_in_its_own_dtype(store):
    picture, number = keras.Input(SHAPE), keras.Input((), dtype="int32")
    x = layers.Flatten(name="flat")(layers.Conv2D(2, 3, trainable=False)(picture))
    model = keras.Model([picture, number], layers.Concatenate()([x, layers.Embedding(9, 2)(number)]))
    trunk = Trunk(find_cut(model), [SHAPE, ()], store=store)
    inputs = [pictures(3), np.array([7, 1, 8], "int32")]
    for _ in range(2):
        given = trunk.fetch(content_keys(inputs, ["float32", "int32"]), lambda rows: [a[rows] for a in inputs])
        assert [array.dtype for array in given] == [np.int32, np.float32]
        np.testing.assert_array_equal(given[0], [7, 1, 8])
    assert trunk.counts.computed == 3


def test_threads_share_one_engine(store, monkeypatch):
    built = []
    original = trunk_module.build_engine
    monkeypatch.setattr(trunk_module, "build_engine", lambda *a, **k: built.append(1) or original(*a, **k))
    trunk = Trunk(find_cut(model_of()), [SHAPE], store=store)
    parts = [pictures(4, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda x: trunk.fetch(keys_of(x), lambda rows: [x[rows]]), parts))
    assert len(built) == 1
    assert trunk.counts.computed == trunk.counts.stored == 24


# --- pictures of any shape, and the dtype that gives way ---


def trunks_of(model, store, dtype="float32"):
    said = []
    return Trunks(find_cut(model), store, dtype=dtype, label="a model", widened=lambda: said.append(1)), said


def test_pictures_of_any_size_have_a_trunk_for_each(store):
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(2, 3, trainable=False), layers.ReLU(), layers.Conv2D(2, 1)]
    )
    trunks, _ = trunks_of(model, store)
    small, large = pictures(2), pictures(2, shape=(10, 12, 3))
    for x, shape in ((small, (2, 6, 6, 2)), (large, (2, 8, 10, 2))):
        assert trunks.fetch(trunks.keys([x]), [x])[0].shape == shape
    assert trunks.counts.computed == 4
    assert len({info.digest for info in store.info()}) == 2


def test_float16_gives_way_to_float32_once_and_says_so(store):
    x = pictures(40)
    trunks, said = trunks_of(model_of(scale=1e4), store, "float16")
    activations = trunks.rows([x])
    assert activations.dtypes == [np.float32]
    assert said == [1]
    (streamed,) = trunks.fetch(trunks.keys([x[:2]]), [x[:2]])
    np.testing.assert_array_equal(streamed, activations.gather(np.arange(2))[0])
    trunks, said = trunks_of(model_of(scale=1e4), store, "float16")
    assert trunks.fetch(trunks.keys([x]), [x])[0].dtype == np.float32
    assert trunks.counts.computed == 40  # once more, to see that they do not fit
    assert said == [1]


def test_store_shows_people_what_the_trunk_is(store):
    trunks, _ = trunks_of(model_of(), store)
    trunks.rows([pictures(3)])
    (info,) = store.info()
    assert info.label == "a model, cut after pool, float32"
    assert info.entries == 3


# --- 8 bits --------------------------------------------------------------------------------------------------------


def test_int8_is_kept_apart_from_float32_and_from_other_calibrations(store, monkeypatch):
    x, cut = pictures(6), find_cut(model_of())
    exact = Trunk(cut, [SHAPE], store=store)
    (theirs,) = exact.fetch(keys_of(x), lambda rows: [x[rows]])
    quick = Trunk(cut, [SHAPE], store=store, precision="int8", calibration=lambda: [x])
    assert quick.missing(keys_of(x)).tolist() == list(range(6))
    (ours,) = quick.fetch(keys_of(x), lambda rows: [x[rows]])
    assert (quick.engine.precision, exact.engine.precision) == ("int8", "fp32")
    assert 0 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()

    again = Trunk(find_cut(model_of()), [SHAPE], store=store, precision="int8")
    np.testing.assert_array_equal(again.fetch(keys_of(x), lambda rows: pytest.fail("stored"))[0], ours)

    monkeypatch.setattr(quantise, "_recall", lambda stem: {})
    other = Trunk(cut, [SHAPE], store=store, precision="int8", calibration=lambda: [x // 2])
    assert other.missing(keys_of(x)).tolist() == list(range(6))
    np.testing.assert_array_equal(exact.fetch(keys_of(x), lambda rows: pytest.fail("stored"))[0], theirs)


def test_int8_is_refused_before_anything_is_computed(store):
    with pytest.raises(InputError, match="give `calibration`"):
        Trunk(find_cut(model_of()), [SHAPE], store=store, precision="int8")
    with pytest.raises(InputError, match="Keras was asked for"):
        Trunk(find_cut(model_of()), [SHAPE], prefer="keras", precision="int8", calibration=lambda: [pictures(2)])
    with pytest.raises(InputError, match="precision must be"):
        Trunk(find_cut(model_of()), [SHAPE], precision="int4")


def test_tuning_reaches_the_engine():
    engine = Trunk(find_cut(model_of()), [SHAPE], tuning=Tuning(1, 3)).engine
    assert (engine.threads, engine.batch_size) == (1, 3)


def test_trunks_calibrate_on_the_first_pictures_that_come(store):
    model, x = model_of(), pictures(5)
    trunks = Trunks(find_cut(model), store, dtype="float32", label="some", widened=lambda: None, precision="int8")
    (ours,) = trunks.fetch(trunks.keys([x]), [x])
    theirs = expected(model, x.astype("float32"))
    assert trunks.of([x]).engine.precision == "int8"
    assert 0 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
