"""Keras' HDF5 files: legacy weights and whole models (`.h5`), and Keras 3 weights (`.weights.h5`)."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.guarded import GuardedFile, guarded, told_as
from greffon.weights.read.keras_kernels import in_order
from greffon.weights.read.keras_layers import flat_configs
from greffon.weights.read.keras_legacy import read_legacy
from greffon.weights.read.keras_vars import read_vars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from greffon.weights.read.arrays import Contents

NAME = "Keras HDF5"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def recognises(head: bytes, path: Path) -> bool:
    """The signature of HDF5."""
    return head.startswith(_SIGNATURE)


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """Any of Keras' three kinds of HDF5 file, open for reading.

    Raises:
        WeightFileError: it is damaged, refused, or HDF5 of another kind.
    """
    with opened_hdf5(path, path.stat().st_size) as contents:
        yield contents


@contextmanager
def opened_hdf5(source: Path | BinaryIO, size: int, config: dict[str, Any] | None = None) -> Iterator[Contents]:
    """An HDF5 file of `size` bytes, open for reading.

    Args:
        source: the file, by its path or open.
        size: its length in bytes, by which what it claims is judged.
        config: the model's configuration, where it is stored elsewhere.
    """
    with guarded(source, size) as file:
        with told_as("the file is damaged"):
            contents = _contents(file, config)
        yield contents


def _contents(file: GuardedFile, config: dict[str, Any] | None) -> Contents:
    if "model_weights" in file.root:
        contents = read_legacy(file, file.child(file.root, "model_weights"), "Keras whole-model HDF5")
        _add_config(file, contents)
    elif file.strings(file.root, "layer_names"):
        contents = read_legacy(file, file.root, "Keras legacy HDF5 weights")
    else:
        return read_vars(file, config)
    return in_order(contents)


def _add_config(file: GuardedFile, contents: Contents) -> None:
    for name in ("keras_version", "backend"):
        if text := file.string(file.root, name):
            contents.metadata[name] = text
    text = file.string(file.root, "model_config")
    if text is None:
        return
    try:
        contents.configs.update(flat_configs(json.loads(text)))
        contents.layer_names = tuple(dict.fromkeys([*contents.layer_names, *contents.configs]))
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"the model's configuration in it cannot be read as JSON: {error}") from None
