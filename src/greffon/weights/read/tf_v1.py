"""TensorFlow's first checkpoint format, in which the slim networks of 2016 lie: one table with everything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Array, Contents, Shape, Tensor
from greffon.weights.read.tf_names import of_network
from greffon.weights.read.tf_v2 import DTYPES, as_numbers, shape_of
from greffon.weights.read.wire import Source, Span

if TYPE_CHECKING:
    from greffon.weights.read.tf_table import Entry, Table

_LARGEST_LIST = 1 << 26
# Type -> the field of a `TensorProto` that holds its numbers as they lie in memory, and bytes of each.
_PLAIN = {1: (5, 4), 2: (6, 8)}


def contents(table: Table) -> Contents:
    """Names, shapes and types of what a table names; numbers when a tensor is loaded.

    Raises:
        WeightFileError: it is a table, but no checkpoint, or damaged.
    """
    entries = list(table.entries(checked=False))
    if not entries or entries[0].key or entries[0].value.size > _LARGEST_LIST:
        raise WeightFileError("it is a table of TensorFlow, but no checkpoint")
    announced = _announced(Source(table.value(entries[0])))
    places: dict[str, list[Entry]] = {name: [] for name in announced}
    for entry in entries[1:]:
        name = table.source.text(_within(table.source, entry.value, 2, 1))
        if name not in places:
            raise WeightFileError(f"the array {name!r} is in it, but not in its list")
        places[name].append(entry)
    result = Contents({}, "TensorFlow checkpoint, first format", metadata={"names": "variables"})
    wanted = of_network(announced)
    for name in wanted:
        _add(result, table, name, places[name], *announced[name])
    if len(wanted) < len(announced):
        left_out = len(announced) - len(wanted)
        result.notes.append(f"{left_out} arrays of the optimizer, of metrics and counters are left out.")
    result.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in result.tensors))
    return result


def _announced(source: Source) -> dict[str, tuple[int, Shape]]:
    """Name -> type and shape, from the `SavedTensorSliceMeta` under the first key."""
    found: dict[str, tuple[int, Shape]] = {}
    for meta in source.fields(source.all):
        if meta.number != 1:
            continue
        for tensor in source.fields(meta.span):
            if tensor.number != 1:
                continue
            parts = {it.number: it for it in source.fields(tensor.span)}
            name = source.text(parts[1].span) if 1 in parts else ""
            shape = shape_of(source, parts[2].span, name) if 2 in parts else ()
            found[name] = (parts[3].integer if 3 in parts else 0, shape)
    return found


def _add(result: Contents, table: Table, name: str, entries: list[Entry], dtype: int, shape: Shape) -> None:
    if dtype not in _PLAIN:
        result.notes.append(f"{name} is left out: it holds no floating point numbers (TensorFlow's type {dtype}).")
        return
    if not entries:
        raise WeightFileError(f"the array {name!r} is in its list, but not in it")
    if len(entries) > 1:
        result.notes.append(f"{name} is left out: it is stored in slices, as a partitioned variable is.")
        return
    size = _numbers(table.source, entries[0].value, dtype).size
    if size != math.prod(shape) * _PLAIN[dtype][1]:
        raise WeightFileError(f"the array {name!r} claims the shape {shape} in {size:,} bytes")
    result.add(name, _tensor(table, entries[0], dtype, shape))


def _tensor(table: Table, entry: Entry, dtype: int, shape: Shape) -> Tensor:
    def read() -> Array:
        value = Source(table.value(entry))
        numbers = value.array(_numbers(value, value.all, dtype))
        if numbers.size != math.prod(shape) * _PLAIN[dtype][1]:
            raise WeightFileError("it changed while it was read")
        return as_numbers(numbers, DTYPES[dtype]).reshape(shape)

    return Tensor(shape, DTYPES[dtype], read)


def _numbers(source: Source, value: Span, dtype: int) -> Span:
    """Where the numbers of a `SavedTensorSlices` lie."""
    return _within(source, value, 2, 3, _PLAIN[dtype][0])


def _within(source: Source, span: Span, *way: int) -> Span:
    """The bytes of a field of a field ..., which must be there once at most."""
    for number in way:
        found = [it.span for it in source.fields(span) if it.number == number]
        if len(found) > 1:
            raise WeightFileError("it is damaged: a part of an array is there twice")
        span = found[0] if found else Span(span.end, span.end)
    return span
