"""Texts of any length in the attributes of an HDF5 file, read from its bytes.

Such an attribute holds references into heaps elsewhere in the file. The HDF5 library believes the length in a
reference before it looks, and walks through a damaged heap without end; one changed byte is enough for either. So
headers, references and heaps are read here, each held against the size of the file first.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTINUATION, _ATTRIBUTE = 0x10, 0x0C
_SHARED = 0x02
_REFERENCE = 16  # bytes: length, address of the heap, number in it
_LARGEST = 1 << 22  # bytes of one block of a header or one heap
_MOST_BLOCKS = 100
_HEAP_HEAD = 16

Heap = dict[int, bytes]
"""Number of an object -> its bytes."""


class Texts:
    """Reads texts of any length out of one file.

    Args:
        source: the file, by its path or open.
        size: its length in bytes.
    """

    def __init__(self, source: Path | BinaryIO, size: int) -> None:
        self._source = source
        self._size = size
        self._heaps: dict[int, Heap] = {}
        self._kept = 0

    def read(self, address: int, name: str, count: int, most: int) -> list[str]:
        """The texts of an attribute.

        Args:
            address: of the header of the object that the attribute is of.
            name: of the attribute.
            count: how many texts it holds.
            most: bytes that all of them may have.

        Raises:
            WeightFileError: the bytes make no sense, or claim more than is there.
        """
        try:
            data = self._attribute(address, name)[: _REFERENCE * count]
            references = list(struct.iter_unpack("<IQI", data))
            if len(references) != count:
                raise WeightFileError(f"the file is damaged: the attribute {name!r} is shorter than it says")
            if sum(length for length, *_ in references) > most:
                raise WeightFileError(
                    f"the attribute {name!r} claims more than {most:,} bytes, far more than a model needs. Refused"
                )
            return [self._text(*reference) for reference in references]
        except (struct.error, UnicodeDecodeError, OSError) as error:
            raise WeightFileError(f"the file is damaged at the attribute {name!r}: {error}") from None

    def _text(self, length: int, address: int, number: int) -> str:
        if length == 0:
            return ""
        text = self._heap(address).get(number, b"")
        if len(text) != length:
            raise WeightFileError("the file is damaged: a text in it is not where its header says")
        return text.decode("utf-8")

    def _attribute(self, address: int, name: str) -> bytes:
        for kind, flags, body in self._messages(address):
            if kind == _ATTRIBUTE and not flags & _SHARED:
                found, data = _taken_apart(body)
                if found == name.encode():
                    return data
        raise WeightFileError(f"the attribute {name!r} is stored in a way that Keras never uses, or damaged")

    def _messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and body of everything in an object's header."""
        start = self._bytes(address, 16)
        if start.startswith(b"OHDR"):
            new, order, place, length = self._new_header(address)
        else:
            new, order, place, length = False, False, address + 16, struct.unpack("<I", start[8:12])[0]
        blocks = [(place, length)]
        for done, (place, length) in enumerate(blocks):  # grows while it is walked
            if done >= _MOST_BLOCKS:
                raise WeightFileError("the file is damaged: the header of an object in it never ends")
            for kind, flags, body in _split(self._bytes(place, length), new=new, order=order):
                if kind == _CONTINUATION:
                    more, rest = struct.unpack("<QQ", body[:16])
                    blocks.append((more + 4, rest - 8) if new else (more, rest))  # "OCHK" and a checksum
                yield kind, flags, body

    def _new_header(self, address: int) -> tuple[bool, bool, int, int]:
        flags = self._bytes(address + 5, 1)[0]
        place = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        length = int.from_bytes(self._bytes(place, width), "little")
        return True, bool(flags & 0x04), place + width, length

    def _heap(self, address: int) -> Heap:
        if address not in self._heaps:
            head = self._bytes(address, _HEAP_HEAD)
            (size,) = struct.unpack("<Q", head[8:])
            if not head.startswith(b"GCOL\x01"):
                raise WeightFileError("the file is damaged: a text in it is not where its header says")
            self._heaps[address] = _objects(self._bytes(address, size)[_HEAP_HEAD:])
            self._kept += size
            if self._kept > self._size:
                raise WeightFileError("the file is damaged: its heaps lie in each other. Refused")
        return self._heaps[address]

    def _bytes(self, place: int, length: int) -> bytes:
        if not 0 <= length <= _LARGEST or place + length > self._size:
            raise WeightFileError("the file is damaged or cut off: a header in it claims more than is there")
        if isinstance(self._source, Path):
            with self._source.open("rb") as file:
                return _at(file, place, length)
        return _at(self._source, place, length)


def _at(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    data = file.read(length)
    if len(data) != length:
        raise WeightFileError("the file is cut off. Copy or download it again")
    return data


def _split(block: bytes, *, new: bool, order: bool) -> Iterator[tuple[int, int, bytes]]:
    form = struct.Struct(("<BHB" + ("H" if order else "")) if new else "<HHB3x")
    place = 0
    while place + form.size <= len(block):
        kind, length, flags, *_ = form.unpack_from(block, place)
        place += form.size
        yield kind, flags, block[place : place + length]
        place += length


def _taken_apart(message: bytes) -> tuple[bytes, bytes]:
    """Name and data of an attribute."""
    version = message[0] if message else 0
    name, dtype, space = struct.unpack("<HHH", message[2:8])
    # Version 1 fills each part up to a multiple of 8; version 3 has the character set before the name.
    filled = [-(-part // 8) * 8 for part in (name, dtype, space)] if version == 1 else [name, dtype, space]
    start = 9 if version == 3 else 8
    return message[start : start + name].partition(b"\0")[0], message[start + sum(filled) :]


def _objects(data: bytes) -> Heap:
    heap: Heap = {}
    place = 0
    while place + 16 <= len(data):
        number, length = struct.unpack_from("<H6xQ", data, place)
        if number == 0:  # what is left is free
            break
        if number in heap or length > len(data) - place - 16:
            raise WeightFileError("the file is damaged: a place for texts in it makes no sense")
        heap[number] = data[place + 16 : place + 16 + length]
        place += 16 + -(-length // 8) * 8
    return heap
