"""NumPy's archives: arrays by name in a zip file. Objects in them are pickles, and are refused."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Array, Contents, Tensor
from greffon.weights.read.wire import checked_shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "NumPy .npz"
_SUFFIX = ".npy"
_LARGEST_DIRECTORY = 1 << 22  # bytes of the list of members; that of a ResNet-50 has 30 kB
_MOST_EXPANSION = 4  # trained weights hardly compress; freshly made ones have zeros in biases
_SMALL = 1 << 26
_CHUNK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,  # an encrypted member; RecursionError in a header
    EOFError,
    ValueError,
    SyntaxError,
    tokenize.TokenError,  # a header that NumPy takes for one of Python 2
    TypeError,
    MemoryError,  # what Python's parser raises for a header of a thousand brackets
    OSError,
)


def recognises(head: bytes, path: Path) -> bool:
    """A zip archive whose first member is an array."""
    if not head.startswith(b"PK\x03\x04") or len(head) < 30:
        return False
    (length,) = struct.unpack("<H", head[26:28])
    return head[30 : 30 + length].endswith(_SUFFIX.encode())


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A `.npz` file, open for reading.

    Names and axes are those of the file. Kernels of BiT are (height, width, in, out).

    Raises:
        WeightFileError: it is damaged, holds Python objects, or claims more than its size can hold.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            _check_directory(file)
            archive = stack.enter_context(zipfile.ZipFile(file))
            contents = _contents(archive, _MOST_EXPANSION * path.stat().st_size + _SMALL)
        except WeightFileError:
            raise
        except _DAMAGE as error:
            raise WeightFileError(f"the archive is damaged: {error}") from None
        yield contents


def _contents(archive: zipfile.ZipFile, left: int) -> Contents:
    contents = Contents({}, NAME)
    for member in archive.infolist():
        name = member.filename.removesuffix(_SUFFIX)
        if name == member.filename or name in contents.tensors:
            raise WeightFileError(f"it holds {member.filename!r}, expected arrays (.npy), each once")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightFileError(f"{member.filename} is compressed in a way that NumPy does not write")
        left -= member.file_size
        if left < 0:
            raise WeightFileError("it claims far more data than its size can hold. Refused: it could fill the memory")
        tensor = _tensor(archive, member)
        if tensor is None:
            contents.notes.append(f"{name} is left out: it holds no numbers.")
        else:
            contents.add(name, tensor)
    contents.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in contents.tensors))
    return contents


def _tensor(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor | None:
    """What the header of an array says; None for text and other things that are no numbers."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise WeightFileError(f"{member.filename} is of version {version} of NumPy's format, expected 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise WeightFileError(
            f"{member.filename} holds Python objects, which are pickles and can run code when opened. Refused"
        )
    shape = checked_shape([int(length) for length in shape], member.filename)
    if member.file_size != start + math.prod(shape) * dtype.itemsize:
        raise WeightFileError(
            f"{member.filename} claims the shape {shape} of {dtype} in {member.file_size - start:,} bytes"
        )
    # NumPy writes bfloat16, which it does not know, as two opaque bytes.
    bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None
    if not bfloat16 and dtype.kind not in "fiub":
        return None

    def load() -> Array:
        data = _bytes(archive, member, start)
        if bfloat16:
            import ml_dtypes

            return data.view(ml_dtypes.bfloat16).reshape(shape, order="F" if fortran else "C")
        return data.view(dtype).reshape(shape, order="F" if fortran else "C")

    return Tensor(shape, "bfloat16" if bfloat16 else dtype.name, load)


def _bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, start: int) -> Array:
    """What follows the header; the archive's checksum is over all of it, and is checked at its end."""
    data = np.empty(member.file_size - start, np.uint8)
    try:
        with archive.open(member) as file:
            file.read(start)
            filled = 0
            while piece := file.read(_CHUNK):
                data[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                filled += len(piece)
    except _DAMAGE as error:
        raise WeightFileError(f"{member.filename} is damaged: {error}") from None
    if filled != len(data):
        raise WeightFileError(f"{member.filename} is cut off: {filled:,} of {len(data):,} bytes are there")
    return data


def _check_directory(file: BinaryIO) -> None:
    """Refuse a list of members that would fill the memory: Python reads all of it."""
    size = file.seek(0, os.SEEK_END)
    tail_size = min(size, 1 << 16)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise WeightFileError("it is cut off: the list of its members at its end is missing. Copy or download it again")
    listed = struct.unpack("<L", tail[end + 12 : end + 16])[0]
    if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":  # the record for large archives goes before
        (place,) = struct.unpack("<Q", tail[end - 12 : end - 4])
        if place > size - 56:
            raise WeightFileError("it is damaged: the list of its members is not where it says")
        file.seek(place)
        listed = struct.unpack("<Q", file.read(56)[40:48])[0]
    if listed > _LARGEST_DIRECTORY:
        raise WeightFileError(f"the list of its members has {listed:,} bytes, more than that of any network")
    file.seek(0)
