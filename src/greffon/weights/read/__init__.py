"""Any weight file to named arrays: by its content, never by its name, and without running anything in it.

A format is one module with `NAME`, `recognises(head, path)` and the context manager `opened(path)`; adding one is a
line in `_FORMATS`.
"""

from __future__ import annotations

import struct
import zipfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.read import (
    hdf5,
    keras_zip,
    npz_file,
    onnx_file,
    safetensors_file,
    safetensors_index,
    tf_bundle,
    torch_bare,
    torch_legacy,
    torch_zip,
)
from greffon.weights.read.arrays import Contents, Tensor, WeightArrays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["Contents", "Tensor", "WeightArrays", "opened", "read"]

# In this order: shards of checkpoints, which are known by their names alone, first; PyTorch's archives before those of
# Keras, which take any with a large directory; bare pickles last, which have no signature.
_FORMATS: tuple[ModuleType, ...] = (
    tf_bundle,
    hdf5,
    torch_zip,
    npz_file,
    keras_zip,
    safetensors_file,
    safetensors_index,
    onnx_file,
    torch_legacy,
    torch_bare,
)
_HEAD_SIZE = 512

# First bytes of what users mistake for a weight file -> what to say.
_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE", "it is a web page: the download gave an error or login page instead of the file"),
    (b"<html", "it is a web page: the download gave an error or login page instead of the file"),
    (b"<?xml", "it is an XML answer: the download gave an error instead of the file"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
    (b"\x93NUMPY", "it is one NumPy array, without names"),
    (b"{", "it is JSON, such as a model's configuration: the weights are in another file"),
)
_PICTURE = "it is a picture, and no weights are in one: pictures are for greffon predict, and data to train on"
# First bytes of pictures: JPEG, PNG, GIF, TIFF.
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\x00", b"MM\x00*")


@contextmanager
def opened(path: str | Path) -> Iterator[Contents]:
    """Open a weight file and say what is in it, without running code and without believing what it claims.

    Names, shapes and types are read; the numbers of a tensor only when its `load()` is called.

    Args:
        path: any weight file; what it is called does not matter.

    Yields:
        The contents. Names and axes are those of the file; for files of Keras, Keras' own.

    Raises:
        WeightFileError: there is no such file, it is of no known format, is cut off, or holds what no weight
            file needs (links to other files, code, claims of more data than there is).

    Example:
        >>> from greffon.weights.read import opened
        >>> from greffon.weights.sets import embedded_path, weight_set
        >>> with opened(embedded_path(weight_set("thin").file())) as contents:
        ...     contents.tensors["conv1_conv/kernel"].shape
        (7, 7, 3, 64)
    """
    path = _of_prefix(Path(path))
    head = _head(path)
    module = next((it for it in _FORMATS if it.recognises(head, path)), None)
    if module is None:
        expected = ", ".join(it.NAME for it in _FORMATS)
        raise WeightFileError(f"weight file {path}: {_what_else(head, path)}. Expected one of: {expected}")
    with ExitStack() as stack:
        with _named(path, module.NAME):
            contents = stack.enter_context(module.opened(path))
            if not contents.tensors:
                raise WeightFileError("it holds no weights")
        yield contents


def read(path: str | Path) -> WeightArrays:
    """Every array of a weight file, in memory.

    Args:
        path: any weight file; what it is called does not matter.

    Returns:
        The arrays, float32, named as in the file, and what the file tells beside them.

    Raises:
        WeightFileError: as for `opened`; or a tensor is damaged.

    Example:
        >>> from greffon.weights.read import read
        >>> from greffon.weights.sets import embedded_path, weight_set
        >>> weights = read(embedded_path(weight_set("thin").file()))
        >>> weights.arrays["conv1_conv/kernel"].dtype
        dtype('float32')
    """
    with opened(path) as contents, _named(path, contents.format):
        return contents.load()


@contextmanager
def _named(path: str | Path, name: str) -> Iterator[None]:
    try:
        yield
    except WeightFileError as error:
        raise WeightFileError(f"weight file {path} ({name}): {error}") from error


def _of_prefix(path: Path) -> Path:
    """TensorFlow's users name a checkpoint by what its files' names begin with."""
    index = path.with_name(f"{path.name}.index")
    return index if not path.exists() and index.is_file() else path


def _head(path: Path) -> bytes:
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_SIZE)
    except OSError as error:
        raise WeightFileError(f"weight file {path} cannot be opened: {error.strerror or error}") from None


def _what_else(head: bytes, path: Path) -> str:
    if path.is_dir() or not head:
        return "it is a folder" if path.is_dir() else "it is empty"
    for start, what in _OTHER_FILES:
        if head.lstrip()[: len(start)].lower() == start.lower():
            return what
    if head.startswith(_PICTURES) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:8] == b"ftyp":
        return _PICTURE
    if zipfile.is_zipfile(path):
        return f"it is a zip archive with {_members(path)} and no config.json"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive that is cut off: copy or download it again"
    return f"it starts with {head[:8]!r}"


def _members(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error):
        return "a damaged directory"
    shown = ", ".join(names[:3])
    return f"{len(names)} files ({shown}{', ...' if len(names) > 3 else ''})"
