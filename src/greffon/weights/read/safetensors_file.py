"""Safetensors: names, shapes and plain numbers; nothing in it can run.

The header is read here and not by the safetensors library, which takes 100 MB of JSON and lets a second tensor of the
same name win. Numbers are read from the place that the header gives, each tensor when it is asked for.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Contents, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greffon.weights.read.arrays import Array, Shape

NAME = "safetensors"
_FORMATS_LIMIT = 100_000_000  # bytes of a header that the format allows
_LARGEST_HEADER = 1 << 22  # bytes that are read; that of a ResNet-152 has 100 kB
_MOST_AXES = 32
_METADATA = "__metadata__"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
# How NumPy is to read what it has no type for, or not a safe one.
_STORED = {"bfloat16": "uint16", "bool": "uint8"}


def recognises(head: bytes, path: Path) -> bool:
    """A header length of 8 bytes, then JSON."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= _FORMATS_LIMIT


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A safetensors file, open for reading.

    Raises:
        WeightFileError: it is cut off, its header does not describe its content, or it holds what no network
            of this kind has.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise WeightFileError(f"it cannot be opened: {error.strerror or error}") from None
    with file:
        header, start = _header(file, path.stat().st_size)
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict):
            raise WeightFileError(f"its header does not describe its content: {_METADATA} is no table")
        contents = Contents({}, NAME, metadata={str(key): str(value) for key, value in metadata.items()})
        places = [_place(name, entry) for name, entry in header.items()]
        _check_places(places, path.stat().st_size - start)
        for name, dtype, shape, begin, _ in places:
            contents.add(name, Tensor(shape, dtype, partial(_numbers, file, dtype, shape, start + begin)))
        contents.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in contents.tensors))
        yield contents


_Place = tuple[str, str, "Shape", int, int]
"""Name, dtype, shape, first byte and the byte after the last, counted behind the header."""


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the numbers begin."""
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if length > _LARGEST_HEADER:
        raise WeightFileError(
            f"its header has {length:,} bytes, at most {_LARGEST_HEADER:,} are read. Refused: it could fill the memory"
        )
    if 8 + length > size:
        raise WeightFileError(f"it is cut off within its header: {size:,} bytes are there. Copy or download it again")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=without_doubles)
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"its header cannot be read as JSON: {error}") from None
    if not isinstance(header, dict):
        raise WeightFileError("its header does not describe its content: it is no table of tensors")
    return header, 8 + length


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON (`object_pairs_hook`) in which every name is there once.

    Raises:
        WeightFileError: a name is there twice.
    """
    table = dict(pairs)
    if len(table) < len(pairs):
        double, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise WeightFileError(f"it names {double[:80]!r} twice, and which one is meant cannot be told")
    return table


def _place(name: str, entry: Any) -> _Place:
    entry = entry if isinstance(entry, dict) else {}
    stored, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(stored, str) or not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        raise WeightFileError(f"its header does not describe its content: the entry {name[:80]!r} makes no sense")
    if stored not in _DTYPES:
        raise WeightFileError(
            f"the array {name[:80]!r} holds {stored[:20]}, which is no precision of a network to train: expected one "
            f"of {', '.join(_DTYPES)}"
        )
    dtype, (begin, end) = _DTYPES[stored], offsets
    expected = math.prod(shape) * np.dtype(_STORED.get(dtype, dtype)).itemsize
    if len(shape) > _MOST_AXES or end - begin != expected:
        raise WeightFileError(
            f"its header does not describe its content: {name[:80]!r} of shape {str(tuple(shape))[:80]} needs "
            f"{expected:,} bytes and has {end - begin:,}"
        )
    return name, dtype, tuple(shape), begin, end


def _whole(numbers: Any) -> bool:
    """Whether it is a list of whole numbers of at least 0."""
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _check_places(places: list[_Place], size: int) -> None:
    """Every byte behind the header belongs to one tensor, as the format wants it."""
    reached = 0
    for name, _, _, begin, end in sorted(places, key=lambda place: place[3:]):
        if begin != reached:
            what = "overlaps another tensor" if begin < reached else "leaves a gap before it"
            raise WeightFileError(f"its header does not describe its content: {name[:80]!r} {what}. Refused")
        reached = end
    if reached != size:
        why = "it is cut off. Copy or download it again" if reached > size else "something is behind its last tensor"
        raise WeightFileError(f"its header does not fit its content ({reached:,} bytes named, {size:,} there): {why}")


def _numbers(file: BinaryIO, dtype: str, shape: Shape, start: int) -> Array:
    file.seek(start)
    count = math.prod(shape)
    values = np.fromfile(file, np.dtype(_STORED.get(dtype, dtype)).newbyteorder("<"), count)
    if values.size != count:
        raise WeightFileError(f"the file was cut off while it was read: {values.size:,} of {count:,} numbers came")
    if dtype == "bfloat16":
        import ml_dtypes

        return values.astype("uint16", copy=False).view(ml_dtypes.bfloat16).reshape(shape)
    return (values != 0 if dtype == "bool" else values).reshape(shape)
