"""What Keras 2 wrote into a SavedModel beside its weights: the configuration of the model, read as data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.read.keras_layers import flat_configs
from greffon.weights.read.members import open_member
from greffon.weights.read.wire import Source

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from greffon.weights.read.arrays import Contents

_FILE = "keras_metadata.pb"
_LARGEST = 1 << 26


def add(contents: Contents, folder: Path, stack: ExitStack) -> None:
    """Give contents the configurations of layers, where the folder of a SavedModel has them.

    Raises:
        WeightFileError: the file is there and damaged.
    """
    if not (folder / _FILE).is_file():
        return
    file, size = open_member(folder / _FILE, stack)
    if size > _LARGEST:
        raise WeightFileError(f"{_FILE} has {size:,} bytes, more than the configuration of any network")
    source = Source(file, size)
    for node in source.fields(source.all):
        if node.number != 1:
            continue
        parts = {it.number: it for it in source.fields(node.span)}
        if 3 in parts and source.text(parts[3].span) == "root" and 5 in parts:
            config = _json(source.read(parts[5].span))
            contents.configs = flat_configs(config)
            version = config.get("keras_version") if isinstance(config, dict) else None
            if version:
                contents.metadata["keras_version"] = str(version)
            return


def _json(data: bytes) -> object:
    try:
        return json.loads(data, object_hook=_without_tuples)
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{_FILE} is damaged: {error}") from None


def _without_tuples(value: dict[str, object]) -> object:
    """Keras 2 writes a tuple as an object of its own; the other readers give lists."""
    return value["items"] if value.get("class_name") == "__tuple__" and "items" in value else value
