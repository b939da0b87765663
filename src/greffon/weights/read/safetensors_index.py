"""Safetensors in several files: an index says in which file of its folder each tensor lies."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read import safetensors_file
from greffon.weights.read.arrays import Contents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greffon.weights.read.arrays import Tensor

NAME = "safetensors in several files"
_INDEX = "*.safetensors.index.json"
_ALONE = "model.safetensors"  # what a folder without an index holds
_MAP = "weight_map"
_LARGEST_INDEX = 1 << 22  # bytes
_MOST_FILES = 100


def recognises(head: bytes, path: Path) -> bool:
    """An index, or a folder with one (or with a `model.safetensors`, which needs none)."""
    if path.is_dir():
        return any(path.glob(_INDEX)) or (path / _ALONE).is_file()
    if not head.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(_read(path).get(_MAP), dict)
    except WeightFileError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """All files that an index names, open for reading.

    Args:
        path: the index, or the folder that it lies in.

    Raises:
        WeightFileError: the index names files outside its folder, a file is missing or damaged, or the index and the
            files do not agree on what is where.
    """
    if path.is_dir():
        indexes = sorted(path.glob(_INDEX))
        if not indexes:
            with safetensors_file.opened(path / _ALONE) as contents:
                yield contents
            return
        if len(indexes) > 1:
            names = ", ".join(index.name for index in indexes[:6])
            raise WeightFileError(f"the folder has {len(indexes)} indexes ({names}): pass the path of one")
        path = indexes[0]
    with ExitStack() as stack:
        yield _together(path, stack)


def _together(path: Path, stack: ExitStack) -> Contents:
    index = _read(path)
    where = _weight_map(index)
    metadata = index.get("metadata")
    contents = Contents({}, NAME)
    if isinstance(metadata, dict):
        contents.metadata.update({str(key): str(value) for key, value in metadata.items()})
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(where.values()):
        found.update(_shard(path.parent, name, where, stack, contents.metadata))
    missing = [name for name in where if name not in found]
    if missing:
        raise WeightFileError(
            f"the index names {len(missing)} tensors that are not where it says, such as {missing[0][:80]!r} in "
            f"{where[missing[0]]}"
        )
    for name in where:
        contents.add(name, found[name])
    contents.layer_names = tuple(dict.fromkeys(name.rpartition("/")[0] for name in contents.tensors))
    return contents


def _shard(
    folder: Path, file: str, where: dict[str, str], stack: ExitStack, metadata: dict[str, str]
) -> dict[str, Tensor]:
    """The tensors of one file, every one of which the index must expect there."""
    if not (folder / file).is_file():
        raise WeightFileError(f"{file}, which the index names, is not in the folder: copy all files of the model")
    try:
        contents = stack.enter_context(safetensors_file.opened(folder / file))
    except WeightFileError as error:
        raise WeightFileError(f"{file}: {error}") from error
    for name in contents.tensors:
        if where.get(name) != file:
            said = f"is in {where[name]} by the index" if name in where else "is not in the index"
            raise WeightFileError(f"{file} holds {name[:80]!r}, which {said}: the files are not of one model")
    for key, value in contents.metadata.items():
        metadata.setdefault(key, value)
    return contents.tensors


def _weight_map(index: dict[str, Any]) -> dict[str, str]:
    where = index.get(_MAP)
    if not isinstance(where, dict) or not where:
        raise WeightFileError(f"the index has no {_MAP}")
    files = set()
    for file in where.values():
        if not isinstance(file, str) or not _plain(file):
            raise WeightFileError(
                f"the index names the file {str(file)[:80]!r}, expected a plain name of a file beside it. Refused: it "
                "could read other files of this machine"
            )
        files.add(file)
    if len(files) > _MOST_FILES:
        raise WeightFileError(f"the index names {len(files):,} files, at most {_MOST_FILES} are read")
    return where


def _plain(name: str) -> bool:
    return name == Path(name).name and name.endswith(".safetensors") and not set(name) & set('/\\:*?"<>|\0')


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_INDEX + 1)
    except OSError as error:
        raise WeightFileError(f"the index cannot be opened: {error.strerror or error}") from None
    if len(data) > _LARGEST_INDEX:
        raise WeightFileError(f"the index has more than {_LARGEST_INDEX:,} bytes, far more than a model needs")
    try:
        index = json.loads(data, object_pairs_hook=safetensors_file.without_doubles)
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"the index cannot be read as JSON: {error}") from None
    return index if isinstance(index, dict) else {}
