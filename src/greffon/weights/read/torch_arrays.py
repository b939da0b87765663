"""Tensors as PyTorch pickles them: a stretch of a storage with an offset, sizes and strides. Checked, not read."""

from __future__ import annotations

import math
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Array, Shape, Tensor

if TYPE_CHECKING:
    from typing import BinaryIO

# Bytes per number -> what is read.
_READ = {
    8: ("float64", "int64", "uint64"),
    4: ("float32", "int32", "uint32"),
    2: ("float16", "bfloat16", "int16", "uint16"),
    1: ("int8", "uint8", "bool"),
}
READABLE = {name: size for size, names in _READ.items() for name in names}
# What is known well enough to be stepped over.
_LEFT_OUT = {
    16: ("complex128",),
    8: ("complex64",),
    4: ("complex32", "qint32"),
    1: (
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("qint8", "quint8", "quint4x2", "quint2x4"),
    ),
}
_SIZES = READABLE | {name: size for size, names in _LEFT_OUT.items() for name in names}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Untyped": "uint8",
    "_Untyped": "uint8",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}
_MOST_AXES = 32
_MOST = 1 << 48  # of bytes or numbers in anything
_PIECE = 1 << 22


class Dtype:
    """A type of numbers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = _SIZES[name]


class StorageType(Dtype):
    """A class of storages, which implies a type of numbers."""


def dtypes() -> dict[str, Any]:
    """Full name in PyTorch -> type of numbers or class of storages."""
    found: dict[str, Any] = {f"torch.{name}": Dtype(name) for name in _SIZES}
    for prefix, name in _STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            found[f"{module}.{prefix}Storage"] = StorageType(name)
    return found


class Region:
    """A stretch of the file that holds numbers.

    Args:
        file: open for reading.
        start: its first byte.
        size: how many bytes, all of them inside the file.
        crc: the CRC-32 of them, where the file says it.
    """

    def __init__(self, file: BinaryIO, start: int, size: int, crc: int | None = None) -> None:
        self.size = size
        self._file = file
        self._start = start
        self._crc = crc  # None once it has been checked

    def read(self, offset: int, size: int) -> Array:
        """Bytes of it.

        Raises:
            WeightFileError: the region is not what was written.
        """
        if self._crc is not None and size < self.size:
            self.check()
        data = np.empty(size, np.uint8)
        self._file.seek(self._start + offset)
        if self._file.readinto(data.data) != size:  # type: ignore[attr-defined]
            raise WeightFileError("the file became shorter while it was read")
        if self._crc is not None:
            self._compare(zlib.crc32(data.data))
        return data

    def check(self) -> None:
        """Hold all of it against the checksum, if there is one that was not looked at."""
        if self._crc is None:
            return
        self._file.seek(self._start)
        crc, left = 0, self.size
        while left:
            piece = self._file.read(min(left, _PIECE))
            if not piece:
                raise WeightFileError("the file became shorter while it was read")
            crc, left = zlib.crc32(piece, crc), left - len(piece)
        self._compare(crc)

    def _compare(self, crc: int) -> None:
        if crc != self._crc:
            raise WeightFileError("its numbers are damaged: they do not fit their checksum")
        self._crc = None


class Storage:
    """Numbers in a row, of which tensors are views.

    Attributes:
        key: what the file calls it.
        dtype: of the numbers.
        size: bytes, as claimed; those of `region` once that is known.
        region: where they are.
    """

    def __init__(self, key: str, dtype: Dtype, count: int) -> None:
        self.key = key
        self.dtype = dtype
        self.size = count * dtype.size
        self.region: Region | None = None
        self.big_endian = False


class StorageView(Storage):
    """A stretch of a storage, as the first versions of PyTorch wrote it."""

    def __init__(self, whole: Storage, offset: int, count: int) -> None:
        super().__init__(whole.key, whole.dtype, count)
        self.whole = whole
        self.start = offset * whole.dtype.size
        if self.start + self.size > whole.size:
            raise WeightFileError(f"a view of storage {whole.key[:40]!r} lies outside of it")


class StoredArray:
    """Numbers in the file with a shape.

    Attributes:
        shape: of them.
        dtype: NumPy's name, or "bfloat16".
        cost: the most bytes that reading takes at a time.
    """

    shape: Shape = ()
    dtype = ""
    cost = 0

    @property
    def usable(self) -> bool:
        """Whether these are plain numbers that can be read."""
        return self.dtype in READABLE

    def read(self) -> Array:
        """The numbers."""
        raise NotImplementedError

    def tensor(self) -> Tensor:
        """As a tensor of an open file."""
        return Tensor(self.shape, self.dtype, self.read)


class TorchArray(StoredArray):
    """A tensor: a strided view of a storage, proved to lie inside it."""

    def __init__(self, storage: Storage, dtype: Dtype, offset: int, shape: Shape, strides: Shape) -> None:
        if len(shape) != len(strides) or len(shape) > _MOST_AXES:
            raise WeightFileError(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
        self.shape = shape
        self.dtype = dtype.name
        self._storage = storage
        self._itemsize = dtype.size
        self._strides = strides
        self._start = offset * dtype.size
        numbers = checked_size(shape)
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        self._span = (last + 1) * dtype.size if numbers else 0
        if self._span and self._start + self._span > storage.size:
            raise WeightFileError(
                f"a tensor of shape {shape} needs {self._start + self._span:,} bytes of a storage "
                f"that has {storage.size:,}"
            )
        self.cost = max(self._span, numbers * dtype.size)

    def read(self) -> Array:
        """The numbers, as stored."""
        from numpy.lib.stride_tricks import as_strided

        dtype = numpy_dtype(self.dtype)
        if not self._span:
            return np.zeros(self.shape, dtype)
        storage: Storage = self._storage
        start = self._start
        if isinstance(storage, StorageView):
            start += storage.start
            storage = storage.whole
        if storage.region is None:
            raise WeightFileError("its numbers are not in the file")
        data = storage.region.read(start, self._span)
        swap_bytes(data, self._itemsize, big_endian=storage.big_endian)
        # Inside `data`, for the last number that the strides reach was checked above.
        strides = tuple(stride * self._itemsize for stride in self._strides)
        return np.ascontiguousarray(as_strided(data.view(dtype), self.shape, strides)).reshape(self.shape)


def checked_size(shape: Shape) -> int:
    """Numbers in an array of this shape.

    Raises:
        WeightFileError: it is beyond anything that can be.
    """
    if math.prod(max(size, 1) for size in shape) > _MOST:
        raise WeightFileError(f"an array claims the shape {shape}")
    return math.prod(shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's type for one of `READABLE`."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def swap_bytes(data: Array, itemsize: int, *, big_endian: bool) -> None:
    """Bring bytes into this machine's order, in place."""
    if itemsize > 1 and big_endian != (sys.byteorder == "big"):
        data.view(f"u{itemsize}").byteswap(inplace=True)


def integers(value: Any) -> Shape:
    """A tuple or list of sizes, as such.

    Raises:
        WeightFileError: it is none.
    """
    if type(value) not in (tuple, list) or len(value) > _MOST_AXES:
        raise WeightFileError("its pickle is damaged: sizes are expected as a tuple of integers")
    return tuple(integer(it) for it in value)


def integer(value: Any) -> int:
    """A size or an offset.

    Raises:
        WeightFileError: it is none.
    """
    if type(value) is not int or not 0 <= value < _MOST:
        raise WeightFileError("its pickle is damaged: a size or an offset is no sensible integer")
    return value
