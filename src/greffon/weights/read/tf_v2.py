"""TensorFlow's checkpoint format since 1.0: an index, which is a table, and shards of plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Array, Contents, Shape, Tensor
from greffon.weights.read.crc32c import crc32c, masked
from greffon.weights.read.members import open_member
from greffon.weights.read.tf_names import GRAPH_KEY, Variable, names_of, network_variables, of_network
from greffon.weights.read.wire import Source, Span, checked_shape

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from greffon.weights.read.tf_table import Table

_LARGEST_INDEX = 1 << 22  # bytes; that of a ResNet-50 has 50 kB
_LARGEST_GRAPH = 1 << 26
_MOST_SHARDS = 10_000
_STRING = 7
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}


def contents(index: Path, table: Table, stack: ExitStack) -> Contents:
    """Names, shapes and types of what an index names; numbers when a tensor is loaded.

    Args:
        index: the file that `table` is.
        table: the open index.
        stack: closes the shards.

    Raises:
        WeightFileError: the index does not fit its shards or itself.
    """
    return _Bundle(index, table, stack).contents()


@dataclass(frozen=True)
class _Stored:
    """What the index says of one key."""

    dtype: int
    shape: Shape
    shard: int
    place: Span
    crc: int
    sliced: bool

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == 14 else np.dtype(DTYPES[self.dtype]).itemsize


class _Bundle:
    def __init__(self, index: Path, table: Table, stack: ExitStack) -> None:
        if table.source.size > _LARGEST_INDEX:
            raise WeightFileError(f"its index has {table.source.size:,} bytes, more than that of any network")
        self._index, self._stack = index, stack
        self._files: dict[int, Source] = {}
        self._stored: dict[str, _Stored] = {}
        self._shards = 0
        for entry in table.entries(checked=True):
            value = Source(table.value(entry))
            if not entry.key:
                self._shards = _shards(value)
            elif not entry.key.startswith(b"\x00"):  # so begins the key of a slice of a tensor
                self._stored[_text(entry.key)] = _stored(value, _text(entry.key))
        self._check_places()

    def contents(self) -> Contents:
        graph = GRAPH_KEY in self._stored
        result = Contents({}, "TensorFlow checkpoint", metadata={"names": "object graph" if graph else "variables"})
        variables = self._of_network() if graph else [Variable(it, it) for it in of_network(self._stored)]
        left_out = len(self._stored) - len(variables) - graph
        if left_out:
            result.notes.append(f"{left_out} arrays of the optimizer, of metrics and counters are left out.")
        numbers = [it for it in variables if self._holds_numbers(it.key, result)]
        by_key = {it.key: it for it in numbers}
        named = names_of((it, self._content(it.key)) for it in numbers) if graph else by_key
        for name, variable in named.items():
            result.add(name, self._tensor(name, self._stored[variable.key]))
        result.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in result.tensors))
        return result

    def _of_network(self) -> list[Variable]:
        """The variables that the object graph gives to the network, each once."""
        found = {it.key: it for it in network_variables(self._string(self._stored[GRAPH_KEY]))}
        missing = [key for key in found if key not in self._stored]
        if missing:
            raise WeightFileError(f"its object graph names {missing[0]!r}, which is not in its index")
        return list(found.values())

    def _check_places(self) -> None:
        """Before anything is allocated: is everything that is named there, and does nothing overlap?"""
        if not self._shards:
            raise WeightFileError("its index has no header")
        ends: dict[int, int] = {}
        for key, it in sorted(self._stored.items(), key=lambda item: item[1].place):
            if not 0 <= it.shard < self._shards:
                raise WeightFileError(f"{key!r} is said to be in shard {it.shard} of {self._shards}")
            if it.sliced or not it.place.size:
                continue
            size = self._file(it.shard).size
            if it.place.end > size:
                raise WeightFileError(
                    f"its data is cut off: {key!r} ends at byte {it.place.end:,}, and shard {it.shard} has {size:,}. "
                    "Copy or download it again"
                )
            if it.place.start < ends.get(it.shard, 0):
                raise WeightFileError(f"{key!r} overlaps another array")
            ends[it.shard] = it.place.end

    def _holds_numbers(self, key: str, result: Contents) -> bool:
        it = self._stored[key]
        if it.sliced:
            result.notes.append(f"{key} is left out: it is stored in slices, as a partitioned variable is.")
        elif it.dtype not in DTYPES:
            result.notes.append(f"{key} is left out: it holds no numbers (TensorFlow's type {it.dtype}).")
        return not it.sliced and it.dtype in DTYPES

    def _content(self, key: str) -> tuple[int, Shape, int]:
        it = self._stored[key]
        return it.dtype, it.shape, it.crc

    def _tensor(self, name: str, it: _Stored) -> Tensor:
        if it.place.size != it.itemsize * math.prod(it.shape):
            raise WeightFileError(f"the array {name!r} claims the shape {it.shape} in {it.place.size:,} bytes")
        dtype = DTYPES[it.dtype]
        return Tensor(it.shape, dtype, lambda: as_numbers(self._bytes(name, it), dtype).reshape(it.shape))

    def _bytes(self, name: str, it: _Stored) -> Array:
        data = self._file(it.shard).array(it.place)
        if masked(crc32c(data)) != it.crc:
            raise WeightFileError(
                f"the array {name!r} is damaged: its checksum does not fit. Copy or download it again"
            )
        return data

    def _string(self, it: _Stored) -> bytes:
        """The one string of a key: its length, a checksum of that, and its bytes."""
        if it.dtype != _STRING or it.shape or it.sliced or it.place.size > _LARGEST_GRAPH:
            raise WeightFileError("its object graph is damaged")
        source = Source(self._file(it.shard).read(it.place))
        length, at = source.varint(0, source.size)
        behind = source.read(Span(at, source.size))
        # The checksum is that of the length as a number of fixed width, and of what follows.
        fixed = length.to_bytes(4 if length < 1 << 32 else 8, "little")
        if len(behind) != 4 + length or masked(crc32c(fixed + behind)) != it.crc:
            raise WeightFileError("its object graph is damaged: its checksum does not fit")
        return behind[4:]

    def _file(self, shard: int) -> Source:
        if shard not in self._files:
            name = f"{self._index.stem}.data-{shard:05d}-of-{self._shards:05d}"
            self._files[shard] = Source(*open_member(self._index.with_name(name), self._stack))
        return self._files[shard]


def as_numbers(data: Array, dtype: str) -> Array:
    """Bytes as little-endian numbers of a type, without a copy."""
    if dtype == "bfloat16":
        import ml_dtypes

        return data.view(ml_dtypes.bfloat16)
    return data.view(np.dtype(dtype).newbyteorder("<"))


def shape_of(source: Source, span: Span, name: str) -> Shape:
    """A `TensorShapeProto`.

    Raises:
        WeightFileError: no array has this shape.
    """
    lengths = []
    for axis in source.fields(span):
        if axis.number == 2:
            lengths.append(next((it.signed for it in source.fields(axis.span) if it.number == 1), 0))
    return checked_shape(lengths, name)


def _shards(header: Source) -> int:
    values = {field.number: field for field in header.fields(header.all)}
    if 2 in values and values[2].integer:
        raise WeightFileError("it was written on a big-endian machine: save it again on a usual one")
    shards = values[1].integer if 1 in values else 0
    if not 1 <= shards <= _MOST_SHARDS:
        raise WeightFileError(f"its index claims {shards:,} shards")
    return shards


def _stored(value: Source, key: str) -> _Stored:
    """A `BundleEntryProto`."""
    shape: Shape = ()
    integers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    sliced = False
    for field in value.fields(value.all):
        if field.number == 2:
            shape = shape_of(value, field.span, key)
        elif field.number == 7:
            sliced = True
        elif field.number in integers:
            integers[field.number] = field.integer
    dtype, shard, start, size, crc = integers.values()
    return _Stored(dtype, shape, shard, Span(start, start + size), crc, sliced)


def _text(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        raise WeightFileError(f"its index has the key {key[:40]!r}, which is no text") from None
