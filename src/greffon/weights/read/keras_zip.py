"""`.keras`: a zip archive with config.json, read as data, and model.weights.h5."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from greffon.errors import WeightFileError
from greffon.weights.read.hdf5 import opened_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from greffon.weights.read.arrays import Array, Contents

NAME = "Keras .keras"
_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_LARGEST_CONFIG = 1 << 22  # bytes; that of a ResNet-152 has 600 kB
_LARGEST_DIRECTORY = 1 << 20  # bytes; Python makes twenty times as much of it
_MOST_EXPANSION = 4  # trained weights hardly compress
_SMALL = 1 << 23
_PIECE = 1 << 20
_ENCRYPTED = 0x1
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    ValueError,  # names that are no text, places before the file's beginning
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
)


def recognises(head: bytes, path: Path) -> bool:
    """A zip archive with a config.json in it."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with _Archive(path) as file, zipfile.ZipFile(file) as archive:
            return _CONFIG in archive.namelist()
    except WeightFileError:
        return True  # a directory that no format has: `opened` says so
    except _DAMAGE:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A `.keras` file, open for reading.

    Raises:
        WeightFileError: it is damaged, or keeps its weights in another way than Keras does by default.
    """
    with ExitStack() as stack:
        with _told():
            file = stack.enter_context(_Archive(path))
            archive = stack.enter_context(zipfile.ZipFile(file))
            _check_names(archive)
            config = _json(archive, _CONFIG)
            metadata = _json(archive, "metadata.json") if "metadata.json" in archive.namelist() else {}
            weights, size, check = _weights(archive, file)
        contents = stack.enter_context(opened_hdf5(weights, size, config))
        if isinstance(metadata, dict):
            contents.metadata.update({str(key): str(value) for key, value in metadata.items()})
        for name, tensor in contents.tensors.items():
            contents.tensors[name] = replace(tensor, read=_after(check, tensor.read))
        yield contents


class _Archive(io.FileIO):
    """An archive's file that does not let Python read a gigantic directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LARGEST_DIRECTORY:
            raise WeightFileError(f"its directory has {size:,} bytes, which no model needs. Refused")
        return cast("bytes", super().read(-1 if size is None else size))


class _Stretch(io.RawIOBase):
    """A part of a file, as a file: a member that is stored as it is, read where it lies."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence], 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        room = max(min(len(view), self._size - self._place), 0)
        self._file.seek(self._start + self._place)
        count = self._file.readinto(view[:room])
        self._place += count
        return count


def _weights(archive: zipfile.ZipFile, file: _Archive) -> tuple[BinaryIO, int, Callable[[], None]]:
    """The HDF5 file in the archive, its length, and what proves it before an array is read.

    Keras stores it as it is; then it is read where it lies, and only its arrays need the proof: opening a file for its
    names alone does not read it all.
    """
    member = _only(archive, _WEIGHTS)
    limit = _MOST_EXPANSION * file.size + _SMALL
    if member.compress_type != zipfile.ZIP_STORED:
        return io.BytesIO(_member(archive, _WEIGHTS, limit)), member.file_size, lambda: None
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise WeightFileError(f"the archive is damaged: {_WEIGHTS} is not where its directory says")
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if member.file_size != member.compress_size or start + member.file_size > file.size:
        raise WeightFileError(f"the archive is damaged or cut off: {_WEIGHTS} in it claims more than is there")
    stretch = cast("BinaryIO", _Stretch(file, start, member.file_size))
    return stretch, member.file_size, _proof(stretch, member.CRC)


def _proof(stretch: BinaryIO, expected: int) -> Callable[[], None]:
    done = False

    def check() -> None:
        nonlocal done
        if done:
            return
        place, found = stretch.tell(), 0
        stretch.seek(0)
        while piece := stretch.read(_PIECE):
            found = zlib.crc32(piece, found)
        stretch.seek(place)
        if found != expected:
            raise WeightFileError(f"the archive is damaged: {_WEIGHTS} in it does not have its checksum")
        done = True

    return check


def _after(check: Callable[[], None], read: Callable[[], Array]) -> Callable[[], Array]:
    def checked() -> Array:
        check()
        return read()

    return checked


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"the archive is damaged: {error}") from None


def _check_names(archive: zipfile.ZipFile) -> None:
    """Nothing is ever unpacked to the disk; but such an archive was made to be unpacked by somebody."""
    for name in archive.namelist():
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
            raise WeightFileError(f"it has a member {name!r}, which is no place inside a model. Refused")


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    data = _member(archive, name, _LARGEST_CONFIG)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{name} in it cannot be read as JSON: {error}") from None


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The bytes of a member, which may claim no more than `limit`, and may give no more than it claims."""
    member = _only(archive, name)
    if member.file_size > limit:
        raise WeightFileError(
            f"{name} in it claims {member.file_size:,} bytes, far more than the archive's size can hold. "
            "Refused: it could fill the memory"
        )
    return archive.read(member)


def _only(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if member.filename == name]
    if len(members) != 1:
        inside = ", ".join(archive.namelist()[:6])
        raise WeightFileError(f"expected one {name} in it, found {len(members)}; it holds {inside}")
    if members[0].flag_bits & _ENCRYPTED:
        raise WeightFileError(f"{name} in it is encrypted: unpack it with its password and pack it again without")
    if members[0].compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise WeightFileError(f"{name} in it is packed in a way that Keras never uses: pack it again as a plain zip")
    return members[0]
