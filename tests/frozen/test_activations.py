"""Activations by row: held where they fit, read where they are stored, computed again where nothing can hold them."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen.activations import CHUNK, Activations  # noqa: E402
from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.frozen.keys import content_keys  # noqa: E402
from greffon.frozen.store import ActivationStore  # noqa: E402
from greffon.frozen.trunk import Trunk  # noqa: E402

ROWS = CHUNK + 8


@pytest.fixture(scope="module")
def cut():
    keras.utils.set_random_seed(0)
    conv = layers.Conv2D(4, 3, trainable=False)
    return find_cut(keras.Sequential([keras.Input((8, 8, 3)), conv, layers.Flatten(), layers.Dense(2)]))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def wanted(cut, x):
    """What all rows are, from a trunk without memory or store."""
    return Trunk(cut, [x.shape[1:]]).fetch(content_keys([x], ["float32"]), lambda rows: [x[rows]])[0]


def activations(cut, x, *, store=None, memory=None):
    trunk = Trunk(cut, [x.shape[1:]], store=store)
    return Activations(trunk, content_keys([x], ["float32"]), lambda rows: [x[rows]], memory=memory)


@pytest.fixture
def store(tmp_path):
    with ActivationStore(tmp_path) as store:
        yield store


def test_held_in_memory_each_picture_is_computed_once_even_without_a_store(cut, x, wanted):
    held = activations(cut, x)
    advanced = []
    assert held.fill(advanced.append)
    assert advanced == [CHUNK, 8]
    rows = np.array([3, ROWS - 1, 3, 0])
    for _ in range(2):
        np.testing.assert_allclose(held.gather(rows)[0], wanted[rows], rtol=1e-6)
    np.testing.assert_allclose(held.all()[0], wanted, rtol=1e-6)
    assert held.trunk.counts.computed == ROWS


def test_gather_computes_what_fill_has_not(cut, x, wanted):
    held = activations(cut, x)
    np.testing.assert_allclose(held.gather(np.array([5, 5, 2]))[0], wanted[[5, 5, 2]], rtol=1e-6)
    assert held.trunk.counts.computed == 2
    held.fill()
    assert held.trunk.counts.computed == ROWS


def test_what_does_not_fit_in_memory_is_read_from_the_store(cut, x, wanted, store):
    held = activations(cut, x, store=store, memory=0)
    assert not held.in_memory
    assert held.fill()
    assert held.trunk.counts.computed == held.trunk.counts.stored == ROWS
    for _ in range(2):
        np.testing.assert_allclose(held.gather(np.array([7, 1]))[0], wanted[[7, 1]], rtol=1e-6)
    assert held.trunk.counts.computed == ROWS
    assert held.trunk.counts.reused == 4


def test_limit_of_the_memory_is_the_size_of_the_activations(cut, x):
    nbytes = activations(cut, x).trunk.nbytes
    assert nbytes == 6 * 6 * 4 * 4
    assert activations(cut, x, memory=ROWS * nbytes).in_memory
    assert not activations(cut, x, memory=ROWS * nbytes - 1).in_memory


def test_what_neither_can_hold_is_computed_again_and_not_in_vain(cut, x, wanted):
    """Filling would throw its work away, so it stops after the first chunk shows that."""
    held = activations(cut, x, memory=0)
    assert not held.fill()
    assert held.trunk.counts.computed == CHUNK
    for _ in range(2):
        np.testing.assert_allclose(held.gather(np.array([7, 1]))[0], wanted[[7, 1]], rtol=1e-6)
    assert held.trunk.counts.computed == CHUNK + 4


def test_store_that_takes_some_gives_those_and_the_others_are_computed(cut, x, wanted, tmp_path):
    nbytes = activations(cut, x).trunk.nbytes
    with ActivationStore(tmp_path, limit_bytes=30 * nbytes) as store:
        held = activations(cut, x, store=store, memory=0)
        assert not held.fill()
        stored = held.trunk.counts.stored
        assert 0 < stored < ROWS
        computed = held.trunk.counts.computed
        np.testing.assert_allclose(held.all()[0], wanted, rtol=1e-6)
        assert held.trunk.counts.computed - computed == ROWS - stored


def test_interrupted_fill_goes_on_where_it_was(cut, x, store):
    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    with pytest.raises(Stop):
        activations(cut, x, store=store).fill(stop)
    again = activations(cut, x, store=store)
    again.fill()
    assert (again.trunk.counts.computed, again.trunk.counts.reused) == (ROWS - CHUNK, CHUNK)


def test_no_rows(cut, x):
    none = activations(cut, x[:0])
    assert none.fill()
    assert none.all()[0].shape == (0, 144)


@pytest.mark.parametrize("memory", [None, 0])
def test_a_picture_that_is_there_more_than_once_is_computed_once(cut, x, wanted, store, memory):
    """Also where its copies are too far apart to be computed together."""
    rows = np.concatenate([np.arange(ROWS), [3, 3], np.arange(ROWS)])
    held = activations(cut, x[rows], store=store, memory=memory)
    told = []
    assert held.fill(told.append)
    assert held.trunk.counts.computed == held.trunk.counts.stored == ROWS
    assert sum(told) == len(rows)
    np.testing.assert_allclose(held.all()[0], wanted[rows], rtol=1e-6)
    assert held.trunk.counts.computed == ROWS


def test_copies_are_found_without_a_store_too(cut, x, wanted):
    rows = np.concatenate([np.arange(ROWS)[::-1], np.arange(ROWS)])
    held = activations(cut, x[rows])
    assert held.fill()
    assert held.trunk.counts.computed == ROWS
    np.testing.assert_allclose(held.all()[0], wanted[rows], rtol=1e-6)


def test_filling_computes_what_neither_memory_nor_store_has_and_reads_the_rest(cut, x, wanted, store):
    activations(cut, x[10:20], store=store).fill()
    held = activations(cut, x, store=store)
    held.gather(np.arange(5))
    held.fill()
    assert (held.trunk.counts.computed, held.trunk.counts.reused) == (ROWS - 10, 10)
    np.testing.assert_allclose(held.all()[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("error", [ValueError("no picture"), KeyboardInterrupt()])
def test_an_error_while_filling_reaches_the_caller_and_what_was_computed_is_kept(cut, x, store, error):
    def load(rows):
        if CHUNK in rows:
            raise error
        return [x[rows]]

    held = activations(cut, x, store=store)
    held._load = load
    with pytest.raises(type(error)):
        held.fill()
    again = activations(cut, x, store=store)
    again.fill()
    assert (again.trunk.counts.computed, again.trunk.counts.reused) == (ROWS - CHUNK, CHUNK)


def test_all_are_read_a_few_at_a_time_and_not_copied(cut, x, wanted, store, monkeypatch):
    activations(cut, x, store=store).fill()
    monkeypatch.setattr("greffon.frozen.activations._READ_AT_ONCE", 8)
    held = activations(cut, x, store=store)
    asked = []
    fetch = held.trunk.fetch
    monkeypatch.setattr(held.trunk, "fetch", lambda keys, load: asked.append(len(keys)) or fetch(keys, load))
    first, second = held.all()[0], held.all()[0]
    assert asked == [8] * (ROWS // 8)
    assert first is second
    np.testing.assert_allclose(first, wanted, rtol=1e-6)
