"""Any weight file to named arrays: by its content, never by its name, and without running anything in it.

A format is one module with `NAME`, `recognises(head, path)` and `read(path)`; adding one is a line in `_FORMATS`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.read import hdf5, keras_zip, safetensors_file
from greffon.weights.read.arrays import WeightArrays

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["WeightArrays", "read"]

_FORMATS: tuple[ModuleType, ...] = (hdf5, keras_zip, safetensors_file)
_HEAD_SIZE = 512

# First bytes of what users mistake for a weight file -> what to say.
_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE", "it is a web page: the download gave an error or login page instead of the file"),
    (b"<html", "it is a web page: the download gave an error or login page instead of the file"),
    (b"<?xml", "it is an XML answer: the download gave an error instead of the file"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
    (b"\x93NUMPY", "it is one NumPy array, without names"),
    (b"\x80", "it is a Python pickle, which can run code when opened: Greffon never opens one"),
    (b"{", "it is JSON, such as a model's configuration: the weights are in another file"),
)


def read(path: str | Path) -> WeightArrays:
    """Read every array of a weight file, without running code and without believing what it claims.

    Args:
        path: a Keras `.h5` (weights or whole model), `.weights.h5` or `.keras`, or a safetensors file; what it
            is called does not matter.

    Returns:
        The arrays by `layer/weight`, float32 in memory, and what the file tells beside them.

    Raises:
        WeightFileError: there is no such file, it is none of these formats, is cut off, or holds what no weight
            file needs (links to other files, claims of more data than there is).

    Example:
        >>> from greffon.weights.read import read
        >>> from greffon.weights.sets import embedded_path, weight_set
        >>> weights = read(embedded_path(weight_set("thin").file()))
        >>> weights.arrays["conv1_conv/kernel"].shape
        (7, 7, 3, 64)
    """
    path = Path(path)
    head = _head(path)
    for module in _FORMATS:
        if module.recognises(head, path):
            try:
                weights: WeightArrays = module.read(path)
            except WeightFileError as error:
                raise WeightFileError(f"weight file {path} ({module.NAME}): {error}") from error
            if not weights.arrays:
                raise WeightFileError(f"weight file {path} ({weights.format}) holds no weights")
            return weights
    expected = ", ".join(module.NAME for module in _FORMATS)
    raise WeightFileError(f"weight file {path}: expected {expected}, but {_what_else(head, path)}")


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise WeightFileError(f"weight file {path}: expected a file, got a folder")
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_SIZE)
    except OSError as error:
        raise WeightFileError(f"weight file {path} cannot be opened: {error.strerror or error}") from None


def _what_else(head: bytes, path: Path) -> str:
    if not head:
        return "it is empty"
    for start, what in _OTHER_FILES:
        if head.lstrip()[: len(start)].lower() == start.lower():
            return what
    if zipfile.is_zipfile(path):
        return f"it is a zip archive with {_members(path)} and no config.json"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive that is cut off: copy or download it again"
    return f"it starts with {head[:8]!r}"


def _members(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return "a pickle from PyTorch"
    shown = ", ".join(names[:3])
    return f"{len(names)} files ({shown}{', ...' if len(names) > 3 else ''})"
