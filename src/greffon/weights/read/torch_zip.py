"""PyTorch files since 1.6: a zip archive with the pickle of the object and one member for every storage.

TorchScript archives, which hold code too, are read in the same way: their parameters are attributes of objects.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.pickled import read_pickle
from greffon.weights.read.pickled_values import Source, open_file
from greffon.weights.read.torch_archive import Archive
from greffon.weights.read.torch_arrays import Region, Storage
from greffon.weights.read.torch_names import Names, shown
from greffon.weights.read.torch_rebuild import storage_of
from greffon.weights.read.torch_unwrap import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from greffon.weights.read.arrays import Contents

NAME = "PyTorch"
_PICKLE = "data.pkl"
_FIRST = re.compile(rb"[^/]+/data(\.pkl|/\d+)")  # what PyTorch writes first, and TorchScript


def recognises(head: bytes, path: Path) -> bool:
    """A zip archive that begins as PyTorch's do, cut off or not; or that has a data.pkl in it."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if _FIRST.fullmatch(first):
        return True
    try:
        with path.open("rb") as file:
            return any(_is_pickle(name) for name in Archive(file, path.stat().st_size).members)
    except (WeightFileError, OSError):
        return False


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A PyTorch file, open for reading.

    Raises:
        WeightFileError: it is damaged, hostile, or holds no weights that can be told.
    """
    with open_file(path) as file:
        yield _contents(file, path.stat().st_size)


def _contents(file: BinaryIO, size: int) -> Contents:
    archive = Archive(file, size)
    prefix = _prefix(archive)
    big_endian = _byte_order(file, archive, prefix) == b"big"
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Storage:
        known = len(storages)
        storage = storage_of(key, storages)
        if len(storages) > known:
            new = storages[key[2]]
            new.big_endian = big_endian
            _locate(file, archive, f"{prefix}data/{new.key}", new)
        return storage

    names = Names()
    root = read_pickle(_pickle(file, archive, prefix + _PICKLE), names.find, persistent)
    script = any(name.startswith(f"{prefix}code/") for name in archive.members)
    contents = unwrapped(root, "TorchScript" if script else "PyTorch (zip)", size)
    contents.notes.extend(names.notes())
    return contents


def _prefix(archive: Archive) -> str:
    """The folder in the archive in which everything is."""
    found = [name for name in archive.members if _is_pickle(name)]
    if any(name.endswith("archive_format") for name in archive.members):
        raise WeightFileError(
            "it is a program of torch.export (.pt2): save the network's state_dict() with torch.save instead"
        )
    if len(found) != 1:
        raise WeightFileError(f"expected one {_PICKLE} in the archive, found {len(found)}")
    return found[0].removesuffix(_PICKLE)


def _is_pickle(name: str) -> bool:
    # "archive/data.pkl": in the archive's only folder, or at its top where somebody packed it again.
    return name.rpartition("/")[2] == _PICKLE and name.count("/") <= 1


def _pickle(file: BinaryIO, archive: Archive, name: str) -> Source:
    start, member = archive.place(name)
    region = Region(file, start, member.size, member.crc or None)
    region.check()
    return Source(file, start, member.size)


def _byte_order(file: BinaryIO, archive: Archive, prefix: str) -> bytes:
    name = f"{prefix}byteorder"
    if name not in archive.members:
        return b"little"
    start, member = archive.place(name)
    word = Source(file, start, member.size).read(min(member.size, 16))
    if word not in (b"little", b"big"):
        raise WeightFileError("the file says neither little nor big for the order of its bytes: it is damaged")
    return word


def _locate(file: BinaryIO, archive: Archive, name: str, storage: Storage) -> None:
    """Find the bytes of a storage, and hold what it claims against them."""
    start, member = archive.place(name)
    if member.size < storage.size:
        raise WeightFileError(
            f"storage {shown(storage.key)} claims {storage.size:,} bytes, and {member.size:,} are in the file"
        )
    # A checksum of zero is what torch.serialization.set_crc32_options(False) leaves.
    storage.region = Region(file, start, member.size, member.crc or None)
