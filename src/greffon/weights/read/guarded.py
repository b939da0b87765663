"""HDF5 opened with suspicion: no links, no outside data, no plugins, no claims beyond what the file can hold."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Array, Tensor
from greffon.weights.read.hdf5_data import check_chunks, check_storage, check_there, needed
from greffon.weights.read.hdf5_texts import Texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    import h5py

_MOST_EXPANSION = 4  # trained weights hardly compress; freshly made ones have zeros in biases
_SMALL = 1 << 23  # bytes that any file may claim
_LARGEST_TEXT = 1 << 22  # bytes of one attribute; the configuration of a ResNet-152 has 600 kB
_MOST_OBJECTS = 50_000  # a ResNet-152 with its optimizer has 10,000
_DEEPEST = 64
# What h5py raises where the bytes of a file make no sense.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, RecursionError)


class GuardedFile:
    """Read access to an open HDF5 file in which only plain groups, datasets and attributes exist."""

    def __init__(self, file: h5py.File, source: Path | BinaryIO, size: int) -> None:
        self.root: Any = file
        self._size = size
        self._left = _MOST_EXPANSION * size + _SMALL
        self._objects = 0
        self._texts = Texts(source, size)

    def child(self, group: Any, path: str) -> Any:
        """The object at a path below a group, one plain link after the other.

        Raises:
            WeightFileError: there is none, or a link on the way points elsewhere.
        """
        for name in path.strip("/").split("/"):
            group = self._follow(group, name)
        return group

    def children(self, group: Any) -> Iterator[tuple[str, Any]]:
        """Name and object of everything directly in a group, by name."""
        self._count(0, len(group))
        for name in group:
            yield name, self._follow(group, name)

    def walk(self) -> Iterator[tuple[str, Any]]:
        """Path and group of every group in the file, the root ("") first.

        Raises:
            WeightFileError: a group contains itself, or there are too many.
        """
        import h5py

        seen: set[int] = set()
        waiting: list[tuple[str, Any]] = [("", self.root)]
        while waiting:
            path, group = waiting.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen or path.count("/") > _DEEPEST:
                raise WeightFileError("its groups contain each other or are too many for a weight file")
            seen.add(address)
            yield path, group
            inner = [(f"{path}/{name}", it) for name, it in self.children(group) if isinstance(it, h5py.Group)]
            waiting.extend(reversed(inner))

    def tensor(self, dataset: Any, name: str) -> Tensor:
        """A dataset of numbers, not read yet.

        Raises:
            WeightFileError: it is no dataset of numbers, lies outside the file, or is larger than the file allows.
        """
        import h5py

        if not isinstance(dataset, h5py.Dataset):
            raise WeightFileError(f"{name!r} is not an array")
        check_storage(dataset, name)
        dtype = dataset.dtype
        # Keras stores bfloat16 as two opaque bytes and writes the type beside them.
        bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None and dtype.subdtype is None
        if dataset.shape is None or not (dtype.kind in "fiub" or bfloat16):
            raise WeightFileError(f"the array {name!r} holds {dtype}, expected numbers")
        self._claim(needed(dataset), name)
        check_there(dataset, name)

        def read() -> Array:
            with told_as(f"the array {name!r} cannot be read, the file is damaged"):
                check_chunks(dataset, name, self._size)
                values = dataset[()]
            return _as_bfloat16(values) if bfloat16 else np.asarray(values)

        return Tensor(tuple(dataset.shape), "bfloat16" if bfloat16 else dtype.name, read)

    def strings(self, where: Any, name: str) -> list[str]:
        """A list of strings in an attribute, which Keras splits into name0, name1, ... when it is long.

        Raises:
            WeightFileError: it holds something else, or more than a weight file needs.
        """
        if name in where.attrs:
            return self._attribute(where, name)
        parts: list[str] = []
        number = 0
        while f"{name}{number}" in where.attrs:
            parts.extend(self._attribute(where, f"{name}{number}"))
            number += 1
        return parts

    def string(self, where: Any, name: str) -> str | None:
        """A string in an attribute, or None.

        Raises:
            WeightFileError: it holds something else, or more than a weight file needs.
        """
        if name not in where.attrs:
            return None
        texts = self._attribute(where, name)
        return texts[0] if len(texts) == 1 else None

    def _attribute(self, where: Any, name: str) -> list[str]:
        import h5py

        attribute = h5py.h5a.open(where.id, name.encode())
        count = math.prod(attribute.shape) if attribute.shape is not None else 0
        if count == 0:
            return []
        text = h5py.check_string_dtype(attribute.dtype)
        if text is None:
            raise WeightFileError(f"the attribute {name!r} holds {attribute.dtype}, expected text")
        self._count(count)
        if text.length is None:
            most = min(_LARGEST_TEXT, self._left)
            texts = self._texts.read(h5py.h5o.get_info(where.id).addr, name, count, most)
        else:
            self._claim(count * text.length, name)
            self._left += count * text.length
            texts = [it.decode("utf-8") if isinstance(it, bytes) else str(it) for it in np.ravel(where.attrs[name])]
        self._claim(sum(map(len, texts)), name)
        return texts

    def _follow(self, group: Any, name: str) -> Any:
        import h5py

        if not isinstance(group, h5py.Group):
            raise WeightFileError(f"{name!r} is expected in a group, but there is an array")
        self._count(1)
        try:
            link = group.get(name, getlink=True)
        except TypeError:  # a class of links that h5py does not know
            link = "of an unknown class"
        if link is None:
            raise WeightFileError(f"{group.name.rstrip('/')}/{name} is named in the file but not in it")
        if not isinstance(link, h5py.HardLink):
            raise WeightFileError(
                f"{group.name.rstrip('/')}/{name} is a link to elsewhere, which no weight file needs. Refused: it "
                "could read other files of this machine"
            )
        return group[name]

    def _claim(self, size: int, name: str) -> None:
        self._left -= size
        if self._left < 0:
            raise WeightFileError(
                f"it claims far more data than its size can hold (at {name!r}). Refused: it could fill the memory"
            )

    def _count(self, objects: int, ahead: int = 0) -> None:
        """Every name that is looked at takes time: no file may ask for hours."""
        self._objects += objects
        if self._objects + ahead > _MOST_OBJECTS:
            raise WeightFileError(f"it names more than {_MOST_OBJECTS:,} things, too many for a weight file. Refused")


@contextmanager
def guarded(source: Path | BinaryIO, size: int) -> Iterator[GuardedFile]:
    """An HDF5 file of `size` bytes, open for reading.

    Raises:
        WeightFileError: it is cut off or damaged.
    """
    import h5py

    try:
        # Not locked: read-only and network folders refuse locks, and nothing is written.
        file = h5py.File(source, "r", locking=False) if isinstance(source, Path) else h5py.File(source, "r")
    except _DAMAGE as error:
        raise WeightFileError(_damage(str(error))) from None
    with file:
        yield GuardedFile(file, source, size)


@contextmanager
def told_as(what: str) -> Iterator[None]:
    """Tell what HDF5 and Python raise on senseless bytes as a `WeightFileError` that begins with `what`."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"{what}: {error}") from None


def _as_bfloat16(values: Any) -> Array:
    import ml_dtypes

    return np.asarray(np.asarray(values).view(ml_dtypes.bfloat16))


def _damage(reason: str) -> str:
    sizes = re.search(r"eof = (\d+).*stored_eof = (\d+)", reason)
    if sizes:
        return (
            f"it is cut off: {int(sizes[1]):,} bytes are there, {int(sizes[2]):,} were written. "
            "Copy or download it again"
        )
    return f"it is damaged: {reason}"
