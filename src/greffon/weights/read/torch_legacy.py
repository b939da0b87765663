"""PyTorch files before 1.6: five pickles one after the other, then the numbers of every storage."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.pickled import read_pickle
from greffon.weights.read.pickled_values import Source, open_file
from greffon.weights.read.torch_arrays import Region, Storage
from greffon.weights.read.torch_names import Names, shown
from greffon.weights.read.torch_rebuild import storage_of
from greffon.weights.read.torch_unwrap import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from greffon.weights.read.arrays import Contents

NAME = "PyTorch before 1.6"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# The magic number as a pickle, in a frame or not.
_START = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a" + re.escape(_MAGIC.to_bytes(10, "little")), re.DOTALL)
_TAR = b"ustar"


def recognises(head: bytes, path: Path) -> bool:
    """The magic number of PyTorch as a pickle, or the tar archive that was before it."""
    return _START.match(head) is not None or head[257:262] == _TAR


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A PyTorch file of the old format, open for reading.

    Raises:
        WeightFileError: it is damaged, hostile, or holds no weights that can be told.
    """
    with open_file(path) as file:
        yield _contents(file, path.stat().st_size)


def _contents(file: BinaryIO, size: int) -> Contents:
    if file.read(262)[257:] == _TAR:
        raise WeightFileError(
            "it is a tar archive: that of PyTorch before 0.1.10, which is not read, or files packed by somebody. "
            "Unpack it, or load it with PyTorch and save the state_dict() again"
        )
    source = Source(file, 0, size)
    names = Names()
    storages: dict[str, Storage] = {}
    magic, protocol = (read_pickle(source, names.find) for _ in range(2))
    if type(magic) is not int or magic != _MAGIC or type(protocol) is not int or protocol != _PROTOCOL:
        raise WeightFileError("it does not begin as PyTorch files do")
    read_pickle(source, names.find)  # the sizes of C's integers on the machine that wrote it

    def persistent(key: Any) -> Any:
        if type(key) is tuple and len(key) == 4 and type(key[0]) is str and key[0] == "module":
            return key[1]  # a class and its source code
        return storage_of(key, storages)

    root = read_pickle(source, names.find, persistent)
    keys = read_pickle(source, names.find)
    _locate(file, source, keys, storages)
    contents = unwrapped(root, "PyTorch (before 1.6)", size)
    contents.notes.extend(names.notes())
    return contents


def _locate(file: BinaryIO, source: Source, keys: Any, storages: dict[str, Storage]) -> None:
    """Find the numbers of every storage, which are always little-endian, behind how many there are."""
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise WeightFileError("it is damaged: the list of its storages is missing")
    for key in keys:
        storage = storages.get(key)
        if storage is None or storage.region is not None:
            raise WeightFileError(f"storage {shown(key)} is in the file, but not in its list, or is there twice")
        found = int.from_bytes(source.read(8), "little") * storage.dtype.size
        if found != storage.size:
            raise WeightFileError(
                f"storage {shown(key)} claims {storage.size:,} bytes, and {found:,} were written: it is damaged"
            )
        start = source.place
        source.skip(storage.size, text=False)
        storage.region = Region(file, start, storage.size)
    missing = next((key for key, it in storages.items() if it.region is None), None)
    if missing is not None:
        raise WeightFileError(f"storage {shown(missing)} is not in the file")
