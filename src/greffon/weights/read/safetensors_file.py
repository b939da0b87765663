"""Safetensors: names, shapes and plain numbers; nothing in it can run."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import WeightArrays

if TYPE_CHECKING:
    from pathlib import Path

NAME = "safetensors"
_LARGEST_HEADER = 100_000_000  # the format's own limit, in bytes


def recognises(head: bytes, path: Path) -> bool:
    """A header length of 8 bytes, then JSON."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= _LARGEST_HEADER


def read(path: Path) -> WeightArrays:
    """Read a safetensors file.

    Raises:
        WeightFileError: it is cut off or its header does not describe its content.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            weights = WeightArrays({}, NAME, metadata=dict(file.metadata() or {}))
            for name in file.keys():  # noqa: SIM118  # the object is not a mapping
                layer, _, weight = name.rpartition("/")
                weights.add(layer, weight, file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise WeightFileError(f"its header does not fit its content, as when a download was cut off: {error}") from None
    weights.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in weights.arrays))
    return weights
