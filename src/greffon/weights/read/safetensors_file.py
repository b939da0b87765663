"""Safetensors: names, shapes and plain numbers; nothing in it can run."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Contents, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "safetensors"
_LARGEST_HEADER = 100_000_000  # the format's own limit, in bytes
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


def recognises(head: bytes, path: Path) -> bool:
    """A header length of 8 bytes, then JSON."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= _LARGEST_HEADER


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A safetensors file, open for reading.

    Raises:
        WeightFileError: it is cut off or its header does not describe its content.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            contents = Contents({}, NAME, metadata=dict(file.metadata() or {}))
            for name in file.keys():  # noqa: SIM118  # the object is not a mapping
                contents.add(name, _tensor(file, name))
            contents.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in contents.tensors))
            yield contents
    except (SafetensorError, OSError) as error:
        raise WeightFileError(f"its header does not fit its content, as when a download was cut off: {error}") from None


def _tensor(file: Any, name: str) -> Tensor:
    piece = file.get_slice(name)
    dtype = piece.get_dtype()
    if dtype not in _DTYPES:
        raise WeightFileError(f"the array {name!r} holds {dtype}, expected one of {', '.join(_DTYPES)}")
    return Tensor(tuple(piece.get_shape()), _DTYPES[dtype], lambda: file.get_tensor(name))
