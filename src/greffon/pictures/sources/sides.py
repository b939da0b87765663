"""Which side of a split the names of files say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from greffon.pictures.layout import SPLIT_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORDS = re.compile(r"[^A-Za-z]+")


def sides_of_names(names: Sequence[str]) -> list[str]:
    """For each file `train`, `val`, `test` or "", by the last such word in its name or its folder's.

    Where they do not say at least two different sides, nothing is meant by it, and all are "".

    Example:
        >>> from greffon.pictures.sources.sides import sides_of_names
        >>> sides_of_names(["x-train-000.tar", "x-val-000.tar"]), sides_of_names(["train-0.tar", "train-1.tar"])
        (['train', 'val'], ['', ''])
    """
    sides = [_side(name) for name in names]
    return sides if len(set(sides) - {""}) > 1 else [""] * len(sides)


def _side(name: str) -> str:
    for part in reversed(name.replace("\\", "/").rstrip("/").split("/")[-2:]):
        words = [word.lower() for word in _WORDS.split(part)]
        found = [SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS]
        if found:
            return found[-1]
    return ""
