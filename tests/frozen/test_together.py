from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from greffon.frozen import remembered
from greffon.frozen.activations import CHUNK, Activations
from greffon.frozen.build import build_engine
from greffon.frozen.cost import macs
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
        assert set(case.loaded) >= set(range(CHUNK))
        case.loaded.clear()
        OnePass(case.graph, parts(case, store), case.load).run()
        assert sorted(case.loaded) == list(range(CHUNK, COUNT))


def test_a_pass_that_nothing_can_hold_ends_early(case):
    with ActivationStore(limit_bytes=1) as store:
        filled = parts(case, store, memory=0)
        OnePass(case.graph, filled, case.load).run()
        assert len(set(case.loaded)) <= 3 * CHUNK  # two chunks may have been read ahead
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


def test_what_is_remembered_of_this_machine_may_be_lost(cache_folder):
    name = remembered.key("speed", "onnx")
    assert remembered.get(name) is None
    remembered.put(name, 2e9)
    remembered.put(remembered.key("speed", "keras"), 1e9)
    assert remembered.get(name) == 2e9
    (cache_folder / "machine.json").write_text("[broken")
    assert remembered.get(name) is None


class Counted:
    """An engine that fails at a chunk, and says how many rows came before."""

    name, batch_size = "made up", CHUNK

    def __init__(self, graph, error=None, at=None):
        self.engine = build_engine(graph)
        self.error, self.at, self.calls = error, at, 0

    def run(self, inputs):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise self.error
        return self.engine.run(inputs)


def test_the_engine_is_the_one_that_is_given(case):
    built = []
    with ActivationStore() as store:
        one_pass = OnePass(case.graph, parts(case, store), case.load, build=lambda g: built.append(g) or Counted(g))
        one_pass.run()
        one_pass.run()
    assert built == [one_pass.graph]
    assert one_pass.engine_name == "made up"


@pytest.mark.parametrize("error", [RuntimeError("out of breath"), KeyboardInterrupt()])
@pytest.mark.parametrize("memory", [None, 0])
def test_what_was_computed_before_an_engine_failed_is_kept(case, error, memory):
    with ActivationStore() as store:
        filled = parts(case, store, memory=memory)
        with pytest.raises(type(error)):
            OnePass(case.graph, filled, case.load, build=lambda graph: Counted(graph, error, at=2)).run()
    with ActivationStore() as store:
        rest = OnePass(case.graph, parts(case, store), case.load)
        assert rest.missing().tolist() == list(range(2 * CHUNK, COUNT))


def test_an_error_in_storing_is_told_and_the_chunks_before_it_are_kept(case, monkeypatch):
    put = Activations.put

    def full(self, rows, outputs):
        if CHUNK in rows:
            raise OSError("no disk")
        put(self, rows, outputs)

    with ActivationStore() as store:
        filled = parts(case, store)
        monkeypatch.setattr(Activations, "put", full)
        with pytest.raises(OSError, match="no disk"):
            OnePass(case.graph, filled, case.load).run()
        assert set(OnePass(case.graph, filled, case.load).missing()) <= set(range(CHUNK, COUNT))


def test_a_chunk_is_whole_batches_of_the_engine(case):
    sizes = []

    def load(rows):
        sizes.append(len(rows))
        return case.load(rows)

    def build(graph):
        engine = Counted(graph)
        engine.batch_size = 24
        return engine

    with ActivationStore() as store:
        OnePass(case.graph, parts(case, store), load, build=build).run()
    assert sizes == [48, 48, COUNT - 96]


def test_advance_is_told_of_what_is_stored(case):
    with ActivationStore() as store:
        filled = parts(case, store)
        told = []

        def advance(count):
            told.append(count)
            assert all(part.holds(np.arange(sum(told))) for part in filled)

        OnePass(case.graph, filled, case.load).run(advance)
    assert sum(told) == COUNT


def test_filling_takes_no_memory_where_the_store_takes_it(case):
    with ActivationStore() as store:
        filled = parts(case, store)
        OnePass(case.graph, filled, case.load).run()
        assert all(part.in_memory for part in filled)
        assert [part.held for part in filled] == [0, 0]
        filled[0].gather(np.arange(10))
        assert filled[0].held == 10


def test_what_the_store_does_not_take_is_held_in_memory(case):
    with ActivationStore(limit_bytes=1) as store:
        filled = parts(case, store)
        OnePass(case.graph, filled, case.load).run()
        assert [part.held for part in filled] == [COUNT, COUNT]
        read = len(case.loaded)
        expected = case.cuts[1].trunk.run([case.pictures])[0]
        np.testing.assert_allclose(filled[1].all()[0], expected, rtol=1e-5, atol=1e-6)
        assert len(case.loaded) == read
