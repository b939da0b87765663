"""Safetensors files made or damaged to do harm, alone and in several files with their index."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from damage import Children, check_format, how_much

from greffon.errors import WeightFileError
from greffon.weights.read import opened, read

FOUR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def _file(path, header, data=bytes(16)):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": FOUR | {"data_offsets": [0, 1 << 40]}}, "needs 16 bytes and has"),
        ({"a": FOUR | {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, "cut off"),
        ({"a": FOUR | {"data_offsets": [16, 32]}}, "leaves a gap"),
        ({"a": FOUR, "b": FOUR}, "overlaps another tensor"),
        ({"a": FOUR, "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, "overlaps another tensor"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "something is behind its last tensor"),
        ({"a": FOUR | {"shape": [-4]}}, "makes no sense"),
        ({"a": FOUR | {"shape": [-2, -2]}}, "makes no sense"),
        ({"a": FOUR | {"shape": [1 << 62, 1 << 62, 4]}}, "needs"),
        ({"a": FOUR | {"shape": [1 << 32, 1 << 32]}}, "needs"),
        ({"a": FOUR | {"shape": [1] * 40 + [4]}}, "does not describe"),
        ({"a": FOUR | {"shape": [True, 4]}}, "makes no sense"),
        ({"a": FOUR | {"shape": "4"}}, "makes no sense"),
        ({"a": FOUR | {"data_offsets": [16, 0]}}, "needs 16 bytes and has -16"),
        ({"a": FOUR | {"data_offsets": [0.0, 16.0]}}, "makes no sense"),
        ({"a": 5}, "makes no sense"),
        ({"a": FOUR, "__metadata__": []}, "is no table"),
        (b'{"a": %s, "a": %s}' % ((json.dumps(FOUR).encode(),) * 2), "names 'a' twice"),
        (b'{"\xff": 1}', "cannot be read as JSON"),
        (b'{"a": ' + b"[" * 50_000, "cannot be read as JSON"),
        (b"{" + b" " * 5_000_000 + b"}", "Refused: it could fill the memory"),
        ({"a": FOUR | {"dtype": "F8_E4M3", "shape": [16]}}, "holds F8_E4M3"),
        ({"a": FOUR | {"dtype": "C64", "shape": [2]}}, "holds C64"),
        ({}, "something is behind"),
    ],
)
def test_headers_that_lie(tmp_path, header, reason):
    with pytest.raises(WeightFileError, match=reason):
        read(_file(tmp_path / "a.safetensors", header))


def test_a_header_of_100_megabytes(tmp_path):
    path = tmp_path / "a.safetensors"
    good = tmp_path / "good.safetensors"
    safetensors.numpy.save_file({"a/kernel": np.ones(4, np.float32)}, good)
    with path.open("wb") as file:
        file.write((100_000_000).to_bytes(8, "little") + b'{"a":')
        file.truncate(8 + 100_000_000 + 16)
    with Children(1) as children:
        assert "arrays" in children.open(good)
        answer = children.open(path)
    assert "its header has 100,000,000 bytes" in answer["refused"]
    assert answer["memory"] < 16 << 20


def test_every_precision_of_a_network_is_read(tmp_path):
    values = np.array([[0.5, -2.0, 0.0], [3.25, 1.0, -0.0]])
    tensors = {
        f"{np.dtype(dtype).name}/kernel": values.astype(dtype)
        for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_)
    }
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors").arrays
    assert set(found) == set(tensors)
    for name, expected in tensors.items():
        floating = expected.dtype.kind in "fV"
        assert found[name].dtype == (np.float32 if floating else expected.dtype)
        np.testing.assert_array_equal(found[name], expected.astype(np.float32) if floating else expected)


def test_an_empty_and_a_scalar_tensor(tmp_path):
    tensors = {"a": np.zeros((0, 3), np.float32), "b": np.array(2.0, np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors").arrays
    assert found["a"].shape == (0, 3) and found["b"] == 2.0


def test_one_tensor_is_read_without_the_others(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.ones(4, np.float32), "b": np.full(4, 7, np.float32)}, path)
    with opened(path) as contents:
        path.write_bytes(path.read_bytes()[:-16])  # b is gone, a is still there
        np.testing.assert_array_equal(contents.tensors["a"].load(), np.ones(4))
        with pytest.raises(WeightFileError, match="cut off while it was read: 0 of 4"):
            contents.tensors["b"].load()


@pytest.fixture
def sharded(tmp_path):
    """Two files and their index, as Hugging Face saves them."""
    folder = tmp_path / "model"
    folder.mkdir()
    shards = {
        "model-00001-of-00002.safetensors": {"a.weight": np.ones((2, 2), np.float32), "a.bias": np.ones(2, np.float32)},
        "model-00002-of-00002.safetensors": {"b.weight": np.full((3, 2), 2, np.float16)},
    }
    for name, tensors in shards.items():
        safetensors.numpy.save_file(tensors, folder / name, metadata={"format": "pt"})
    where = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    _index(folder, where)
    return folder, where


def _index(folder, where):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 36}, "weight_map": where})
    )


@pytest.mark.parametrize("by", ["folder", "index", "renamed"])
def test_several_files_are_one(sharded, by):
    folder, where = sharded
    path = folder
    if by != "folder":
        path = folder / "model.safetensors.index.json"
    if by == "renamed":
        path = path.rename(folder / "weights.bin")
    found = read(path)
    assert list(found.arrays) == list(where)
    np.testing.assert_array_equal(found.arrays["b.weight"], np.full((3, 2), 2, np.float32))
    assert found.metadata == {"total_size": "36", "format": "pt"}


def test_a_folder_with_one_file_and_no_index(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(4, np.float32)}, tmp_path / "model.safetensors")
    assert list(read(tmp_path).arrays) == ["a"]


SECOND = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "a.bin", "", 5])
def test_files_outside_the_folder_are_never_opened(sharded, name):
    folder, where = sharded
    safetensors.numpy.save_file({"b.weight": np.ones(1, np.float32)}, folder.parent / "secret.safetensors")
    _index(folder, where | {"b.weight": name})
    with pytest.raises(WeightFileError, match=r"expected a plain name of a file beside it\. Refused"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda where: where | {"c.weight": SECOND}, "names 1 tensors that are not where it says, such as 'c.weight'"),
        (lambda where: where | {"c.weight": "model-3.safetensors"}, "model-3.safetensors, .* is not in the folder"),
        (
            lambda where: where | {"b.weight": "model-00001-of-00002.safetensors"},
            "not where it says, such as 'b.weight'",
        ),
        (lambda where: where | {"a.bias": SECOND}, "which is in model-00002.* by the index"),
        (lambda where: {name: it for name, it in where.items() if name != "a.bias"}, "which is not in the index"),
        (lambda where: where | {f"x{it}": f"{it}.safetensors" for it in range(200)}, "names 202 files"),
        (lambda where: {}, "has no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_files(sharded, change, reason):
    folder, where = sharded
    _index(folder, change(where))
    with pytest.raises(WeightFileError, match=reason):
        read(folder)


def test_a_tensor_in_two_files(sharded):
    folder, _ = sharded
    safetensors.numpy.save_file(
        {"b.weight": np.ones((3, 2), np.float16), "a.bias": np.ones(2, np.float32)}, folder / SECOND
    )
    with pytest.raises(WeightFileError, match=r"holds 'a.bias', which is in model-00001.* by the index"):
        read(folder)


def test_two_indexes_and_a_name_twice(sharded):
    folder, _ = sharded
    index = folder / "model.safetensors.index.json"
    other = folder / "ema.safetensors.index.json"
    other.write_text(index.read_text())
    with pytest.raises(WeightFileError, match="has 2 indexes"):
        read(folder)
    other.unlink()
    index.write_text('{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}')
    with pytest.raises(WeightFileError, match="names 'a' twice"):
        read(folder)


def _small(path):
    random = np.random.default_rng(0)
    layers = ("a", "b", "c", "d")
    safetensors.numpy.save_file({f"{it}/kernel": random.normal(size=(3, 3, 2, 2)).astype("f4") for it in layers}, path)
    return path


@how_much
def test_damaged_files(tmp_path, truncated, flipped):
    tally = check_format(_small(tmp_path / "a.safetensors"), truncated=truncated, flipped=flipped)
    assert tally["refused"] >= truncated


@how_much
@pytest.mark.parametrize("member", ["model.safetensors.index.json", SECOND])
def test_damaged_folders(sharded, truncated, flipped, member):
    folder, _ = sharded
    tally = check_format(folder, truncated=truncated, flipped=flipped, member=member)
    assert tally["refused"] >= truncated // 2
