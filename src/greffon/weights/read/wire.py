"""The wire format of Protocol Buffers, walked where it lies: numbers of fields, integers, and where bytes are.

Nothing is built from a schema, and what is skipped is not read: a file with 100 MB of weights is walked by reading the
few bytes between them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

    from numpy.typing import NDArray

    from greffon.weights.read.arrays import Shape

_WINDOW = 4096
_MOST_FIELDS = 1_000_000  # of one file; that of a ResNet-50 has some ten thousand
_LONGEST_TEXT = 1 << 16
_LARGEST = 1 << 48
_MOST_AXES = 32


class Span(NamedTuple):
    """Where bytes lie: from `start` to before `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes in it."""
        return self.end - self.start


class Field(NamedTuple):
    """One field of a message: its number, and an integer or where its bytes are."""

    number: int
    value: int | Span

    @property
    def integer(self) -> int:
        """The integer.

        Raises:
            WeightFileError: there are bytes instead.
        """
        if isinstance(self.value, Span):
            raise WeightFileError(f"it is damaged: field {self.number} of a message holds bytes, expected a number")
        return self.value

    @property
    def signed(self) -> int:
        """The integer as the format writes an int64."""
        return self.integer - (1 << 64) if self.integer >= 1 << 63 else self.integer

    @property
    def span(self) -> Span:
        """Where its bytes are.

        Raises:
            WeightFileError: there is an integer instead.
        """
        if not isinstance(self.value, Span):
            raise WeightFileError(f"it is damaged: field {self.number} of a message holds a number, expected bytes")
        return self.value


class Source:
    """A file or bytes, read piece by piece; small pieces come through a window."""

    def __init__(self, file: FileIO | bytes, size: int | None = None) -> None:
        self._file = None if isinstance(file, bytes) else file
        self._window, self._at = (file, 0) if isinstance(file, bytes) else (b"", 0)
        self.size = len(self._window) if size is None else size
        self._fields = 0

    @property
    def all(self) -> Span:
        """From the first byte to the last."""
        return Span(0, self.size)

    def read(self, span: Span) -> bytes:
        """The bytes of a span.

        Raises:
            WeightFileError: they are not all there.
        """
        if self._file is None and 0 <= span.start <= span.end <= self.size:
            return self._window[span.start : span.end]
        return self.array(span).tobytes()

    def array(self, span: Span) -> NDArray[np.uint8]:
        """The bytes of a span as an array of its own, without another copy of them in memory.

        Raises:
            WeightFileError: they are not all there.
        """
        if not 0 <= span.start <= span.end <= self.size:
            raise WeightFileError(f"it is cut off or damaged: bytes up to {span.end:,} are named, {self.size:,} there")
        if self._file is None:
            return np.frombuffer(self._window, np.uint8)[span.start : span.end].copy()
        data = np.empty(span.size, np.uint8)
        left = memoryview(data)  # type: ignore[arg-type]  # until Python 3.12 no array says so
        self._file.seek(span.start)
        while left:  # the system gives at most 2 GB at once
            count = self._file.readinto(left)
            if not count:
                raise WeightFileError("it became shorter while it was read")
            left = left[count:]
        return data

    def text(self, span: Span) -> str:
        """The bytes of a span as text.

        Raises:
            WeightFileError: they are none, or too many for a name.
        """
        if span.size > _LONGEST_TEXT:
            raise WeightFileError(f"it is damaged: a name of {span.size:,} bytes")
        try:
            return self.read(span).decode("utf-8")
        except UnicodeDecodeError:
            raise WeightFileError("it is damaged: a name that is no text") from None

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An integer of 7 bits a byte, and the place behind it.

        Raises:
            WeightFileError: it does not end before `end`.
        """
        result = shift = 0
        while at < end and shift < 70:
            byte = self._byte(at)
            at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise WeightFileError("it is cut off or damaged: a number does not end")

    def fields(self, span: Span) -> Iterator[Field]:
        """The fields of the message that lies in a span, in their order.

        Raises:
            WeightFileError: the bytes are no message, or the file has more fields than any weight file.
        """
        at, end = span
        while at < end:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise WeightFileError(f"it has more than {_MOST_FIELDS:,} entries, too many for a weight file")
            tag, at = self.varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = self.varint(at, end)
                yield Field(number, value)
                continue
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = self.varint(at, end)
            if number == 0 or kind not in (1, 2, 5) or size > end - at:
                raise WeightFileError("it is cut off or damaged: a field reaches beyond its message")
            piece = Span(at, at + size)
            at += size
            yield Field(number, piece if kind == 2 else int.from_bytes(self.read(piece), "little"))

    def _byte(self, at: int) -> int:
        if not self._at <= at < self._at + len(self._window):
            self._window = self.read(Span(at, min(at + _WINDOW, self.size)))
            self._at = at
        return self._window[at - self._at]


def checked_shape(lengths: Sequence[int], name: str) -> Shape:
    """The lengths of axes as a shape that a weight can have.

    Raises:
        WeightFileError: a length is negative, or all together are beyond any file.
    """
    plausible = len(lengths) <= _MOST_AXES and all(0 <= length < _LARGEST for length in lengths)
    if not plausible or math.prod(length for length in lengths if length) >= _LARGEST:
        shown = ", ".join(str(length) for length in lengths[:8])
        raise WeightFileError(f"the array {name!r} claims the shape ({shown}{', ...' if len(lengths) > 8 else ''})")
    return tuple(lengths)


def repeated_integers(source: Source, field: Field) -> list[int]:
    """The integers that one field adds to a repeated one: one, or several packed; not more than a shape can have."""
    if not isinstance(field.value, Span):
        return [field.signed]
    found: list[int] = []
    at, end = field.value
    while at < end and len(found) <= _MOST_AXES:
        value, at = source.varint(at, end)
        found.append(Field(field.number, value).signed)
    return found
