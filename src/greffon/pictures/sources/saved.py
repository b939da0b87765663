"""A catalog's table as a file that people edit: Parquet, or CSV as a spreadsheet gives it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.sources.labels import SEPARATOR, joined_labels, labels_of
from greffon.pictures.sources.locate import located, missing
from greffon.pictures.sources.parquet import panics_told
from greffon.pictures.sources.table_file import read_csv

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHOWN = 10


def write_saved(frame: pl.DataFrame, file: Path) -> None:
    """Write a catalog's table as Parquet or CSV, by the file's name; several labels become one cell, `cat|dog`.

    Raises:
        InputError: the name ends in neither .parquet nor .csv.
    """
    if _kind(file) == ".parquet":
        frame.write_parquet(file)
        return
    if "labels" in frame.columns:
        cells = [joined_labels(labels or []) for labels in frame["labels"].to_list()]
        frame = frame.with_columns(pl.Series("labels", cells, pl.String))
    frame.write_csv(file)


def read_saved(file: Path, schema: Mapping[str, Any], optional: Mapping[str, Any]) -> pl.DataFrame:
    """Read a catalog's table, with the types of its columns and no null where a text belongs.

    Args:
        file: Parquet or CSV.
        schema: columns that must be there, and their types.
        optional: columns that may be there.

    Raises:
        InputError: the file cannot be read, or a number is none.
        DataError: a column is missing; the message names the nearest.
    """
    kinds = {**schema, **optional}
    try:
        with panics_told():
            frame = pl.read_parquet(file) if _kind(file) == ".parquet" else read_csv(file).frame
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"catalog {file} cannot be read: {error}") from error
    lacking = [name for name in schema if name not in frame.columns]
    if lacking:
        others = [name for name in frame.columns if name not in kinds]
        told = "; ".join(f"{name} is missing{_is_it(name, others)}" for name in lacking)
        raise DataError(f"catalog {file}: a catalog has the columns {', '.join(schema)}; {told}")
    if "labels" in frame.columns and frame["labels"].dtype == pl.String:
        cells = [list(labels_of(cell, SEPARATOR)) for cell in frame["labels"]]
        frame = frame.with_columns(pl.Series("labels", cells, pl.List(pl.String)))
    wanted: dict[Any, Any] = {
        name: kind for name, kind in kinds.items() if name in frame.columns and frame[name].dtype != kind
    }
    numbers = [name for name, kind in wanted.items() if kind == pl.Int64 and frame[name].dtype == pl.String]
    blank = [pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in numbers]
    try:
        frame = frame.with_columns(blank).cast(wanted)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"catalog {file} cannot be read: {error}") from error
    texts = [name for name, kind in kinds.items() if kind == pl.String and name in frame.columns]
    return frame.with_columns(pl.col(texts).fill_null(""))


def check_saved(frame: pl.DataFrame, file: Path, root: Path | None) -> None:
    """Refuse what an edited table cannot mean.

    Args:
        frame: from `read_saved`.
        file: for messages.
        root: the folder of its relative paths; None: whether pictures are there is not asked.

    Raises:
        DataError: two rows that are used are about the same picture, a usable one has no label, or its file is gone.
    """
    used = frame.filter(pl.col("state") != "ignored")
    twice = used.filter(pl.col("path").is_duplicated())
    if len(twice):
        torn = twice.group_by("path", maintain_order=True).agg(pl.col("split", "label").unique(maintain_order=True))
        lines = [_contradiction(*row) for row in torn.select("path", "split", "label").iter_rows()]
        raise DataError(f"catalog {file} has several rows for the same picture; keep one of each:{_lines(lines)}")
    usable = frame.filter(pl.col("state") == "ok")
    unlabelled = usable.filter(pl.col("label") == "")["path"].to_list() if "labels" not in frame.columns else []
    if unlabelled:
        raise DataError(
            f"catalog {file}: {len(unlabelled)} usable pictures have no label; label them, or set their state to "
            f"ignored:{_lines(unlabelled)}"
        )
    gone = missing(located(root, path) for path in usable["path"]) if root is not None else []
    if gone:
        raise DataError(
            f"catalog {file}: {len(gone)} of {len(usable)} usable pictures are not there; give root=... if they are "
            f"elsewhere, or set their state to ignored:{_lines(gone)}"
        )


def _contradiction(path: str, splits: list[str], labels: list[str]) -> str:
    says = [
        f"{what} {' and '.join(map(repr, values))}"
        for what, values in (("split", splits), ("label", labels))
        if len(values) > 1
    ]
    return path + (f": {', '.join(says)}" if says else "")


def _is_it(name: str, others: list[str]) -> str:
    return nearest(name, others).replace("; did you mean ", " (is it ").replace("?", "?)")


def _lines(lines: list[str]) -> str:
    more = len(lines) - _SHOWN
    return "".join(f"\n  {line}" for line in lines[:_SHOWN]) + (f"\n  and {more} more" if more > 0 else "")


def _kind(file: Path) -> str:
    if file.suffix not in (".parquet", ".csv"):
        raise InputError(f"a catalog is a .parquet or .csv file, got {file.name!r}")
    return file.suffix
