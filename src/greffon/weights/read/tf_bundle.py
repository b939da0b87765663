"""TensorFlow's checkpoints and the variables of a SavedModel, read without TensorFlow: no graph is run."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.read import tf_configs, tf_v1, tf_v2
from greffon.weights.read.members import check_name, open_member
from greffon.weights.read.tf_table import MAGIC, Table
from greffon.weights.read.wire import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greffon.weights.read.arrays import Contents

NAME = "TensorFlow checkpoint"
_SAVED_MODEL = "saved_model.pb"
_LIST = "checkpoint"  # the text file in which TensorFlow says which of a folder's checkpoints is the newest
_SHARD = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
_NEWEST = re.compile(rb'^model_checkpoint_path: "((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_LONGEST_LIST = 1 << 20


def recognises(head: bytes, path: Path) -> bool:
    """A folder with an index, an index, a file of TensorFlow's first format, or a shard or saved_model.pb."""
    try:
        if path.is_dir():
            return (path / _SAVED_MODEL).is_file() or (path / _LIST).is_file() or any(path.glob("*.index"))
        if path.name == _SAVED_MODEL or _SHARD.fullmatch(path.name):
            return True
        # An index that is cut off has lost its magic; it begins with an empty key.
        return _ends_with_magic(path) or (path.suffix == ".index" and head.startswith(b"\x00\x00"))
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A checkpoint or the variables of a SavedModel, open for reading.

    Args:
        path: the folder, or one of its files: `.index`, `.data-00000-of-00001`, `saved_model.pb`; or a checkpoint of
            TensorFlow's first format, which is a single file.

    Raises:
        WeightFileError: it is damaged, files are missing, or it points at files elsewhere.
    """
    with ExitStack() as stack:
        try:
            index = _index(path, stack)
            table = Table(Source(*open_member(index, stack, named_by_user=index == path)))
            contents = tf_v2.contents(index, table, stack) if index.suffix == ".index" else tf_v1.contents(table)
            saved_model = path if path.is_dir() else path.parent
            if index.parent.name == "variables" and path.name != "variables" and index.parent != path.parent:
                contents.format = "TensorFlow SavedModel"
                tf_configs.add(contents, saved_model, stack)
            yield contents
        except OSError as error:
            raise WeightFileError(f"it cannot be read: {error.strerror or error}") from None


def _index(path: Path, stack: ExitStack) -> Path:
    """The index that is meant by a path."""
    shard = _SHARD.fullmatch(path.name)
    if path.is_dir():
        return _index_in(path, stack)
    if path.name == _SAVED_MODEL:
        return _variables(path.parent)
    return path.with_name(f"{shard[1]}.index") if shard else path


def _index_in(folder: Path, stack: ExitStack) -> Path:
    if (folder / _SAVED_MODEL).is_file():
        return _variables(folder)
    if (folder / _LIST).is_file():
        newest = folder / _newest(folder, stack)
        index = newest.with_name(f"{newest.name}.index")
        return newest if newest.is_file() and not index.exists() else index
    found = sorted(it.name for it in folder.glob("*.index"))
    if len(found) != 1:
        shown = ", ".join(found[:5])
        raise WeightFileError(f"the folder holds {len(found)} checkpoints: name one of them ({shown})")
    return folder / found[0]


def _variables(folder: Path) -> Path:
    variables = folder / "variables"
    if variables.is_symlink() or not (variables / "variables.index").is_file():
        raise WeightFileError("it is a SavedModel without variables/variables.index: its weights are missing")
    return variables / "variables.index"


def _newest(folder: Path, stack: ExitStack) -> str:
    file, size = open_member(folder / _LIST, stack)
    if size > _LONGEST_LIST:
        raise WeightFileError("its file `checkpoint` is none of TensorFlow's")
    named = _NEWEST.search(file.read())
    if named is None:
        raise WeightFileError("its file `checkpoint` names no checkpoint")
    name = re.sub(rb"\\(.)", rb"\1", named[1]).decode("utf-8", "replace")
    # TensorFlow 1 wrote the whole way on the machine of the training: the name alone counts.
    return check_name(name.rpartition("/")[2] if name.startswith("/") else name, "the file `checkpoint`")


def _ends_with_magic(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < len(MAGIC):
            return False
        file.seek(-len(MAGIC), 2)
        return file.read() == MAGIC
