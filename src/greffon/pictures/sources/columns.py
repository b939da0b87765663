"""Which column of a table is what, and the pictures that its rows are."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.layout import SPLIT_FOLDERS
from greffon.pictures.sources.found import Found, Row
from greffon.pictures.sources.kept import Keeper
from greffon.pictures.sources.labels import SEPARATOR, label_text, labels_of, marked
from greffon.pictures.sources.locate import is_address, is_local
from greffon.pictures.sources.parquet import holds_bytes
from greffon.pictures.sources.table_file import Table, decoded_base64

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATHS = (
    *(
        "path",
        "file_path",
        "filepath",
        "file",
        "file_name",
        "filename",
        "image_path",
        "image_file",
        "image",
        "img_path",
    ),
    *("img", "picture", "photo", "url", "image_url", "uri", "bytes", "image_bytes", "base64"),
)
"""Names of the column that says where pictures are or holds their bytes, the surest first."""

LABELS = (
    *("label", "class", "class_name", "category", "target", "species"),
    *("labels", "classes", "categories", "targets", "tags"),
)
"""Names of the column of classes."""

_SPLITS = ("split", "subset", "partition", "set")
_MAY_GROUP = ("patient", "patient_id", "subject", "subject_id", "camera", "camera_id", "video", "video_id")
_BASE64 = ("bytes", "image_bytes", "base64")
_PLURAL = ("labels", "classes", "categories", "targets", "tags")
_SHOWN = 10


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what; None: the first that has a usual name.

    Attributes:
        path: path, address or bytes of the picture.
        label: its class, or several; a tuple of names: one 0/1 column for each class.
        group: patient, camera, video: pictures of one group stay on one side of the split.
        split: train, val or test.
        separator: between several labels in one cell.

    Example:
        >>> from greffon.pictures.sources.columns import Columns
        >>> Columns(path="scan", group="patient").label is None
        True
    """

    path: str | None = None
    label: str | tuple[str, ...] | None = None
    group: str | None = None
    split: str | None = None
    separator: str | None = None


def found_in_table(table: Table, columns: Columns, root: Path, name: str) -> Found:
    """The pictures that a table's rows are.

    Args:
        table: what was read.
        columns: which are what.
        root: the folder that relative paths start from.
        name: what messages call the table.

    Raises:
        DataError: a column is missing, or holds something else; the message names the nearest.
    """
    frame = table.frame
    if not len(frame):
        raise DataError(f"{name} has no rows")
    path = _chosen(frame, columns.path, PATHS, "where the pictures are", name)
    _check_no_clash(columns)
    group = _column(frame, columns.group, ("group", "group_id"), name)
    split = _column(frame, columns.split, _SPLITS, name)
    notes = [*table.notes, *_note_on_groups(frame, group, columns)]
    used = {column for column in (path, group, split) if column}
    labels, several, class_names = _labels(table, columns, used, name, notes)
    sides = _sides(frame, split, guessed=columns.split is None, name=name, notes=notes)
    groups = [label_text(value) for value in frame[group]] if group else [""] * len(frame)
    root, places = _places(table, path, root, name)
    rows = [
        Row(place, labels=label, group=member, split=side, ignored=problem, origin=origin)
        for (place, problem, origin), label, member, side in zip(places, labels, groups, sides, strict=True)
    ]
    return Found(rows, root, name, class_names, several, tuple(notes))


def _check_no_clash(columns: Columns) -> None:
    labels = columns.label if isinstance(columns.label, tuple) else (columns.label,)
    named = [column for column in (columns.path, *labels, columns.group, columns.split) if column is not None]
    twice = [column for column, count in Counter(named).items() if count > 1]
    if twice:
        raise InputError(f"a column can be only one of path, label, group and split, got {twice[0]!r} twice")


def _column(frame: pl.DataFrame, wanted: str | None, usual: Sequence[str], name: str) -> str | None:
    """A column by its name, or the first with a usual one, in letters of any case; None where there is none."""
    if wanted is not None:
        if wanted not in frame.columns:
            raise DataError(f"{name} has no column {wanted!r}{nearest(wanted, frame.columns)}; {_has(frame)}")
        return wanted
    by_name = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in frame.columns}
    return next((by_name[known] for known in usual if known in by_name), None)


def _chosen(frame: pl.DataFrame, wanted: str | None, usual: Sequence[str], what: str, name: str) -> str:
    found = _column(frame, wanted, usual, name)
    if found is None:
        close = next((told for column in frame.columns if (told := nearest(column.lower(), usual[:6]))), "")
        hint = next((column for column in frame.columns if nearest(column.lower(), usual[:6])), "")
        like = f" Is it {hint!r}{close.replace('; did you mean', ' for')}" if hint else ""
        raise DataError(
            f"{name} has no column that says {what}: expected one of {', '.join(usual[:6])}, ...; {_has(frame)}.{like} "
            "Rename it, or say which it is with --column WHAT=COLUMN (in Python: columns=Columns(...))"
        )
    return found


def _has(frame: pl.DataFrame) -> str:
    more = len(frame.columns) - 20
    return f"it has {', '.join(map(repr, frame.columns[:20]))}{f' and {more} more' if more > 0 else ''}"


def _labels(
    table: Table, columns: Columns, used: set[str], name: str, notes: list[str]
) -> tuple[list[tuple[str, ...]], bool, tuple[str, ...] | None]:
    """Labels of each row, whether there may be several, and the classes where the table has an order of them."""
    frame = table.frame
    if isinstance(columns.label, tuple):
        return (*_marked(frame, columns.label, name), columns.label)
    column = _column(frame, columns.label, LABELS, name)
    if column is None:
        classes = _of_ones_and_zeros(frame, used)
        if len(classes) >= 2:
            notes.append(f"{name}: one 0/1 column for each class was taken: {', '.join(classes)}")
            return (*_marked(frame, classes, name), classes)
        column = _chosen(frame, None, LABELS, "which class they are of", name)
    values = frame[column].to_list()
    separator = columns.separator
    if separator is None and column.lower() in _PLURAL and any(isinstance(v, str) and SEPARATOR in v for v in values):
        separator = SEPARATOR
        notes.append(f"{name}: labels in {column!r} were taken apart at {SEPARATOR!r}")
    try:
        labels = [labels_of(value, separator) for value in values]
    except DataError as error:
        raise DataError(f"{name}, column {column!r}: {error}") from error
    several = separator is not None or isinstance(frame[column].dtype, (pl.List, pl.Array))
    names = table.class_names.get(column)
    if names is not None:
        return [tuple(names[int(place)] for place in row if _is_place(place, names)) for row in labels], several, names
    return labels, several, None


def _is_place(label: str, names: tuple[str, ...]) -> bool:
    """False for -1, which stands for no label."""
    return label.isdecimal() and int(label) < len(names)


def _of_ones_and_zeros(frame: pl.DataFrame, used: set[str]) -> tuple[str, ...]:
    others = [column for column in frame.columns if column not in used and not frame[column].dtype.is_nested()]
    return tuple(
        column
        for column in others
        if frame[column].dtype != pl.Binary and all(marked(v) is not None for v in frame[column].unique())
    )


def _marked(frame: pl.DataFrame, classes: tuple[str, ...], name: str) -> tuple[list[tuple[str, ...]], bool]:
    ticks = []
    for label in classes:
        _column(frame, label, (), name)
        column = [marked(value) for value in frame[label]]
        if None in column:
            value = frame[label][column.index(None)]
            raise DataError(f"{name}: column {label!r} must hold 0 or 1 for each picture, got {value!r}")
        ticks.append(column)
    rows = [tuple(label for label, tick in zip(classes, row, strict=True) if tick) for row in zip(*ticks, strict=True)]
    return rows, any(len(row) != 1 for row in rows)


def _sides(frame: pl.DataFrame, column: str | None, *, guessed: bool, name: str, notes: list[str]) -> list[str]:
    if column is None:
        return [""] * len(frame)
    texts = [label_text(value) for value in frame[column]]
    strange = sorted({text for text in texts if text and text.lower() not in SPLIT_FOLDERS})
    if not strange:
        return [SPLIT_FOLDERS.get(text.lower(), "") for text in texts]
    told = ", ".join(map(repr, strange[:_SHOWN]))
    if guessed and column.lower() != "split":
        notes.append(f"{name}: column {column!r} was not taken for a split, since it holds {told}")
        return [""] * len(frame)
    raise DataError(
        f"{name}: column {column!r} must hold train, val or test, or nothing where Greffon should choose; got {told}"
    )


def _note_on_groups(frame: pl.DataFrame, group: str | None, columns: Columns) -> list[str]:
    if group is not None:
        return []
    spoken_for = (columns.path, columns.label, columns.split)
    like = [column for column in frame.columns if column.lower() in _MAY_GROUP and column not in spoken_for]
    if not like:
        return []
    return [
        f"column {like[0]!r} is not used: if pictures of one {like[0]} belong on one side of the split, say so with "
        f"columns=Columns(group={like[0]!r}) or call the column group"
    ]


def _places(table: Table, column: str, root: Path, name: str) -> tuple[Path, list[tuple[str, str, str]]]:
    """The root, and for each row: locator, why there is none, and where it was before."""
    series = table.frame[column]
    if series.dtype == pl.String and column.strip().lower() not in _BASE64:
        return root, [_place(value, number, root) for number, value in enumerate(series, 1)]
    if series.dtype == pl.String:
        contents: Iterator[bytes | None] = (decoded_base64(value) for value in series)
    elif holds_bytes(series.dtype):
        inside = series.struct.field("bytes") if isinstance(series.dtype, pl.Struct) else series
        contents = iter(inside) if table.content is None else table.content(column)
    else:
        raise DataError(f"{name}: column {column!r} must hold paths, addresses or bytes, got {series.dtype}")
    places = []
    with Keeper() as keeper:
        for number, content in enumerate(contents, 1):
            origin = f"{name}, row {number}"
            places.append((keeper.add(content), "", origin) if content else (origin, "has no bytes", ""))
    return keeper.folder, places


def _place(value: str | None, number: int, root: Path) -> tuple[str, str, str]:
    text = (value or "").strip()
    if not text:
        return f"row {number}", "has no path", ""
    if is_address(text) or not is_local(text):
        return text, "", ""
    if "\\" in text and os.sep == "/" and not (root / text).exists():
        text = text.replace("\\", "/")  # the table was written on Windows
    return Path(text).as_posix(), "", ""
