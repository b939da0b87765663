"""NumPy archives: arrays alone, read when they are asked for."""

import io
import struct
import zipfile

import numpy as np
import pytest
from damage import check_format, how_much

from greffon.errors import WeightFileError
from greffon.weights.read import npz_file

READER = "greffon.weights.read.npz_file"
ARRAYS = {
    "resnet/root_block/standardized_conv2d/kernel": np.random.default_rng(0).normal(size=(7, 7, 3, 8)).astype("f4"),
    "resnet/block1/unit01/a/group_norm/gamma": np.arange(8, dtype="f2"),
    "head/kernel": np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    "big_endian": np.arange(5, dtype=">f4"),
    "steps": np.int64(7),
}


def load(path):
    assert npz_file.recognises(path.read_bytes()[:512], path)
    with npz_file.opened(path) as contents:
        return contents, {name: tensor.load() for name, tensor in contents.tensors.items()}


def refused(path, match):
    with pytest.raises(WeightFileError, match=match):
        load(path)


def header(shape, dtype="<f4", more=""):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    contents, arrays = load(tmp_path / "x.npz")
    assert list(arrays) == list(ARRAYS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert contents.tensors[name].shape == ARRAYS[name].shape
    assert arrays["resnet/block1/unit01/a/group_norm/gamma"].dtype == np.float32
    assert arrays["steps"].dtype == np.int64


def test_bfloat16_and_text(tmp_path):
    import ml_dtypes

    values = np.array([1.5, -3.0]).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", w=values, words=np.array(["a", "b"]))
    contents, arrays = load(tmp_path / "x.npz")
    assert arrays["w"].tolist() == [1.5, -3.0]
    assert list(arrays) == ["w"]
    assert contents.notes == ["words is left out: it holds no numbers."]


def test_data_is_read_when_it_is_asked_for_and_then_checked(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **ARRAYS)
    kernel = ARRAYS["resnet/root_block/standardized_conv2d/kernel"].tobytes()
    path.write_bytes(path.read_bytes().replace(kernel, bytes(len(kernel))))
    with npz_file.opened(path) as contents:
        assert contents.tensors["resnet/root_block/standardized_conv2d/kernel"].shape == (7, 7, 3, 8)
        assert contents.tensors["head/kernel"].load().shape == (4, 6)
        with pytest.raises(WeightFileError, match="CRC"):
            contents.tensors["resnet/root_block/standardized_conv2d/kernel"].load()


def test_objects_are_refused_and_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "x.npz", w=np.ones(2), evil=np.array([Evil()], dtype=object))
    refused(tmp_path / "x.npz", "evil.npy holds Python objects")
    np.savez(tmp_path / "x.npz", evil=np.zeros(1, dtype=[("a", "f4"), ("b", "O")]))
    refused(tmp_path / "x.npz", "holds Python objects")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (header((4,)) + bytes(12), r"claims the shape \(4,\) of float32 in 12 bytes"),
        (header((1 << 40,)) + bytes(16), "claims the shape"),
        (header((1 << 30, 1 << 30)) + bytes(16), "claims the shape"),
        (header((-1,)) + bytes(16), "claims the shape"),
        (header((0, 1 << 60)), "claims the shape"),
        (header("(" * 4000), "damaged"),
        (header("__import__('os').system('true')"), "damaged"),
        (header((4,), more="'more': 1") + bytes(16), "damaged"),
        (b"\x93NUMPY\x03\x00" + header((4,))[8:] + bytes(16), r"version \(3, 0\)"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31), "damaged"),
        (b"no array", "damaged"),
    ],
)
def test_headers_that_lie(tmp_path, data, match):
    refused(archive(tmp_path / "x.npz", {"w.npy": data}), match)


def test_members_that_are_no_arrays(tmp_path):
    good = header((4,)) + bytes(16)
    refused(archive(tmp_path / "x.npz", {"w.npy": good, "../../evil.sh": b"rm"}), "expected arrays")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "y.npz", "w") as file:
        file.writestr("w.npy", good)
        file.writestr("w.npy", good)
    refused(tmp_path / "y.npz", "each once")
    refused(archive(tmp_path / "z.npz", {"w.npy": good}, zipfile.ZIP_LZMA), "compressed in a way")


def test_a_bomb(tmp_path):
    count = 96 << 20
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file, file.open("w.npy", "w") as member:
        member.write(header((count,), "|u1"))
        for _ in range(96):
            member.write(bytes(1 << 20))
    (tmp_path / "x.npz").write_bytes(data.getvalue())
    refused(tmp_path / "x.npz", "far more data than its size can hold")


def test_a_list_of_members_without_end(tmp_path):
    path = archive(tmp_path / "x.npz", {"w.npy": header((4,)) + bytes(16)})
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<L", 1 << 30)
    path.write_bytes(data)
    refused(path, "more than that of any network")


@how_much
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage(tmp_path, save, truncated, flipped):
    save(tmp_path / "x.npz", **ARRAYS)
    tally = check_format(tmp_path / "x.npz", truncated=truncated, flipped=flipped, reader=READER)
    assert tally["refused"] >= truncated
