"""The directory of a zip archive, read with suspicion, and the stretches of the file in which its members lie.

PyTorch stores its members as they are, so that a tensor is a stretch of the file and needs no unpacking. Python's
`zipfile` would build an object of a kilobyte for every 46 bytes of a directory; this reads names and places only.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from greffon.errors import WeightFileError
from greffon.weights.read.torch_names import shown

if TYPE_CHECKING:
    from typing import BinaryIO

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_LONGEST_COMMENT = 1 << 16
_LARGEST_DIRECTORY = 1 << 24  # bytes; that of a ResNet-152 has 60 kB
_IN_64_BITS = 0xFFFFFFFF
_DIRECTORY_CUT = "it is cut off: the archive's directory, at its end, is missing. Copy or download it again"


class Member(NamedTuple):
    """One file in an archive: how long it is, its checksum and where its own header begins."""

    method: int
    encrypted: bool
    crc: int
    packed: int
    size: int
    header: int


class Archive:
    """A zip archive whose directory has been read.

    Args:
        file: open for reading.
        size: of the file, in bytes.

    Raises:
        WeightFileError: there is no directory, or it cannot be true.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.members: dict[str, Member] = {}
        try:
            start, length, count = self._directory()
            self._read(start, length, count)
        except (struct.error, IndexError) as error:
            raise WeightFileError(f"the archive's directory is damaged ({error})") from None
        self._end = start
        self._check_overlap()

    def place(self, name: str) -> tuple[int, Member]:
        """Where the bytes of a member begin, and what the directory says of it.

        Raises:
            WeightFileError: there is no such member, it is packed, or not where the directory says.
        """
        member = self.members.get(name)
        if member is None:
            raise WeightFileError(f"{shown(name)} is missing in the archive")
        if member.encrypted or member.method != 0 or member.packed != member.size:
            raise WeightFileError(
                f"{shown(name)} in the archive is compressed or encrypted, which PyTorch never does: it was packed "
                "by another program. Unpack it and pack it again without compression (zip -0 -r)"
            )
        header = self._bytes(member.header, 30)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = member.header + 30 + name_length + extra_length
        named = self._bytes(member.header + 30, name_length)
        if header[:4] != _LOCAL or named != name.encode() or start + member.size > self._end:
            raise WeightFileError(f"{shown(name)} is not where the archive's directory says: it is cut off or damaged")
        return start, member

    def _directory(self) -> tuple[int, int, int]:
        """First byte, length and number of entries of the directory."""
        tail_size = min(self._size, _LONGEST_COMMENT + 22)
        tail = self._bytes(self._size - tail_size, tail_size)
        found = tail.rfind(_END)
        if found < 0:
            raise WeightFileError(_DIRECTORY_CUT)
        count, length, start = struct.unpack("<HII", tail[found + 10 : found + 20])
        end = self._size - tail_size + found
        if end >= 20 and (locator := self._bytes(end - 20, 20)).startswith(_LOCATOR64):
            end = struct.unpack("<Q", locator[8:16])[0]
            record = self._bytes(end, 56)
            if not record.startswith(_END64):
                raise WeightFileError("the archive's directory is damaged")
            count, length, start = struct.unpack("<QQQ", record[32:56])
        if start + length > end:
            raise WeightFileError("the archive's directory claims to be longer than the file: it is cut off or damaged")
        return start, length, count

    def _read(self, start: int, length: int, count: int) -> None:
        if length > _LARGEST_DIRECTORY:
            raise WeightFileError(f"the archive's directory has {length:,} bytes, which no weight file needs")
        data, place = self._bytes(start, length), 0
        while place < length:
            place = self._read_entry(data, place)
        if len(self.members) != count:
            raise WeightFileError(
                f"the archive's directory lists {len(self.members):,} files, {count:,} are announced: it is damaged"
            )

    def _read_entry(self, data: bytes, place: int) -> int:
        if data[place : place + 4] != _ENTRY:
            raise WeightFileError("the archive's directory is damaged")
        flags, method = struct.unpack("<HH", data[place + 8 : place + 12])
        crc, packed, size, name_length, extra_length, comment_length = struct.unpack(
            "<IIIHHH", data[place + 16 : place + 34]
        )
        (header,) = struct.unpack("<I", data[place + 42 : place + 46])
        name_end = place + 46 + name_length
        extra_end = name_end + extra_length
        name = _checked_name(data[place + 46 : name_end])
        if name in self.members:
            raise WeightFileError(f"{shown(name)} is in the archive twice. Refused: programs disagree which one counts")
        size, packed, header = _in_64_bits(data[name_end:extra_end], [size, packed, header])
        self.members[name] = Member(method, bool(flags & 1), crc, packed, size, header)
        return extra_end + comment_length

    def _check_overlap(self) -> None:
        """No two members may share bytes: that is how a small archive holds a large content."""
        previous = 0
        for name, member in sorted(self.members.items(), key=lambda it: it[1].header):
            if member.header < previous or member.header + 30 + member.packed > self._end:
                raise WeightFileError(f"{shown(name)} does not fit into the archive, which is cut off or damaged")
            previous = member.header + 30 + member.packed

    def _bytes(self, start: int, count: int) -> bytes:
        if start < 0 or start + count > self._size:
            raise WeightFileError("the archive's directory points outside of the file: it is cut off or damaged")
        self._file.seek(start)
        data = self._file.read(count)
        if len(data) != count:
            raise WeightFileError("the file became shorter while it was read")
        return data


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise WeightFileError("the archive's directory is damaged: a name in it is no text") from None
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or name[1:2] == ":":
        raise WeightFileError(
            f"the archive holds {shown(name)}, which would be written outside of the folder it is unpacked in. Refused"
        )
    return name


def _in_64_bits(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, those that do not fit into 32 bits from the entry's extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[place : place + 4])
        if kind == 1:
            numbers = list(struct.unpack(f"<{length // 8}Q", extra[place + 4 : place + 4 + length // 8 * 8]))
            return [numbers.pop(0) if value == _IN_64_BITS else value for value in values]
        place += 4 + length
    return values
