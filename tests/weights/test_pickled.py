"""Pickles read as data: right values, and hostile ones that run nothing, hang nowhere and stay small."""

import argparse
import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess

import numpy as np
import pytest
from damage import Damage, check_damaged, check_format, how_much

from greffon.errors import WeightFileError
from greffon.weights.read import opened, torch_bare
from greffon.weights.read.pickled import read_pickle
from greffon.weights.read.pickled_steps import STEPS, STOP
from greffon.weights.read.pickled_values import Inert, Opaque, Source
from greffon.weights.read.torch_names import Names

READER = "greffon.weights.read.torch_bare"


def value_of(data, names=None):
    return read_pickle(Source(io.BytesIO(data), 0, len(data)), (names or Names()).find)


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def named(full):
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode()


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


class Slots:
    __slots__ = ("x",)


PLAIN = {
    "none": None,
    "flags": [True, False],
    "numbers": [0, 255, 65535, -1, 1 << 31, -(1 << 70), 0.5, float("inf")],
    "text": "größe",
    "bytes": b"\x00\xff",
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "ordered": collections.OrderedDict(a=1, b=2),
    "counter": collections.Counter("aab"),
    "default": collections.defaultdict(int, a=3),
    "deque": [1],
    "nested": {"a": {"b": {"c": []}}},
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_as_they_are(protocol):
    assert value_of(pickle.dumps(PLAIN, protocol)) == PLAIN
    assert sorted(value_of(pickle.dumps({3, 1, 2}, protocol))) == [1, 2, 3]
    assert value_of(pickle.dumps(collections.deque([1, 2]), protocol)) == [1, 2]


def test_every_step_of_pickles_is_known():
    codes = {ord(it.code) for it in pickletools.opcodes}
    assert codes == set(STEPS) | {STOP}


def test_keys_that_could_be_made_to_collide_are_no_keys():
    keys = list(value_of(pickle.dumps({"a": 0, 1: 1, (1, 2): 2, 0.5: 3})))
    assert keys[0] == "a"
    assert all(type(key) is Opaque for key in keys[1:])


@pytest.mark.parametrize("protocol", range(6))
def test_objects_of_unknown_classes_keep_their_state_and_are_noted(protocol):
    names = Names()
    found = value_of(pickle.dumps(argparse.Namespace(arch="resnet50", lr=0.1), protocol), names)
    assert type(found) is Inert
    assert found.name == "argparse.Namespace"
    assert found.state == {"arch": "resnet50", "lr": 0.1}
    assert "argparse.Namespace" in names.notes()[0]


def test_slots_and_keywords_are_kept_by_nobody():
    made = value_of(b"\x80\x02" + named("a.B") + b")\x81N}" + text("x") + b"K\x07s\x86b.")
    assert made.state == {"x": 7}
    assert type(value_of(b"\x80\x04" + named("a.B") + b")}\x92.")) is Inert
    # A state that asks for a method, a class or a dictionary is a dict with such words in it.
    evil = value_of(b"\x80\x02" + named("a.B") + b")\x81}" + text("__class__") + named("a.C") + b"sb.")
    assert type(evil) is Inert


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        *[(os.system, ("touch {}",)), (eval, ("open({!r}, 'w')",)), (exec, ("open({!r}, 'w')",)), (open, ("{}", "w"))],
        *[(subprocess.Popen, (["touch"],)), (__import__, ("os",)), (getattr, ("a", "b")), (pickle.loads, (b"N.",))],
        *[(np.load, ("{}",)), (os.unlink, ("{}",)), (compile, ("1", "{}", "eval"))],
    ],
)
def test_calls_are_refused_by_name_and_not_run(tmp_path, function, arguments, protocol):
    mark = tmp_path / "it-ran"
    filled = [it.format(str(mark)) if isinstance(it, str) else it for it in arguments]
    data = pickle.dumps({"conv.weight": Call(function, *filled)}, protocol)
    with pytest.raises(WeightFileError, match=f"it names .*{function.__name__}, which could run code"):
        value_of(data)
    assert not mark.exists()


ESCAPES = {
    "dotted name": b"\x80\x04" + text("argparse") + text("_os.system") + b"\x93.",
    "a module in another": named("torch.serialization.os") + b".",
    "dunder in a name": b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
    "INST": b"(X\x02\x00\x00\x00idios\nsystem\n.",
    "OBJ": b"(" + named("os.system") + text("id") + b"o.",
    "NEWOBJ_EX": b"\x80\x04" + named("subprocess.Popen") + text("id") + b"\x85}\x92.",
    "by the memo": b"\x80\x04" + text("os") + b"\x94" + text("system") + b"\x94h\x00h\x01\x93.",
    "frame that lies": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f" + named("os.system") + b".",
    "nested pickle": named("torch.storage._load_from_bytes") + b".",
    "torch.load": named("torch.load") + b".",
    "in torch.hub": named("torch.hub.load") + b".",
    "codec": named("codecs.decode") + b".",
    "operator": named("operator.attrgetter") + b".",
    "functools": named("functools.reduce") + b".",
    "run by partial": named("functools.partial") + named("posix.system") + b"\x85R.",
    "importlib": named("importlib.import_module") + b".",
    "runpy": named("runpy.run_path") + b".",
    "ctypes": named("ctypes.CDLL") + b".",
    "Python 2": named("__builtin__.apply") + b".",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_ways_round_are_refused(name):
    with pytest.raises(WeightFileError, match="it names"):
        value_of(ESCAPES[name])


def test_another_codec_than_that_of_bytes_is_refused():
    with pytest.raises(WeightFileError, match="other than latin1"):
        value_of(named("_codecs.encode") + text("x") + text("rot13") + b"\x86R.")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x82\x01.", "extension"),
        (b"\x84\x01\x00\x00\x00.", "extension"),
        (b"\x97.", "buffer outside"),
        (b"Pid\n.", "points outside"),
        (b"NQ.", "points outside"),
        (b"\x80\x06N.", "protocol 6"),
        (b".", "damaged at byte"),
        (b"\xff", "no step 0xff"),
        (b"h\x07.", "damaged"),
        (b"Ng-1\n.", "damaged"),
        (b"N)R.", "calls what is no class"),
        (b"K\x01K\x02R.", "call without arguments"),
        (b"K\x01K\x02\x93.", "no name"),
        (b"}K\x01a.", "damaged"),
        (b"(K\x01d.", "key without a value"),
        (b"t.", "damaged"),
        (b"Sabc\n.", "no quotes"),
        (b"B\xff\xff\xff\x7fabc", "are announced"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "are announced"),
        (b"\x8b\xff\xff\xff\x7f" + bytes(64), "integer of 2,147,483,647 bytes"),
        (b"I" + b"9" * 5000 + b"\n.", "more digits"),
        (b"Nr\xff\xff\xff\xff.", "more objects than its size justifies"),
        (b"Np99999999999999999999\n.", "more objects"),
        (b"I12", "no end"),
        (b"", "are announced"),
    ],
)
def test_what_no_weight_file_needs_is_refused(data, why):
    with pytest.raises(WeightFileError, match=why):
        value_of(data)


def test_long_bytes_stay_in_the_file():
    big = bytes(range(256)) * 100
    span = value_of(pickle.dumps(big, 4))
    assert span.size == len(big)
    assert span.read() == big


def _doubling(depth):
    """A tuple that holds itself twice, `depth` times over: nothing may walk, hash or print it."""
    return b"K\x01" + b"2\x86" * depth


BOMBS = {
    "empty lists": b"\x80\x02" + b"]" * 1_900_000 + b".",
    "marks": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "empty dicts": b"\x80\x02" + b"}" * 1_900_000 + b".",
    "memo": b"\x80\x04N" + b"\x94" * 3_000_000 + b".",
    "objects": b"\x80\x02" + named("a.B") + b"q\x00" + b"h\x00)\x81" * 600_000 + b".",
    "doubled tuples as a key": b"\x80\x02}" + _doubling(2000) + b"K\x01s.",
    "doubled tuples called": b"\x80\x02" + named("torch._utils._rebuild_tensor_v2") + _doubling(2000) + b"R.",
    "doubled tuples as a storage": b"\x80\x02" + _doubling(2000) + b"Q.",
    "deep lists": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "deep tuples": b"\x80\x02N" + b"\x85" * 700_000 + b".",
    "doubled dicts": b"\x80\x02}q\x00" + (b"}" + text("a") + b"h\x002" + text("b") + b"h\x00s0") * 2 + b".",
    "numbers of equal hash": b"\x80\x02}("
    + b"".join(b"I%d\nN" % (it * ((1 << 61) - 1)) for it in range(60_000))
    + b"u.",
    "a module of itself": b"\x80\x02"
    + named("a.M")
    + b")\x81q\x00}"
    + text("_modules")
    + b"}("
    + b"".join(text(f"m{it}") + b"h\x00" for it in range(50))
    + b"usb.",
    "a dict of itself": b"\x80\x02}q\x00(" + b"".join(text(f"m{it}") + b"h\x00" for it in range(50)) + b"u.",
    "one state for all": b"\x80\x02}q\x00("
    + b"".join(text(f"k{it}") + b"N" for it in range(20_000))
    + b"u0"
    + named("a.M")
    + b"q\x01]("
    + b"h\x01)\x81h\x00b" * 20_000
    + b"e.",
    "escapes": b"S'" + b"\\x41" * 16_000 + b"'\n0" + (b"S'" + b"\\x41" * 16_000 + b"'\n0") * 300 + b"N.",
}


def test_bombs_are_refused_in_time_and_small(tmp_path):
    """In a child, which has ten seconds and 100 MB for each."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"a": np.ones(3, np.float32)}))
    damages = [Damage(name, data) for name, data in BOMBS.items()]
    tally = check_damaged(path, damages, reader=READER, memory=100 << 20, workers=1)
    assert tally == {"refused": len(BOMBS)}


def test_arrays_by_themselves(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "a": random.normal(size=(3, 4, 50, 20)).astype(np.float32),
        "fortran": np.asfortranarray(random.normal(size=(5, 4))),
        "big": np.arange(3000, dtype=">i4"),
        "half": random.normal(size=7).astype(np.float16),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(3),
        "flags": np.array([True, False]),
    }
    path = tmp_path / "weights.pkl"
    for protocol in (2, 3, 4, 5):
        words = {"__author__": "MOCO", "n": np.float32(0.5), "x": np.array(["a", None])}
        path.write_bytes(pickle.dumps({"model": arrays, **words}, protocol))
        assert torch_bare.recognises(path.read_bytes()[:512], path)
        with torch_bare.opened(path) as contents:
            assert contents.metadata == {"__author__": "MOCO", "n": "0.5"}
            assert list(contents.tensors) == list(arrays)
            for name, array in arrays.items():
                assert contents.tensors[name].shape == array.shape
                assert contents.tensors[name].dtype == array.dtype.newbyteorder("=").name
                expected = array.astype(np.float32) if array.dtype.kind == "f" else array
                np.testing.assert_array_equal(contents.tensors[name].load(), expected)


def test_arrays_whose_sizes_lie(tmp_path):
    path = tmp_path / "weights.pkl"
    data = pickle.dumps({"a": np.ones(5000, np.float32)}, 3)
    assert data.count(b"M\x88\x13") == 1
    path.write_bytes(data.replace(b"M\x88\x13", b"M\x89\x13"))
    with pytest.raises(WeightFileError, match="claims 20,004 bytes"), torch_bare.opened(path):
        pass
    path.write_bytes(pickle.dumps({"a": np.array([Slots], object)}))
    with pytest.raises(WeightFileError, match="it holds no weights"), torch_bare.opened(path):
        pass


def test_an_array_described_twice_is_what_was_said_last(tmp_path):
    path = tmp_path / "weights.pkl"
    begin = b"\x80\x02}(" + text("b") + named("numpy.dtype") + text("f4") + b"\x85Rq\x01" + text("a")
    array = named("numpy.core.multiarray._reconstruct") + b")R"
    first = b"(K\x01K\x02\x85h\x01\x89U\x08" + bytes(8) + b"tb"
    path.write_bytes(begin + array + first + b"u.")
    with torch_bare.opened(path) as contents:
        np.testing.assert_array_equal(contents.tensors["a"].load(), [0, 0])
    path.write_bytes(begin + array + first + b"(K\x01K\x07\x85N\x89U\x08" + bytes(8) + b"tbu.")
    with pytest.raises(WeightFileError, match="it holds no weights"), opened(path):
        pass


def test_safetensors_is_no_pickle(tmp_path):
    assert not torch_bare.recognises(struct.pack("<Q", 0x0280) + b'{"a"', tmp_path)


@how_much
def test_damaged_pickles(tmp_path, truncated, flipped):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {f"w{it}": np.ones((2, 3), np.float32) for it in range(8)}, "n": 3}, 4))
    tally = check_format(path, truncated=truncated, flipped=flipped, reader=READER)
    assert tally["refused"] >= truncated
