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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    import h5py

# Filters inside the HDF5 library and h5py themselves. Others would be loaded from a folder that an environment
# variable names: code that does not belong to this program.
_KNOWN_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_MOST_EXPANSION = 4  # trained weights hardly compress; freshly made ones have zeros in biases
_SMALL = 1 << 26  # bytes that any file may claim
_MOST_OBJECTS = 200_000
_DEEPEST = 64


class GuardedFile:
    """Read access to an open HDF5 file in which only plain groups, datasets and attributes exist."""

    def __init__(self, file: h5py.File, size: int) -> None:
        self.root: Any = file
        self._left = _MOST_EXPANSION * size + _SMALL

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
            if address in seen or len(seen) > _MOST_OBJECTS or path.count("/") > _DEEPEST:
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
        _check_storage(dataset, name)
        if dataset.shape is None or dataset.dtype.kind not in "fiubV" or dataset.dtype.hasobject:
            raise WeightFileError(f"the array {name!r} holds {dataset.dtype}, expected numbers")
        # Keras stores bfloat16 as two opaque bytes and writes the type beside them.
        bfloat16 = dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2
        elements = max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,)))
        self._claim(elements * dataset.dtype.itemsize, name)

        def read() -> Array:
            try:
                values = dataset[()]
            except OSError as error:
                raise WeightFileError(f"the array {name!r} cannot be read, the file is damaged: {error}") from None
            return _as_bfloat16(values) if bfloat16 else values

        return Tensor(tuple(dataset.shape), "bfloat16" if bfloat16 else dataset.dtype.name, read)

    def strings(self, where: Any, name: str) -> list[str]:
        """A list of strings in an attribute, which Keras splits into name0, name1, ... when it is long."""
        if name in where.attrs:
            return [_text(value) for value in self._attribute(where, name)]
        parts: list[str] = []
        number = 0
        while f"{name}{number}" in where.attrs:
            parts.extend(_text(value) for value in self._attribute(where, f"{name}{number}"))
            number += 1
        return parts

    def string(self, where: Any, name: str) -> str | None:
        """A string in an attribute, or None."""
        return _text(self._attribute(where, name)) if name in where.attrs else None

    def _attribute(self, where: Any, name: str) -> Any:
        import h5py

        attribute = h5py.h5a.open(where.id, name.encode())
        self._claim(math.prod(attribute.shape or ()) * attribute.dtype.itemsize, name)
        return where.attrs[name]

    def _follow(self, group: Any, name: str) -> Any:
        import h5py

        if not isinstance(group, h5py.Group):
            raise WeightFileError(f"{name!r} is expected in a group, but there is an array")
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
    except OSError as error:
        raise WeightFileError(_damage(str(error))) from None
    with file:
        try:
            yield GuardedFile(file, size)
        except (OSError, RuntimeError, KeyError, ValueError, RecursionError) as error:
            if isinstance(error, WeightFileError):
                raise
            raise WeightFileError(f"the file is damaged: {error}") from None


def _check_storage(dataset: Any, name: str) -> None:
    import h5py

    creation = dataset.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise WeightFileError(
            f"the array {name!r} lies in another file. Refused: it could read other files of this machine"
        )
    for number in range(creation.get_nfilters()):
        code = creation.get_filter(number)[0]
        if code not in _KNOWN_FILTERS:
            raise WeightFileError(
                f"the array {name!r} needs the HDF5 plugin {code}. Refused: plugins are code; known are "
                + ", ".join(_KNOWN_FILTERS.values())
            )


def _as_bfloat16(values: Any) -> Array:
    import ml_dtypes

    return np.asarray(values.view(ml_dtypes.bfloat16))


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _damage(reason: str) -> str:
    sizes = re.search(r"eof = (\d+).*stored_eof = (\d+)", reason)
    if sizes:
        return (
            f"it is cut off: {int(sizes[1]):,} bytes are there, {int(sizes[2]):,} were written. "
            "Copy or download it again"
        )
    return f"it is damaged: {reason}"
