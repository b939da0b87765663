"""How good a run is on labelled pictures, and whether that says anything: pictures that it knows already do not."""

from __future__ import annotations

import html
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import polars as pl

from greffon.errors import DataError, InputError
from greffon.evaluation.measures import Measures, measure
from greffon.evaluation.table import prediction_table, write_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rich.console import Group

    from greffon.bundle.predict import Predictor
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.sources.columns import Columns

Side = Literal["auto", "train", "val", "test", "all"]

KNOWN = {
    "train": "the run was trained on, which says nothing about new ones",
    "val": "the run chose its best epoch by, which flatters it a little",
}
"""What a run did with pictures on these sides of its own split, and what that means for the numbers."""

_LISTED = 10


class Bars(Protocol):
    """Something that shows progress, such as a training's reporter."""

    def bar(self, name: str, *, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """Count work that takes a while; gives a function to call with how many more are done."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a run is on labelled pictures.

    Attributes:
        measures: of the pictures that the run does not know; of all where it knows them all.
        is_test: whether `measures` say how good the run is on new pictures; False where it knows them all.
        known: measures of the pictures that it knows, by the side of its own split: `train`, `val`.
        table: one row per picture, known ones included, as `greffon.evaluation.table` describes it; the last column,
            `known`, is `train` or `val` where the run was trained on the picture or chose its best epoch by it.
        side: which pictures of the folder were taken: `train`, `val`, `test` or `all`.
        unreadable: pictures that were left out, and why: (path, reason).
        notes: what the user should know, one sentence each.
    """

    measures: Measures
    is_test: bool
    known: dict[str, Measures]
    table: pl.DataFrame
    side: str
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it but the table as plain values, ready for JSON."""
        return {
            **self.measures.to_dict(),
            "is_test": self.is_test,
            "side": self.side,
            "known": {name: measures.to_dict() for name, measures in self.known.items()},
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join([*self._above(), str(self.measures), *self.notes])

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        above = (Text(line, style="bold red") for line in self._above())
        return Group(*above, self.measures.__rich__(), *map(Text, self.notes))

    def _repr_html_(self) -> str:
        above = "".join(f"<p><b>{line}</b></p>" for line in self._above())
        below = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"{above}{self.measures._repr_html_()}{below}"

    def _above(self) -> list[str]:
        return [] if self.is_test else [_NO_TEST]


_NO_TEST = "This is no test: the run knows all of these pictures, so the numbers say nothing about new ones."


def evaluate(
    run: str | Path | Predictor,
    data: Any,
    *,
    columns: Columns | None = None,
    out: str | Path | None = None,
    side: Side = "auto",
    allow_missing: bool = False,
    progress: Bars | None = None,
) -> Evaluation:
    """Let a run name labelled pictures, and measure its answers.

    Classes are matched by the names of their folders, whatever their order. Pictures that cannot be read are listed
    and left out. Pictures whose content the run was trained on, or chose its best epoch by, are measured apart.

    Args:
        run: a run's folder, or what `greffon.load` gave.
        data: a folder with one folder of pictures per class, or with train/, val/ and test/ that hold such folders;
            or anything else that `greffon.train` takes.
        columns: which columns of a table say what; by default those with usual names.
        out: a .parquet file to write the table into; None: it is not written.
        side: which of train/, val/ and test/; `auto`: test/ if it is there, else val/, else all pictures.
        allow_missing: whether classes of the model may have no folder.
        progress: shows how far it is.

    Returns:
        Measures, table and notes; prints as a small table.

    Raises:
        InputError: it is no run, there is no such folder or side, or the file cannot be written.
        DataError: the folders are not the model's classes, or no picture can be read.

    Example:
        >>> from greffon.evaluation.evaluate import evaluate
        >>> found = evaluate("runs/first", "photos/")  # doctest: +SKIP
        >>> found.measures.accuracy, found.is_test  # doctest: +SKIP
        (0.925, True)
    """
    target = None if out is None else _checked_out(Path(out))
    predictor = _opened(run)
    catalog, rows, chosen = _labelled(predictor, data, columns, side, allow_missing=allow_missing, progress=progress)
    table, unreadable = _predicted(predictor, catalog, rows, progress)
    table = table.with_columns(known=_known(predictor, table["hash"]))
    if target is not None:
        write_table(table, target)
    return _evaluation(table, chosen, unreadable, [*predictor.notes, *_notes(catalog, chosen)])


def _opened(run: str | Path | Predictor) -> Predictor:
    from greffon.bundle.predict import load

    return load(run) if isinstance(run, str | Path) else run


def _checked_out(out: Path) -> Path:
    if out.suffix != ".parquet" or not out.parent.is_dir() or out.is_dir():
        raise InputError(f"out must be a .parquet file in a folder that is there, got {str(out)!r}")
    return out


def _bar(progress: Bars | None, name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda more: None) if progress is None else progress.bar(name, total=total)


def _labelled(
    predictor: Predictor,
    data: Any,
    columns: Columns | None,
    side: Side,
    *,
    allow_missing: bool,
    progress: Bars | None,
) -> tuple[Catalog, pl.DataFrame, str]:
    """The catalog, with the model's classes, the rows to be named, and which side of the folder that is."""
    from greffon.pictures.catalog import match_classes
    from greffon.pictures.sources.choose import catalog_of

    with _bar(progress, "reading pictures", None) as advance:
        # Folders are matched by `match_classes`, which says more where a class is none of the model's.
        is_folder = isinstance(data, str | Path) and Path(data).is_dir()
        class_names = None if is_folder else predictor.class_names
        catalog = catalog_of(data, to="evaluate", columns=columns, class_names=class_names, advance=advance)
    catalog = match_classes(catalog, predictor.class_names, allow_missing=allow_missing)
    given = [name for name in ("test", "val", "train") if len(catalog.side(name))]
    chosen = side if side != "auto" else next((name for name in given if name != "train"), "all")
    rows = catalog.ok if chosen == "all" else catalog.side(chosen)
    if not len(rows):
        there = f"it has {', '.join(name + '/' for name in given)}" if given else "it has class folders only"
        raise InputError(f"side={side!r}: {catalog.root} has no such pictures; {there}")
    return catalog, rows, chosen


def _predicted(
    predictor: Predictor, catalog: Catalog, rows: pl.DataFrame, progress: Bars | None
) -> tuple[pl.DataFrame, tuple[tuple[str, str], ...]]:
    """The table of those that can be read, and the others: what the scan found, and what went bad since."""
    files = catalog.locators(rows)
    with _bar(progress, "evaluate", len(files)) as advance:
        probabilities, errors = predictor.probabilities(files, advance=advance)
    readable = np.array([error is None for error in errors])
    sides = rows["split"].unique().to_list()
    unreadable = list(catalog.quarantined.filter(pl.col("split").is_in(sides)).select("path", "reason").iter_rows())
    unreadable += [(path, error) for path, error in zip(rows["path"], errors, strict=True) if error is not None]
    if not readable.any():
        raise DataError(f"none of {len(files)} pictures can be read any more: {errors[0]}")
    rows, several = rows.filter(readable), predictor.bundle.several_labels
    labels: list[Any] = catalog.labels_of(rows) if several else rows["label"].to_list()
    paths, hashes = rows["path"].to_list(), rows["hash"].to_list()
    table = prediction_table(
        paths, hashes, labels, probabilities[readable], predictor.class_names, several_labels=several
    )
    return table, tuple(unreadable)


def _known(predictor: Predictor, hashes: pl.Series) -> pl.Series:
    """The side of the run's own split that it knows each picture from, or null."""
    split = predictor.bundle.split.filter(pl.col("split").is_in(list(KNOWN)))
    # A picture that is on both sides was trained on: `val` rows first, so that `train` overwrites them.
    sides = dict(split.sort("split", descending=True).select("hash", "split").iter_rows())
    return pl.Series("known", [sides.get(content) for content in hashes], pl.String)


def _evaluation(
    table: pl.DataFrame, side: str, unreadable: tuple[tuple[str, str], ...], notes: list[str]
) -> Evaluation:
    new = table.filter(pl.col("known").is_null())
    parts = {name: table.filter(pl.col("known") == name) for name in KNOWN}
    known = {name: measure(part) for name, part in parts.items() if len(part)}
    for name, measures in known.items():
        notes.append(
            f"{measures.count:,} of the {len(table):,} pictures are ones that {KNOWN[name]}: {measures.headline()}"
            f"{', measured apart' if len(new) else ''}"
        )
    if unreadable:
        lines = [f"\n  {path}: {reason}" for path, reason in unreadable[:_LISTED]]
        more = f"\n  and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
        notes.append(f"{len(unreadable):,} pictures cannot be read and are left out:{''.join(lines)}{more}")
    measures = measure(new if len(new) else table)
    return Evaluation(measures, len(new) > 0, known, table, side, unreadable, tuple(notes))


def _notes(catalog: Catalog, side: str) -> list[str]:
    given = [name for name in ("train", "val", "test") if len(catalog.side(name))]
    notes = [f"Measured on {side}/ of {catalog.root}, which has {', '.join(n + '/' for n in given)}"] if given else []
    if given and side == "all":
        notes = [f"Measured on all of {', '.join(name + '/' for name in given)} of {catalog.root}"]
    empty = [name for name, count in catalog.counts(None if side == "all" else side).items() if not count]
    if empty:
        notes.append(f"There is no picture of {', '.join(map(repr, empty))}: nothing is said about these classes")
    return notes
