"""Members of tar archives, read where they lie: nothing is unpacked, so no name can lead anywhere.

An archive is gone through once, from header to header; then each member is read at its place. Only digests of the
names are kept, 24 bytes a member, since a million pictures lie in a thousand archives.
"""

from __future__ import annotations

import tarfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from greffon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: as the archive has it.
        offset: of its first byte.
        size: in bytes.
        problem: why it cannot be read, or "".
    """

    name: str
    offset: int
    size: int
    problem: str = ""


class _Header(tarfile.TarInfo):
    """A header that cannot send the reader backwards, which would go round for ever (before Python 3.11.14)."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a size below 0")
        return int(super()._block(count))  # type: ignore[misc]


def members(archive: Path) -> Iterator[Member]:
    """Every file in a tar archive that is not compressed, in its order; folders, links and devices are left out.

    Raises:
        DataError: it is not such an archive, or it is damaged in its middle.
        OSError: it cannot be opened.

    Example:
        >>> import io, tarfile, tempfile
        >>> from pathlib import Path
        >>> from greffon.pictures.sources.tars import members
        >>> file = Path(tempfile.mkdtemp()) / "a.tar"
        >>> with tarfile.open(file, "w") as tar:
        ...     tar.addfile(tarfile.TarInfo("empty.jpg"))
        >>> [(member.name, member.size) for member in members(file)]
        [('empty.jpg', 0)]
    """
    length = archive.stat().st_size
    if not length:
        raise DataError(f"{archive} is empty (0 bytes), no tar archive")
    try:
        with tarfile.open(archive, "r:", tarinfo=_Header, errorlevel=0) as tar:
            while (header := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if not header.isreg() or header.issparse():
                    continue
                cut = header.size < 0 or header.offset_data + header.size > length
                problem = "is cut short: the archive ends before it does" if cut else ""
                yield Member(header.name, header.offset_data, header.size, problem)
            _check_end(archive, tar.offset, length)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DataError(f"{archive} is {_instead(archive)} ({error})") from error


def _check_end(archive: Path, offset: int, length: int) -> None:
    """Tarfile takes a header that it cannot read for the end; the end is a block of zeros, or that of the file."""
    with archive.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(tarfile.BLOCKSIZE)
    if any(block):
        raise tarfile.ReadError(f"no header at byte {offset:,} of {length:,}")


def _instead(archive: Path) -> str:
    with archive.open("rb") as stream:
        start = stream.read(4)
    packed = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}.get(start[:2])
    if packed:
        return f"packed with {packed}: its members cannot be read where they lie. Unpack it to a plain .tar"
    return "no tar archive, or a damaged one"


class _Places:
    """Where the members of an archive are, by a digest of their names."""

    def __init__(self, archive: Path) -> None:
        found: dict[int, tuple[int, int]] = {}
        try:
            for member in members(archive):
                if not member.problem:
                    found[_digest(member.name)] = (member.offset, member.size)
        except DataError as error:
            if not found:
                raise OSError(str(error)) from error  # what was found before the damage can still be read
        names = np.array(sorted(found), np.uint64)
        self._names: np.ndarray[Any, Any] = names
        self._at = np.array([found[int(name)] for name in names], np.int64).reshape(-1, 2)

    def get(self, name: str) -> tuple[int, int] | None:
        digest = np.uint64(_digest(name))
        row = int(np.searchsorted(self._names, digest))
        if row == len(self._names) or self._names[row] != digest:
            return None
        return int(self._at[row, 0]), int(self._at[row, 1])


_known: dict[str, tuple[_Stamp, _Places]] = {}
_lock = threading.Lock()


def member_place(archive: Path, name: str) -> tuple[int, int] | None:
    """Offset and length of a member in bytes, or None where there is none of that name.

    Raises:
        OSError: the archive cannot be read.
    """
    status = archive.stat()
    now = (status.st_size, status.st_mtime_ns)
    with _lock:  # the first that asks goes through the archive, others wait for it
        known = _known.get(str(archive))
        if known is None or known[0] != now:
            known = _known[str(archive)] = (now, _Places(archive))
    return known[1].get(name)


def read_member(archive: Path, name: str) -> bytes:
    """The bytes of a member.

    Raises:
        FileNotFoundError: there is no such archive or member.
        OSError: the archive cannot be read.
    """
    place = member_place(archive, name)
    if place is None:
        raise FileNotFoundError(2, "there is no such member", f"{archive}::{name}")
    with archive.open("rb") as stream:
        stream.seek(place[0])
        content = stream.read(place[1])
    if len(content) < place[1]:
        raise OSError(f"{archive} ends inside of {name}")
    return content


def _digest(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape"))
