"""The harness for damaged files must itself see what it is there for: crashes, hangs, bombs, other exceptions."""

import json

import pytest
from damage import Children, Damage, byte_flips, check_damaged, check_format, truncations

_READER = """
import ctypes, json, time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from greffon.errors import WeightFileError

@contextmanager
def opened(path):
    path = path / "weights" if path.is_dir() else path
    words = path.read_bytes().decode("utf-8", "replace")
    if words == "crash":
        ctypes.string_at(0)
    if words == "hang":
        time.sleep(60)
    if words == "bomb":
        len(bytearray(1 << 27))
    if words == "far too large":
        bytearray(1 << 40)
    if words == "exception":
        raise KeyError("layer")
    if words == "exit":
        raise SystemExit(0)
    try:
        arrays = {name: np.array(values, np.float32) for name, values in json.loads(words).items()}
    except ValueError as error:
        raise WeightFileError(str(error)) from None
    yield SimpleNamespace(tensors={name: SimpleNamespace(load=lambda it=it: it) for name, it in arrays.items()})
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader that does on request what none may do."""
    (tmp_path / "made_up_reader.py").write_text(_READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {"reader": "made_up_reader", "workers": 1}


@pytest.fixture
def intact(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"conv/kernel": [1, 2, 3], "conv/bias": [4]}))
    return path


def test_damage_is_the_same_for_the_same_seed():
    data = bytes(range(100))
    for damage in (truncations, byte_flips):
        first = list(damage(data, 50, 3))
        assert first == list(damage(data, 50, 3)) != list(damage(data, 50, 4))
    assert all(data.startswith(cut) and len(cut) < 100 for _, cut in truncations(data, 50, 3))
    for what, flipped in byte_flips(data, 50, 3):
        (place,) = [number for number in range(100) if flipped[number] != data[number]]
        assert f"byte {place} of 100" in what and "seed 3" in what


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("crash", r"the process died \(-11\)"),
        ("hang", "no answer within 0.5 s"),
        ("bomb", r"it took 1\d\d,\d+,\d+ bytes"),
        ("far too large", "MemoryError"),
        ("exception", "KeyError: 'layer'"),
        ("exit", "SystemExit"),
    ],
)
def test_what_no_reader_may_do_is_seen(intact, reader, content, why):
    good = Damage("nothing", intact.read_bytes())
    damages = [good, Damage("a place and a seed", content.encode()), good]
    with pytest.raises(AssertionError, match=rf"1 of 3 damaged files:\na place and a seed: [\s\S]*{why}"):
        check_damaged(intact, damages, seconds=0.5, **reader)


def test_outcomes_are_told_apart(intact, reader):
    arrays = json.loads(intact.read_text())
    changed = {
        "right": arrays,
        "other values": arrays | {"conv/bias": [5]},
        "misfit": {"conv/kernel": [1, 2, 3], "conv/bia": [4]},
    }
    damages = [Damage(name, json.dumps(it).encode()) for name, it in changed.items()]
    tally = check_damaged(intact, [*damages, Damage("cut", b"{")], **reader)
    assert tally == {"right": 1, "other values": 1, "misfit": 1, "refused": 1}
    for damage in damages[1:]:
        with pytest.raises(AssertionError, match="other arrays came out"):
            check_damaged(intact, [damage], checksum=True, **reader)


def test_one_file_of_a_folder(tmp_path, reader):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "weights").write_text(json.dumps({"a": [0.5]}))
    tally = check_format(folder, truncated=5, flipped=0, member="weights", **reader)
    assert tally == {"refused": 5}
    assert json.loads((folder / "weights").read_text()) == {"a": [0.5]}


def test_a_reader_that_cannot_read_the_intact_file_proves_nothing(intact, reader):
    intact.write_text("no weights")
    with pytest.raises(AssertionError, match="the intact file must be readable"):
        check_damaged(intact, [], **reader)


def test_memory_is_that_of_one_file(intact, reader):
    """What an earlier file took does not count for a later one."""
    bomb = intact.with_name("bomb")
    bomb.write_text("bomb")
    with Children(1, reader=reader["reader"]) as children:
        used = [children.open(path)["memory"] for path in (intact, bomb, intact)]
    assert used[1] > 120 << 20
    assert used[2] < 1 << 24
