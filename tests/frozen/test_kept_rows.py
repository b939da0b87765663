import numpy as np
import pytest

from greffon.errors import DataError
from greffon.frozen.kept_rows import fill_rows
from greffon.frozen.store import ActivationStore

KEYS = [bytes([number]) * 16 for number in range(3)]


@pytest.fixture
def store(tmp_path):
    with ActivationStore(tmp_path / "store") as store:
        yield store


def filled(store, keys=KEYS, *, version="", side=2):
    """Rows that hold the last byte of their keys, and the places that had to be made."""
    rows, made = np.zeros((len(keys), side, side), np.uint8), []

    def make(places):
        made.extend(places.tolist())
        rows[places] = np.array([keys[place][0] for place in places], np.uint8)[:, None, None]

    fill_rows(store, "numbers", keys, rows, make, version=version)
    return rows[:, 0, 0].tolist(), made


def test_each_is_made_once(store):
    assert filled(store, KEYS[1:]) == ([1, 2], [0, 1])
    assert filled(store) == ([0, 1, 2], [0])
    assert filled(store, KEYS[::-1]) == ([2, 1, 0], [])


def test_of_another_version_or_size_they_are_made_anew(store):
    filled(store)
    assert filled(store, version="2") == ([0, 1, 2], [0, 1, 2])
    assert filled(store, side=3) == ([0, 1, 2], [0, 1, 2])
    assert {trunk.entries for trunk in store.info()} == {3}
    assert {trunk.label for trunk in store.info()} == {"numbers"}


def test_without_a_store_all_are_made():
    assert filled(None) == ([0, 1, 2], [0, 1, 2])


def test_nothing_is_kept_of_what_could_not_be_made(store):
    rows = np.zeros((3, 2), np.uint8)

    def make(places):
        rows[0] = 7
        raise DataError("the second is damaged")

    with pytest.raises(DataError, match="damaged"):
        fill_rows(store, "numbers", KEYS, rows, make)
    assert not store.info()
