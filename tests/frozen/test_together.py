from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from greffon.frozen.activations import CHUNK, Activations
from greffon.frozen.cost import known_speed, macs, remember_speed
from greffon.frozen.cut import find_cut
from greffon.frozen.graph import flatten
from greffon.frozen.store import ActivationStore
from greffon.frozen.together import OnePass
from greffon.frozen.trunk import DoesNotFitFloat16, Trunk

COUNT = 3 * CHUNK + 8
SHAPE = (12, 12, 3)


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(8, 3, activation="relu", name="first"),
            keras.layers.Conv2D(8, 3, activation="relu", name="second"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(3, name="last"),
        ]
    )


@pytest.fixture
def case():
    """Two cuts of one model, over the same pictures, and a count of what was read for them."""
    model = network()
    graph = flatten(model)
    pictures = np.random.default_rng(0).uniform(0, 1, (COUNT, *SHAPE)).astype("float32")
    keys = [bytes([row]) * 16 for row in range(COUNT)]
    loaded = []

    def load(rows):
        loaded.extend(rows.tolist())
        return [pictures[rows]]

    def cut(*trained):
        for layer in model.layers:
            layer.trainable = layer.name in trained
        return find_cut(model, graph=graph)

    cuts = [cut("last"), cut("second", "last")]
    return SimpleNamespace(model=model, graph=graph, pictures=pictures, keys=keys, load=load, loaded=loaded, cuts=cuts)


def parts(case, store, dtype="float32", memory=None):
    return [
        Activations(Trunk(cut, [SHAPE], store=store, dtype=dtype), case.keys, case.load, memory=memory)
        for cut in case.cuts
    ]


@pytest.mark.parametrize("memory", [None, 0])
def test_one_pass_gives_what_each_trunk_gives(case, memory):
    with ActivationStore() as store:
        filled = parts(case, store, memory=memory)
        OnePass(case.graph, filled, case.load).run()
        assert sorted(case.loaded) == list(range(COUNT))  # each picture once for both
        for part, cut in zip(filled, case.cuts, strict=True):
            expected = cut.trunk.run([case.pictures])[0]
            np.testing.assert_allclose(part.all()[0], expected, rtol=1e-5, atol=1e-6)
        assert sorted(case.loaded) == list(range(COUNT))


def test_only_what_is_missing_is_computed(case):
    with ActivationStore() as store:
        pooled = Activations(Trunk(case.cuts[0], [SHAPE], store=store), case.keys[:10], case.load)
        OnePass(case.graph, [pooled], case.load).run()
        case.loaded.clear()
        again = parts(case, store)
        one_pass = OnePass(case.graph, again[:1], case.load)
        assert one_pass.missing().tolist() == list(range(10, COUNT))
        seen = []
        one_pass.run(seen.append)
        assert sorted(case.loaded) == list(range(10, COUNT))
        assert sum(seen) == COUNT - 10
        nothing = OnePass(case.graph, again[:1], case.load)
        nothing.run()
        assert nothing.engine_name is None


def test_an_interrupted_pass_keeps_its_chunks(case):
    def interrupted(rows):
        if CHUNK in rows:
            raise KeyboardInterrupt
        return case.load(rows)

    with ActivationStore() as store:
        with pytest.raises(KeyboardInterrupt):
            OnePass(case.graph, parts(case, store), interrupted).run()
        assert sorted(case.loaded) == list(range(CHUNK))
        case.loaded.clear()
        OnePass(case.graph, parts(case, store), case.load).run()
        assert sorted(case.loaded) == list(range(CHUNK, COUNT))


def test_a_pass_that_nothing_can_hold_ends_early(case):
    with ActivationStore(limit_bytes=1) as store:
        filled = parts(case, store, memory=0)
        OnePass(case.graph, filled, case.load).run()
        assert len(set(case.loaded)) <= 2 * CHUNK  # the second chunk may have been read ahead
        expected = case.cuts[0].trunk.run([case.pictures])[0]
        np.testing.assert_allclose(filled[0].all()[0], expected, rtol=1e-5, atol=1e-6)


def test_what_float16_cannot_hold_is_told(case):
    case.model.get_layer("first").kernel.assign(case.model.get_layer("first").kernel * 1e6)
    with ActivationStore() as store, pytest.raises(DoesNotFitFloat16):
        OnePass(case.graph, parts(case, store, dtype="float16"), case.load).run()


def test_multiply_accumulates():
    # 10x10 places x 3x3x3x8, then 8x8 x 3x3x8x8, then 8 x 3
    assert macs(flatten(network())) == 100 * 216 + 64 * 576 + 24
    depthwise = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.DepthwiseConv2D(3, padding="same")])
    assert macs(flatten(depthwise)) == 64 * 36


def test_speed_is_remembered_and_losing_it_does_no_harm(cache_folder):
    assert known_speed() is None
    remember_speed("onnx", 2e9)
    remember_speed("keras", 1e9)
    assert (known_speed("onnx"), known_speed("keras"), known_speed()) == (2e9, 1e9, 2e9)
    (cache_folder / "speed.json").write_text("[broken")
    assert known_speed() is None
