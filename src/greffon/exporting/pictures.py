"""A run's own pictures, where they are still there: to find ranges on, and to measure what an export loses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import polars as pl

    from greffon.bundle.read import Bundle

    Array = np.ndarray[Any, Any]

CALIBRATING = 32
"""Training pictures that ranges of bytes are found on."""

_FEWEST = 8


@dataclass(frozen=True, eq=False)
class Labelled:
    """The validation pictures of a run.

    Attributes:
        bundle: the run.
        root: the folder that relative paths start from.
        has: bool (rows of the table, classes), what the pictures are.
        expected: what the run answers for them, likewise.
        advance: called with how many more are done.
    """

    bundle: Bundle
    root: Path | None
    has: Array
    expected: Array
    advance: Callable[[int], None] | None = None

    def batches(self, size: int) -> Iterator[tuple[Array, Array, Array]]:
        """Pixels uint8 (n, side, side, 3), what they are and what the run says, both (n, classes)."""
        table = _in_order(self.bundle)
        found = _decoded(self.bundle, table["path"].to_list(), table["hash"].to_list(), self.root)
        while some := list(islice(found, size)):
            rows = [row for row, _ in some]
            yield np.stack([pixels for _, pixels in some]), self.has[rows], self.expected[rows]
            if self.advance is not None:
                self.advance(len(rows))


def validation_pictures(bundle: Bundle, root: Path | None) -> Labelled | None:
    """The validation pictures with the run's answers; None where not one of them can be read any more.

    Args:
        bundle: the run.
        root: the folder that relative paths start from; None: only absolute paths and addresses are looked for.

    Raises:
        InputError: a folder was given, and it has none of them.
    """
    from greffon.evaluation.answers import validation_answers

    table = _in_order(bundle)
    if not len(table) or table["label"].null_count():
        return None
    if next(_decoded(bundle, table["path"].to_list(), table["hash"].to_list(), root), None) is None:
        _check_nothing_was_promised(root, table)
        return None
    answers = validation_answers(bundle)
    return Labelled(bundle, root, answers.has, answers.probabilities)


def calibration_pictures(bundle: Bundle, root: Path | None) -> tuple[Array, str]:
    """Pictures to find ranges on, the same ones for the same run.

    Returns:
        uint8 (n, size, size, 3), and which they are: `training`, or `rendered` where fewer than 8 of the training
        pictures can be read any more.
    """
    import polars as pl

    from greffon.bundle.contract import rendered

    rows = bundle.split.filter(pl.col("split") == "train").sort("hash", "path")
    found = []
    for _, pixels in _decoded(bundle, rows["path"].to_list(), rows["hash"].to_list(), root):
        found.append(pixels)
        if len(found) == CALIBRATING:
            break
    if len(found) >= _FEWEST:
        return np.stack(found), "training"
    return np.stack(rendered(CALIBRATING, bundle.preprocessing.size)), "rendered"


def checked_root(root: str | Path | None) -> Path | None:
    """The folder as a path.

    Raises:
        InputError: there is no such folder.
    """
    if root is None:
        return None
    path = Path(root).expanduser()
    if not path.is_dir():
        raise InputError(f"pictures must be the folder that the run was trained on, {root!s} is no folder")
    return path


def _check_nothing_was_promised(root: Path | None, table: pl.DataFrame) -> None:
    if root is not None:
        example = next((path for path in table["path"] if path is not None), "none")
        raise InputError(
            f"{root} has none of the run's validation pictures as they were: give the folder that the run was trained "
            f"on, from which their paths start (the first is {example!r}), or no folder for rendered pictures"
        )


def _in_order(bundle: Bundle) -> pl.DataFrame:
    """The validation table, its rows in the order of `validation_answers`."""
    table = bundle.table
    return table.sort("path", "hash", *(name for name in table.columns if name not in {"path", "hash"}))


def _decoded(
    bundle: Bundle, paths: Sequence[str | None], hashes: Sequence[str | None], root: Path | None
) -> Iterator[tuple[int, Array]]:
    """Row and pixels of the pictures that are there and are still what they were."""
    from greffon.pictures.decode import decode

    prepare = bundle.preprocessing
    for row, (path, digest) in enumerate(zip(paths, hashes, strict=True)):
        content = _content(path, digest, root)
        if content is not None:
            try:
                yield row, decode(content, prepare.size, prepare.resize)
            except DataError:
                continue


def _content(path: str | None, digest: str | None, root: Path | None) -> bytes | None:
    import xxhash

    from greffon.pictures.sources.locate import is_local, located, read_bytes

    if path is None or (root is None and is_local(path) and not Path(path).is_absolute()):
        return None
    try:
        content = read_bytes(located(root or Path(), path))
    except (OSError, InputError):
        return None
    return content if xxhash.xxh3_128_hexdigest(content) == digest else None
