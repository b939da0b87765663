"""One tensor of an ONNX file: where its numbers are, in the file or in one beside it, and how they are written."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.members import check_name, open_member
from greffon.weights.read.wire import Field, Source, Span, checked_shape, repeated_integers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from greffon.weights.read.arrays import Array, Shape

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
# The fields that hold numbers, beside raw_data: plain ones with bytes of each, and those of 7 bits a byte.
_PLAIN = {4: ("float32", 4), 10: ("float64", 8)}
_VARINTS = {5: ("int32", "int16", "int8", "uint16", "uint8", "bool", "float16", "bfloat16"), 7: ("int64",)}
_UNSIGNED = 11
_RAW, _EXTERNAL, _LOCATION = 9, 13, 14
_CHUNK = 1 << 18


@dataclass
class Stored:
    """What the file says of one tensor; `dtype` is empty for types that are not read."""

    name: str
    shape: Shape = ()
    dtype: str = ""
    kind: int = 0
    place: Span = Span(0, 0)  # noqa: RUF009  # a tuple
    outside: dict[str, str] = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        """Bytes of one number in memory."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def floating(self) -> bool:
        """Whether it holds floating point numbers."""
        return self.dtype == "bfloat16" or np.dtype(self.dtype).kind == "f"


class Tensors:
    """The tensors of an open ONNX file.

    Args:
        source: the file.
        path: where it is; tensors may lie in files beside it.
        stack: closes those.
    """

    def __init__(self, source: Source, path: Path, stack: ExitStack) -> None:
        self._source, self._path, self._stack = source, path, stack
        self._files: dict[str, Source] = {}

    @property
    def outside(self) -> int:
        """Bytes in the files beside."""
        return sum(it.size for it in self._files.values())

    def described(self, span: Span, name: str) -> Stored:
        """A `TensorProto`, its numbers not read; `name` where it has none itself.

        Raises:
            WeightFileError: its numbers are not there, or not as many as its shape needs.
        """
        stored = Stored(name)
        lengths: list[int] = []
        external = False
        for part in self._source.fields(span):
            if part.number == 1:
                lengths.extend(repeated_integers(self._source, part))
            elif part.number == 2:
                stored.dtype = _DTYPES.get(part.integer, "")
            elif part.number == 8:
                stored.name = name or self._source.text(part.span)
            elif part.number in (*_PLAIN, *_VARINTS, _UNSIGNED, _RAW):
                self._place(stored, part)
            elif part.number == _EXTERNAL:
                pair = {it.number: self._source.text(it.span) for it in self._source.fields(part.span)}
                stored.outside[pair.get(1, "")] = pair.get(2, "")
            elif part.number == _LOCATION:
                external = part.integer == 1
            if len(lengths) > 64:
                break
        stored.shape = checked_shape(lengths, stored.name)
        if stored.dtype:
            self._check(stored, external)
        return stored

    def reader(self, stored: Stored) -> Callable[[], Array]:
        """What reads its numbers."""
        from greffon.weights.read.tf_v2 import as_numbers

        def read() -> Array:
            if stored.kind in _VARINTS or stored.kind == _UNSIGNED:
                return _varints(self._source, stored).reshape(stored.shape)
            source = self._file(stored) if stored.kind == _EXTERNAL else self._source
            return as_numbers(source.array(stored.place), stored.dtype).reshape(stored.shape)

        return read

    def integers(self, field: Field) -> list[int]:
        """The integers that one field adds to a list of few."""
        return repeated_integers(self._source, field)

    def single(self, bits: int) -> float:
        """A float from the bits of a field."""
        return float(struct.unpack("<f", (bits & 0xFFFFFFFF).to_bytes(4, "little"))[0])

    def _place(self, stored: Stored, part: Field) -> None:
        if not isinstance(part.value, Span) or stored.kind:
            raise WeightFileError(f"the numbers of {stored.name!r} are written one by one, as no exporter does")
        if part.value.size:
            stored.kind, stored.place = part.number, part.value

    def _check(self, stored: Stored, external: bool) -> None:
        count = math.prod(stored.shape)
        if external:
            if stored.kind:
                raise WeightFileError(f"the tensor {stored.name!r} lies in two places")
            stored.kind, stored.place = _EXTERNAL, self._external(stored, count * stored.itemsize)
            return
        kind, size = stored.kind, stored.place.size
        if kind in (*_VARINTS, _UNSIGNED):
            fits = stored.dtype in _VARINTS.get(kind, ("uint32", "uint64")) and count <= size <= 10 * count
        else:
            right = kind in (0, _RAW) or _PLAIN[kind][0] == stored.dtype
            fits = right and size == count * stored.itemsize
        if not fits:
            raise WeightFileError(
                f"the tensor {stored.name!r} claims the shape {stored.shape} of {stored.dtype} in {size:,} bytes"
            )

    def _external(self, stored: Stored, size: int) -> Span:
        """Where a tensor lies in the file beside, which is opened."""
        source = self._file(stored)
        try:
            start, length = int(stored.outside.get("offset") or 0), int(stored.outside.get("length") or size)
        except ValueError:
            raise WeightFileError(f"the tensor {stored.name!r} lies at a place that is no number") from None
        if length != size or not 0 <= start <= source.size - size:
            raise WeightFileError(
                f"the tensor {stored.name!r} claims bytes {start:,} to {start + length:,} for {size:,} bytes in a file "
                f"of {source.size:,}"
            )
        return Span(start, start + size)

    def _file(self, stored: Stored) -> Source:
        name = check_name(stored.outside.get("location", ""), f"the tensor {stored.name!r}")
        if name not in self._files:
            self._files[name] = Source(*open_member(self._path.with_name(name), self._stack))
        return self._files[name]


def _varints(source: Source, stored: Stored) -> Array:
    """Numbers of 7 bits a byte; half precision is written as the integer of its bits."""
    import ml_dtypes

    bits = {"float16": np.dtype(np.uint16), "bfloat16": np.dtype(np.uint16)}.get(stored.dtype)
    dtype = bits or np.dtype(stored.dtype)
    numbers = np.empty(math.prod(stored.shape), dtype)
    filled, at = 0, stored.place.start
    while at < stored.place.end:
        data = source.array(Span(at, min(at + _CHUNK, stored.place.end)))
        ends = np.flatnonzero(data < 0x80)
        if not len(ends) or filled + len(ends) > len(numbers):
            raise WeightFileError(f"the numbers of {stored.name!r} are not as many as its shape needs")
        data = data[: ends[-1] + 1]
        starts = np.concatenate([[0], ends[:-1] + 1])
        place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
        parts = (data & 0x7F).astype(np.uint64) << (7 * np.minimum(place, 9)).astype(np.uint64)
        numbers[filled : filled + len(ends)] = np.bitwise_or.reduceat(parts, starts).astype(dtype)
        filled, at = filled + len(ends), at + len(data)
    if filled != len(numbers):
        raise WeightFileError(f"the numbers of {stored.name!r} are not as many as its shape needs")
    if stored.dtype == "bfloat16":
        return numbers.view(ml_dtypes.bfloat16)
    return numbers.view(stored.dtype)
