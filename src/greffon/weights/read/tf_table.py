"""The table of keys and values (LevelDB's) that TensorFlow writes checkpoints in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from greffon.errors import WeightFileError
from greffon.weights.read.crc32c import crc32c, masked
from greffon.weights.read.wire import Source, Span

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # behind each block: how it is compressed, and its checksum
_LONGEST_KEY = 4096
_MOST_ENTRIES = 200_000
_MOST_KEYS = 1 << 24  # bytes of all keys, written out


class Entry(NamedTuple):
    """A key, the block that it is in, and where in the file its value lies."""

    key: bytes
    block: Span
    value: Span


class Table:
    """Read access to an open table.

    Args:
        source: the file.

    Raises:
        WeightFileError: it is no table, or cut off.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        footer = source.read(Span(max(0, source.size - _FOOTER), source.size))
        if len(footer) < _FOOTER or not footer.endswith(MAGIC):
            raise WeightFileError("the index is cut off: its last bytes are not those of a TensorFlow checkpoint")
        handles = Source(footer[: -len(MAGIC)])
        _, at = self._handle(handles, 0)
        self._index, _ = self._handle(handles, at)
        self._kept: tuple[Span, bytes] = (Span(0, 0), b"")
        self._entries = self._keys = 0

    def entries(self, *, checked: bool) -> Iterator[Entry]:
        """Every entry in the order of keys; values are not read, unless blocks are to be checked first.

        Raises:
            WeightFileError: a block is damaged or compressed.
        """
        last = 0
        for entry in list(self._in_block(self._index, checked=True)):
            block, _ = self._handle(Source(self.source.read(entry.value)), 0)
            if block.start < last:
                raise WeightFileError("the index is damaged: its blocks overlap")
            last = block.end
            yield from self._in_block(block, checked=checked)

    def value(self, entry: Entry) -> bytes:
        """The value of an entry, its block's checksum checked.

        Raises:
            WeightFileError: the block is damaged.
        """
        start = entry.block.start
        return self._checked(entry.block)[entry.value.start - start : entry.value.end - start]

    def _in_block(self, block: Span, *, checked: bool) -> Iterator[Entry]:
        if checked:
            self._checked(block)
        source, (at, end) = self.source, block
        restarts = int.from_bytes(source.read(Span(end - 4, end)), "little")
        end -= 4 * (restarts + 1)
        if end < at:
            raise WeightFileError("the index is damaged: a block is smaller than it says")
        key = b""
        while at < end:
            shared, at = source.varint(at, end)
            more, at = source.varint(at, end)
            size, at = source.varint(at, end)
            self._entries += 1
            if shared > len(key) or shared + more > _LONGEST_KEY or more + size > end - at:
                raise WeightFileError("the index is damaged: an entry reaches beyond its block")
            key = key[:shared] + source.read(Span(at, at + more))
            self._keys += len(key)
            if self._entries > _MOST_ENTRIES or self._keys > _MOST_KEYS:
                raise WeightFileError("it has more entries than any weight file")
            at += more
            yield Entry(key, block, Span(at, at + size))
            at += size

    def _checked(self, block: Span) -> bytes:
        if self._kept[0] == block:
            return self._kept[1]
        data = self.source.read(Span(block.start, block.end + _TRAILER))
        if data[-_TRAILER] != 0:
            raise WeightFileError(
                "a block of its index is compressed, which TensorFlow never writes: save the checkpoint again"
            )
        if masked(crc32c(memoryview(data)[:-4])) != int.from_bytes(data[-4:], "little"):
            raise WeightFileError("it is damaged: a checksum of its index does not fit. Copy or download it again")
        self._kept = (block, data[:-_TRAILER])
        return self._kept[1]

    def _handle(self, source: Source, at: int) -> tuple[Span, int]:
        """Where a block lies, and the place behind these two numbers."""
        start, at = source.varint(at, source.size)
        size, at = source.varint(at, source.size)
        if size < 4 or start + size + _TRAILER > self.source.size:
            raise WeightFileError("it is cut off or damaged: its index names a block beyond its end")
        return Span(start, start + size), at
