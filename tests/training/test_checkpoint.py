"""What a training remembers, in one file."""

from __future__ import annotations

import errno
import math
import os

import numpy as np
import pytest

from greffon.errors import InputError
from greffon.training import checkpoint
from greffon.training.checkpoint import Parts, load_state, save_state


class Counter:
    def __init__(self, count=0):
        self.count = count

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


def test_a_state_comes_back_to_the_bit(tmp_path):
    random = np.random.default_rng(0)
    state = {
        "weights": [random.normal(size=(3, 2)).astype("float32"), np.float64(0.1), np.array(7, "int64")],
        "seeds": {"a": np.array([1, 2], "uint32"), "empty": np.zeros((0, 3), "float32"), "flag": np.array([True])},
        "numbers": [0.1, 1e-320, math.inf, -math.inf, None, True, "ü/\n"],
        "none": {},
    }
    save_state(tmp_path / "state", state)
    back = load_state(tmp_path / "state")
    assert back["weights"][0].tobytes() == state["weights"][0].tobytes()
    assert back["weights"][1] == 0.1
    assert back["weights"][2].shape == () and back["weights"][2].dtype == np.int64
    assert {name: (it.dtype, it.shape) for name, it in back["seeds"].items()} == {
        name: (it.dtype, it.shape) for name, it in state["seeds"].items()
    }
    assert back["numbers"] == state["numbers"] and back["none"] == {}


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    file = tmp_path / "state"
    save_state(file, {"epoch": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_state(file, {"epoch": 2})
    assert load_state(file) == {"epoch": 1}
    assert [it.name for it in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"x" * 100])
def test_a_damaged_one_is_refused(tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_state(tmp_path / "state")
    save_state(tmp_path / "whole", {"a": np.ones(100)})
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").write_bytes(whole[:-50])
    with pytest.raises(InputError, match="cannot be read"):
        load_state(tmp_path / "whole")


def test_parts_are_told_apart_by_name():
    parts = Parts(a=Counter(1))
    parts.add_stateful([Counter(2), object()])
    assert parts.state() == {"a": {"count": 1}, "Counter": {"count": 2}}
    with pytest.raises(InputError, match="two parts"):
        parts.add("a", Counter())
    with pytest.raises(InputError, match="another version"):
        parts.restore({"a": {"count": 1}})
    assert isinstance(Counter(), checkpoint.Stateful) and not isinstance(object(), checkpoint.Stateful)
