"""What a pickle is made of when it is read as data: stretches of a file, and values that can do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

_LONGEST_LINE = _BUFFER = 1 << 16


def open_file(path: Path) -> BinaryIO:
    """A file, open for reading.

    Raises:
        WeightFileError: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise WeightFileError(f"it cannot be read: {error.strerror or error}") from None


class Source:
    """A stretch of an open file, read from its start on and never beyond its end.

    It keeps its own place, so that others may read from the same file in between.

    Args:
        file: open for reading.
        start: its first byte.
        size: how many bytes.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.size = size
        self.place = 0
        self._file = file
        self._start = start
        self._buffer = b""
        self._in_buffer = 0

    def read(self, count: int) -> bytes:
        """The next bytes."""
        end = self._in_buffer + count
        if end > len(self._buffer):
            self.check(count)
            self._fill(count)
            end = count
        data = self._buffer[self._in_buffer : end]
        self._in_buffer = end
        self.place += count
        return data

    def check(self, count: int) -> None:
        """Raise unless that many bytes are left."""
        if count > self.size - self.place:
            raise WeightFileError(
                f"its pickle is cut off or damaged: {count:,} bytes are announced at byte {self.place:,}, "
                f"{self.size - self.place:,} are there"
            )

    def skip(self, count: int, text: bool) -> Span:
        """Leave out the next bytes, and say where they are."""
        self.check(count)
        span = Span(self._file, self._start + self.place, count, text)
        self.place += count
        self._buffer, self._in_buffer = b"", 0
        return span

    def line(self) -> bytes:
        """The rest of the line, without its end."""
        end = self._buffer.find(b"\n", self._in_buffer)
        if end < 0:
            self._fill(min(_LONGEST_LINE, self.size - self.place))
            end = self._buffer.find(b"\n")
        if end < 0:
            raise WeightFileError("its pickle is cut off or damaged: a line in it has no end within 64 kB")
        return self.read(end + 1 - self._in_buffer)[:-1]

    def _fill(self, count: int) -> None:
        """Have at least that many bytes in the buffer, from the present place on."""
        self._file.seek(self._start + self.place)
        self._buffer = self._file.read(min(max(count, _BUFFER), self.size - self.place))
        self._in_buffer = 0
        if len(self._buffer) < count:
            raise WeightFileError("the file became shorter while it was read")


class Span:
    """Long text or bytes, left in the file."""

    def __init__(self, file: BinaryIO, start: int, size: int, text: bool) -> None:
        self.size = size
        self.text = text
        self._file = file
        self._start = start

    def read(self) -> bytes:
        """The bytes; those of text are UTF-8."""
        self._file.seek(self._start)
        data = self._file.read(self.size)
        if len(data) != self.size:
            raise WeightFileError("the file became shorter while it was read")
        return data


class Name:
    """A class or function that the file names: its name, and nothing else."""

    def __init__(self, full: str) -> None:
        self.full = full


class Inert:
    """What a class or function that is not known would have made.

    Attributes:
        name: of that class or function.
        state: what the file gives as its attributes.
        items: what the file puts in with a key.
    """

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[Any, Any] = {}
        self.items: dict[Any, Any] = {}


class Opaque:
    """A value that no weight file needs."""


class Known:
    """A constructor that the caller knows: `make` builds a plain value from the arguments, as they are in the file."""

    def __init__(self, full: str, make: Callable[[tuple[Any, ...]], Any]) -> None:
        self.full = full
        self.make = make


class Stateful:
    """A value of the caller's that takes a state (BUILD)."""

    def take_state(self, state: Any) -> None:
        """Take what the file gives as the state of this value."""
        raise NotImplementedError
