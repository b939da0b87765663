"""A pickle by itself, of NumPy arrays by name: as Detectron2 and the scripts around it keep weights (.pkl)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from greffon.weights.read.pickled import read_pickle
from greffon.weights.read.pickled_steps import STEP_CODES
from greffon.weights.read.pickled_values import Source, open_file
from greffon.weights.read.torch_names import Names
from greffon.weights.read.torch_unwrap import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greffon.weights.read.arrays import Contents

NAME = "pickled arrays"


def recognises(head: bytes, path: Path) -> bool:
    """The protocol's number, then a step that pickles have; or a dict in the protocol that is all text."""
    if head.startswith(b"(dp"):
        return True
    # A header length of safetensors begins with these bytes, too, but zeros follow.
    return len(head) > 2 and head[0] == 0x80 and head[1] <= 5 and head[2] in STEP_CODES


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """A pickle of arrays, open for reading.

    Raises:
        WeightFileError: it is damaged, hostile, or holds no arrays by name.
    """
    with open_file(path) as file:
        size = path.stat().st_size
        names = Names()
        contents = unwrapped(read_pickle(Source(file, 0, size), names.find), NAME, size)
        contents.notes.extend(names.notes())
        yield contents
