"""How one activation lies in the store: the bytes of its tensors one after the other, then a checksum of them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

KEY_BYTES = 16
CHECKSUM_BYTES = 8


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one tensor of an activation.

    Attributes:
        shape: of one sample, without the batch axis.
        dtype: numpy's name with byte order, such as `<f2` for float16.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name} {'x'.join(map(str, self.shape)) or 'scalar'}"


@dataclass(frozen=True)
class TrunkInfo:
    """What the store keeps for one trunk.

    Attributes:
        digest: of the trunk, 16 bytes.
        label: for people, such as "thin, cut after conv5_block2_out, float16, 224 px".
        entries: samples kept.
        size_bytes: that these take on the disk.
        last_used: when somebody last read or wrote them, in UTC, to ten minutes.
        tensors: shape and dtype of each tensor of a record.
    """

    digest: bytes
    label: str
    entries: int
    size_bytes: int
    last_used: datetime
    tensors: tuple[TensorSpec, ...]


@dataclass
class Meta:
    """The row of one trunk in the table `trunks`, kept as JSON.

    Attributes:
        tensors: what every record of the trunk holds.
        label: for people.
        entries: number of records.
        size_bytes: that they take on the disk.
        last_used: seconds since 1970.
        evicted: how many records made room for other trunks.
    """

    tensors: tuple[TensorSpec, ...]
    label: str = ""
    entries: int = 0
    size_bytes: int = 0
    last_used: float = 0.0
    evicted: int = 0

    def dump(self) -> bytes:
        """As it is stored."""
        tensors = [[list(spec.shape), spec.dtype] for spec in self.tensors]
        return json.dumps(vars(self) | {"tensors": tensors}).encode()

    @classmethod
    def load(cls, text: Any) -> Meta:
        """From what is stored."""
        values = json.loads(bytes(text))
        values["tensors"] = tuple(TensorSpec(tuple(shape), dtype) for shape, dtype in values["tensors"])
        return cls(**values)


def checked_key(key: bytes, *, of: str = "sample") -> bytes:
    """The digest itself, if it is 16 bytes.

    Raises:
        InputError: it is not.
    """
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise InputError(f"the digest of a {of} must be {KEY_BYTES} bytes, got {key!r}")
    return key


def specs_of(arrays: Sequence[np.ndarray]) -> tuple[TensorSpec, ...]:
    """Shape and dtype of each array, without its first axis.

    Raises:
        InputError: no array, one without a first axis, of no size, or of a dtype that is not plain numbers.
    """
    if not arrays:
        raise InputError("an activation has at least one tensor, got none")
    for array in arrays:
        if array.ndim == 0 or not math.prod(array.shape[1:]) or array.dtype.kind not in "biufc":
            raise InputError(
                "tensors must be (rows, ...) with a size above 0 and of a numeric numpy dtype, "
                f"got {array.dtype} {array.shape}"
            )
    return tuple(TensorSpec(array.shape[1:], array.dtype.str) for array in arrays)


def check_specs(given: tuple[TensorSpec, ...], stored: tuple[TensorSpec, ...], digest: bytes) -> None:
    """Nothing, if both are the same.

    Raises:
        InputError: they differ.
    """
    if given != stored:
        raise InputError(
            f"trunk {digest.hex()} is stored as {', '.join(map(str, stored))}; got arrays for "
            f"{', '.join(map(str, given))}. Where shape or dtype of the activations differ, so must the digest"
        )


def pack(arrays: Sequence[np.ndarray], tensors: tuple[TensorSpec, ...]) -> np.ndarray:
    """One uint8 row per sample: the record as it is stored."""
    rows = len(arrays[0])
    length = sum(spec.nbytes for spec in tensors)
    packed = np.empty((rows, length + CHECKSUM_BYTES), np.uint8)
    start = 0
    for array, spec in zip(arrays, tensors, strict=True):
        values = np.ascontiguousarray(array).reshape(rows, -1)
        packed[:, start : start + spec.nbytes] = values.view(np.uint8)
        start += spec.nbytes
    for row in packed:
        row[length:] = np.frombuffer(xxhash.xxh3_64_digest(row[:length].data), np.uint8)
    return packed


def unpack(record: memoryview, tensors: tuple[TensorSpec, ...], out: Sequence[np.ndarray], row: int) -> bool:
    """Copy a record into one row of each array; False, and nothing copied, if it is not what was written."""
    length = sum(spec.nbytes for spec in tensors)
    if len(record) != length + CHECKSUM_BYTES:
        return False
    if xxhash.xxh3_64_digest(record[:length]) != bytes(record[length:]):
        return False
    start = 0
    for spec, array in zip(tensors, out, strict=True):
        values = np.frombuffer(record, spec.dtype, math.prod(spec.shape), start)
        array[row] = values.reshape(spec.shape)
        start += spec.nbytes
    return True


def disk_bytes(record: int, page: int) -> int:
    """What one record takes in the file, its share of the tree included."""
    key, node = 2 * KEY_BYTES, 10
    if record + key + node > (page - 16) // 2:  # too long for a leaf: whole pages of its own
        return math.ceil((record + 16) / page) * page + 2 * (key + node + 8)
    return math.ceil(1.45 * (record + key + node))  # leaves that grow in random order are 69 % full
