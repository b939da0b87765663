"""What every source finds, and the catalog that comes of it: scanned, checked, with what the user should be told."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from greffon.errors import DataError, nearest
from greffon.pictures.catalog import OPTIONAL, SCHEMA, SPLITS, Catalog, format_of, listed, notes_on_copies
from greffon.pictures.layout import natural_order
from greffon.pictures.scan import Scanned, scan
from greffon.pictures.sources.locate import located
from greffon.say import are, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_SHOWN = 10
_MOSTLY = 0.5  # of the files gone: then their folder is not the one that was meant


@dataclass(frozen=True, slots=True)
class Row:
    """A picture as its source has it.

    Attributes:
        path: locator; relative to the source's root, or one that stands alone.
        labels: its classes; none where nothing is said.
        group: pictures of one group stay on one side of the split; "" for none.
        split: `train`, `val`, `test` or "".
        ignored: why it is not taken, or "".
        origin: where it was before it was written into the cache folder, or "".
    """

    path: str
    labels: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    ignored: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Found:
    """All pictures of a source.

    Attributes:
        rows: one for each picture, in the source's order.
        root: the folder that relative paths start from.
        name: what messages call the source.
        class_names: in the order of the outputs, where the source says so; else None.
        several: whether a picture may have several labels, or none.
        notes: what a user should be told, one sentence each.
    """

    rows: list[Row]
    root: Path
    name: str
    class_names: tuple[str, ...] | None = None
    several: bool = False
    notes: tuple[str, ...] = field(default=())


def joined(parts: dict[str, Found]) -> Found:
    """Several sources as one, each on its side of the split: `train`, `val` or `test`.

    Raises:
        DataError: they do not agree on the classes, or on whether a picture may have several.
    """
    names = {found.class_names for found in parts.values()}
    if len(names) > 1:
        said = "; ".join(f"{side}: {'none' if f.class_names is None else listed(f.class_names)}" for side, f in
                         parts.items())  # fmt: skip
        raise DataError(f"all sides of the split must name the same classes in the same order, got {said}")
    if len({found.several for found in parts.values()}) > 1:
        raise DataError("one side of the split has several labels for a picture, another has one: give all the same")
    rows = [
        replace(row, path=str(located(found.root.absolute(), row.path)), split=side)
        for side, found in parts.items()
        for row in found.rows
    ]
    first = next(iter(parts.values()))
    notes = tuple(note for found in parts.values() for note in found.notes)
    name = ", ".join(f"{side}: {found.name}" for side, found in parts.items())
    return Found(rows, Path(), name, first.class_names, first.several, notes)


def catalog_from(
    found: Found,
    *,
    class_names: Sequence[str] | None = None,
    to: Literal["train", "evaluate"] = "train",
    workers: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Catalog:
    """Scan what a source found and make the table of it.

    Args:
        found: the source's pictures.
        class_names: in the order of the outputs; labels 0, 1, ... are places in it. By default the source's own, or
            else all labels in natural order.
        to: `train` asks for at least two classes, each with a picture that can be read; `evaluate` only for a
            picture that can be read.
        workers: threads; by default one for each processor, at most 16.
        advance: called with how many more pictures have been read.

    Raises:
        DataError: rows contradict one another, most files are gone, or classes are missing; the message lists them.
    """
    rows = _without_repetition([_with_possible_path(row) for row in _named(found, class_names)])
    rows = [replace(row, ignored="has no label") if _is_unlabelled(row, found) else row for row in rows]
    if not any(not row.ignored for row in rows):
        reasons = Counter(row.ignored for row in rows)
        why = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        raise DataError(f"{found.name} has no labelled picture{f' ({why})' if why else ''}")
    names = tuple(class_names or found.class_names or _class_names(rows))
    if to == "train":
        _check_classes(found, rows, names)
    taken = [row for row in rows if not row.ignored]
    scanned = dict(zip((row.path for row in taken), _scanned(found, taken, workers, advance), strict=True))
    catalog = Catalog(_frame(found, rows, scanned), names, found.root, scanned=scanned)
    _check_readable(found, catalog, to)
    notes = (*found.notes, *_note_on_separators(names), *_notes(rows, catalog), *notes_on_copies(catalog))
    return replace(catalog, notes=notes)


def _note_on_separators(names: Sequence[str]) -> list[str]:
    """Several labels in one cell are one class with a strange name, unless it is said what stands between them."""
    for sign in "|;":
        strange = [name for name in names if sign in name.strip(sign)]
        if strange:
            return [
                f"{len(strange)} classes have {sign!r} in their names, such as {strange[0]!r}: if these are several "
                f"labels in one cell, say so with separator={sign!r} (--column separator={sign}); now each is one class"
            ]
    return []


def _with_possible_path(row: Row) -> Row:
    try:
        row.path.encode("utf-8")
    except UnicodeEncodeError:
        path = row.path.encode("utf-8", "backslashreplace").decode("utf-8")
        return replace(row, path=path, ignored="its name is not valid UTF-8")
    return replace(row, ignored="its path holds a zero byte") if "\0" in row.path else row


def _is_unlabelled(row: Row, found: Found) -> bool:
    return not row.ignored and not row.labels and not found.several


def _named(found: Found, class_names: Sequence[str] | None) -> list[Row]:
    """Rows whose labels are the names at places 0, 1, ... where they are such places and names are given."""
    if not class_names:
        return found.rows
    used = {label for row in found.rows for label in row.labels}
    strange = sorted(used - set(class_names))
    places = {str(place): name for place, name in enumerate(class_names)}
    if strange and used <= set(places):
        return [replace(row, labels=tuple(places[label] for label in row.labels)) for row in found.rows]
    if strange:
        told = listed([repr(name) + nearest(name, class_names) for name in strange])
        raise DataError(f"the labels of {found.name} must be among the given class_names, got {told}")
    return found.rows


def _without_repetition(rows: list[Row]) -> list[Row]:
    """Rows, those that say the same of the same picture taken once.

    Raises:
        DataError: two rows say different things of one picture.
    """
    seen: dict[str, Row] = {}
    kept, torn = [], dict[str, str]()
    for row in rows:
        first = seen.get(row.path)
        if row.ignored or first is None:
            if not row.ignored:
                seen[row.path] = row
            kept.append(row)
            continue
        for what in ("labels", "split", "group"):
            one, other = getattr(first, what), getattr(row, what)
            if one != other:
                torn[row.path] = f"{what} {_said(one)} and {_said(other)}"
        kept.append(replace(row, ignored="the same picture as in a row above"))
    if torn:
        raise DataError(
            f"{len(torn)} pictures are in several rows that contradict one another:{_lines(torn.items())}\n"
            "keep one row for each picture; several labels of one picture belong into one cell (cat|dog) or into "
            "one 0/1 column for each class"
        )
    return kept


def _said(value: Any) -> str:
    return repr("|".join(value)) if isinstance(value, tuple) else repr(value)


def _class_names(rows: list[Row]) -> tuple[str, ...]:
    taken = [row for row in rows if not row.ignored]
    to_learn = [row for row in taken if row.split in ("train", "")]
    return tuple(natural_order({label for row in to_learn or taken for label in row.labels}))


def _check_classes(found: Found, rows: list[Row], names: tuple[str, ...]) -> None:
    if len(names) < 2:
        got = f"only {names[0]!r}" if names else "none"
        raise DataError(
            f"expected pictures of at least two classes in {found.name}, got {got}. A classifier tells classes apart: "
            "add pictures of something else"
        )
    strange = {
        f"{row.split or 'train'}: {label!r}{nearest(label, names)}"
        for row in rows
        if not row.ignored
        for label in set(row.labels) - set(names)
    }
    if strange:
        told = listed(natural_order(strange))
        raise DataError(f"expected in val and test of {found.name} only classes that train has, got {told}")


def _frame(found: Found, rows: list[Row], scanned: Mapping[str, Scanned]) -> pl.DataFrame:
    table = [_cells(row, None if row.ignored else scanned[row.path]) for row in rows]
    frame = pl.DataFrame(table, schema=SCHEMA | OPTIONAL, orient="row")
    unused = [] if found.several else ["labels"]
    unused += [name for name in ("group", "origin") if not any(getattr(row, name) for row in rows)]
    return frame.drop(unused)


def _cells(row: Row, scanned: Scanned | None) -> tuple[object, ...]:
    label = row.labels[0] if row.labels else ""
    if scanned is None:
        known: tuple[object, ...] = ("", label, row.split, "ignored", row.ignored, None, None, None, "")
    else:
        state = "quarantined" if scanned.reason else "ok"
        size = (scanned.width, scanned.height, scanned.size_bytes)
        known = (scanned.hash, label, row.split, state, scanned.reason, *size, format_of(scanned))
    return (row.path, *known, list(row.labels), row.group, row.origin)


def _scanned(
    found: Found, rows: list[Row], workers: int | None, advance: Callable[[int], None] | None
) -> list[Scanned]:  # fmt: skip
    files = [(row.path, located(found.root, row.path)) for row in rows]
    here = [(path, file) for path, file in files if isinstance(file, Path)]
    gone = [path for path, file in here if not os.path.lexists(file)]
    if len(gone) > _MOSTLY * len(files):
        raise DataError(
            f"{len(gone)} of {len(files)} files that {found.name} names are not there:"
            f"{_lines((path, '') for path in gone)}\n{_hint(found.root, gone[0])}"
        )
    memory = found.root / Path(found.name).name  # what is remembered of a table is not mixed with its folder's
    return scan(memory, files, workers=workers, advance=advance)


def _hint(root: Path, path: str) -> str:
    for suffix in (".jpg", ".jpeg", ".png"):
        if (root / (path + suffix)).is_file():
            return f"there is {path}{suffix}: add the extension to the paths"
    if (Path.cwd() / path).is_file():
        return "they are there when read from the present folder: give root='.'"
    return f"paths are taken relative to {root}: give root=... for another folder"


def _check_readable(found: Found, catalog: Catalog, to: str) -> None:
    bad = catalog.quarantined
    why = _lines(bad.select("path", "reason").iter_rows()) if len(bad) else ""
    if not len(catalog.ok):
        raise DataError(f"{found.name} has no picture that can be read{why}")
    if to == "evaluate":
        return
    to_learn = len(catalog.ok.filter(pl.col("split").is_in(["train", ""]))) > 0
    counts = [catalog.counts(side) for side in (("train", "") if to_learn else SPLITS)]
    empty = [name for name in catalog.class_names if not any(count[name] for count in counts)]
    if empty:
        alone = [name for name in catalog.class_names if sum(count[name] for count in counts) == 1]
        # What would be refused next is said as well.
        more = f"; only one, where one has to be held out: {listed(alone, most=_SHOWN)}" if alone else ""
        more = "" if len(catalog.side("val")) else more
        raise DataError(
            f"every class of {found.name} must have pictures to learn from that can be read; these have none: "
            f"{listed(empty, most=_SHOWN)}{more}{why and f'. What cannot be read:{why}'}"
        )


def _notes(rows: list[Row], catalog: Catalog) -> list[str]:
    notes = []
    unlabelled = [(row.path, "") for row in rows if row.ignored == "has no label"]
    if unlabelled:
        many = len(unlabelled)
        notes.append(f"{counted(many, 'picture')} without a label {are(many)} left out:{_lines(unlabelled)}")
    bad = catalog.quarantined.select("path", "reason").rows()
    notes += _notes_on_groups(catalog)
    gone = [(path, "") for path, reason in bad if "no such" in reason]
    if gone:
        notes.append(f"{counted(len(gone), 'file')} {are(len(gone))} not there and left out:{_lines(gone)}")
    return notes


def _notes_on_groups(catalog: Catalog) -> list[str]:
    """What to tell of groups that a given split tears apart."""
    if "group" not in catalog.frame.columns:
        return []
    given = catalog.ok.filter((pl.col("group") != "") & (pl.col("split") != ""))
    sides = given.group_by("group", maintain_order=True).agg(pl.col("split").unique(maintain_order=True))
    torn = sides.filter(pl.col("split").list.len() > 1)
    if not len(torn):
        return []
    lines = _lines(
        (group, " and ".join(names)) for group, names in zip(torn["group"], torn["split"].to_list(), strict=True)
    )
    many = f"{counted(len(torn), 'group')} {are(len(torn))}"
    return [f"{many} on more than one side of the given split, so the scores will be too good:{lines}"]


def _lines(items: Iterable[tuple[str, str]]) -> str:
    """A line for each of the first, and how many more there are."""
    told = [f"\n  {path}{why and f': {why}'}" for path, why in items]
    more = len(told) - _SHOWN
    return "".join(told[:_SHOWN]) + (f"\n  and {more} more" if more > 0 else "")
