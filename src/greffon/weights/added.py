"""The weight sets that the user added on this machine: a file and its manifest in the cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.cache import weights_dir

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.weights.records import WeightSet

FOLDER = "added"
"""Where in the cache's folder of weights they lie."""


def added_dir() -> Path:
    """The folder of the cache with the user's own weight sets; it need not exist."""
    return weights_dir() / FOLDER


def record_path(name: str) -> Path:
    """Where the manifest of the user's own weight set lies, or would lie."""
    return added_dir() / f"{name}.json"


def added_set(name: str) -> WeightSet | None:
    """The record of a weight set that was added under that name, or None.

    Raises:
        WeightFileError: its record is damaged.
    """
    from greffon.weights.manifest import NAME_PATTERN, read_manifest

    # A path or anything else that is no name is not looked for.
    if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None or not record_path(name).is_file():
        return None
    found = read_manifest(record_path(name))
    if found.name != name:
        raise WeightFileError(f"{record_path(name)} is the record of {found.name!r}, expected {name!r}: add it again")
    return found.record(FOLDER)


def added_sets() -> dict[str, WeightSet]:
    """Every weight set that was added on this machine, by name; damaged records are passed over."""
    found = {}
    for path in sorted(added_dir().glob("*.json")):
        try:
            record = added_set(path.stem)
        except WeightFileError:
            continue
        if record is not None:
            found[record.name] = record
    return found
