"""`.keras`: a zip archive with config.json, read as data, and model.weights.h5."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.hdf5 import read_hdf5

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.weights.read.arrays import WeightArrays

NAME = "Keras .keras"
_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_LARGEST_CONFIG = 1 << 26  # bytes; that of a ResNet-50 has 180 kB
_MOST_EXPANSION = 4  # trained weights hardly compress
_SMALL = 1 << 26


def recognises(head: bytes, path: Path) -> bool:
    """A zip archive with a config.json in it."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _CONFIG in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read(path: Path) -> WeightArrays:
    """Read a `.keras` file.

    Raises:
        WeightFileError: it is damaged, or keeps its weights in another way than Keras does by default.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = _json(archive, _CONFIG)
            metadata = _json(archive, "metadata.json") if "metadata.json" in archive.namelist() else {}
            data = _member(archive, _WEIGHTS, _limit(path))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise WeightFileError(f"the archive is damaged: {error}") from None
    weights = read_hdf5(BytesIO(data), len(data), config)
    if isinstance(metadata, dict):
        weights.metadata.update({str(key): str(value) for key, value in metadata.items()})
    return weights


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
    members = [member for member in archive.infolist() if member.filename == name]
    if len(members) != 1:
        inside = ", ".join(archive.namelist()[:6])
        raise WeightFileError(f"expected one {name} in it, found {len(members)}; it holds {inside}")
    if members[0].file_size > limit:
        raise WeightFileError(
            f"{name} in it claims {members[0].file_size:,} bytes, far more than the archive's size can hold. "
            "Refused: it could fill the memory"
        )
    return archive.read(members[0])
