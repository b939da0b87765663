"""`.keras`: a zip archive with config.json, read as data, and model.weights.h5."""

from __future__ import annotations

import json
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from greffon.errors import WeightFileError
from greffon.weights.read.hdf5 import opened_hdf5

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greffon.weights.read.arrays import Contents

NAME = "Keras .keras"
_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_LARGEST_CONFIG = 1 << 26  # bytes; that of a ResNet-50 has 180 kB
_MOST_EXPANSION = 4  # trained weights hardly compress
_SMALL = 1 << 26
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
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
        with zipfile.ZipFile(path) as archive:
            return _CONFIG in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A `.keras` file, open for reading.

    Raises:
        WeightFileError: it is damaged, or keeps its weights in another way than Keras does by default.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            config = _json(archive, _CONFIG)
            metadata = _json(archive, "metadata.json") if "metadata.json" in archive.namelist() else {}
            weights = _weights(archive, _limit(path))
        except _DAMAGE as error:
            raise WeightFileError(f"the archive is damaged: {error}") from None
        size = _only(archive, _WEIGHTS).file_size
        contents = stack.enter_context(opened_hdf5(weights, size, config))
        if isinstance(metadata, dict):
            contents.metadata.update({str(key): str(value) for key, value in metadata.items()})
        try:
            yield contents
        except _DAMAGE as error:
            raise WeightFileError(f"the archive is damaged: {error}") from None


def _weights(archive: zipfile.ZipFile, limit: int) -> BinaryIO:
    """The HDF5 file in the archive: read where it lies if it is stored as it is, which is what Keras does."""
    member = _only(archive, _WEIGHTS)
    if member.compress_type == zipfile.ZIP_STORED:
        return cast("BinaryIO", archive.open(member))
    return BytesIO(_member(archive, _WEIGHTS, limit))


def _limit(path: Path) -> int:
    return _MOST_EXPANSION * path.stat().st_size + _SMALL


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(_member(archive, name, _LARGEST_CONFIG))
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightFileError):
            raise
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
    return members[0]
