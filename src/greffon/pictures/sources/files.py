"""What lies at a path, an address or a pattern, and is no folder of class folders: tables, Parquet sets, tar shards."""

from __future__ import annotations

import os
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.errors import InputError
from greffon.pictures.layout import PICTURE_SUFFIXES, SPLIT_FOLDERS, natural_order
from greffon.pictures.sources.columns import Columns, found_in_table
from greffon.pictures.sources.folders import files_below, found_in_remote_folder
from greffon.pictures.sources.found import Found, Row
from greffon.pictures.sources.locate import is_address, is_local, local_file, located
from greffon.pictures.sources.parquet import panics_told
from greffon.pictures.sources.sides import sides_of_names
from greffon.pictures.sources.tables import TABLE_SUFFIXES, read_table
from greffon.pictures.sources.web_dataset import expanded, found_in_shards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KINDS = (*TABLE_SUFFIXES, ".tar")


def is_pattern(text: str) -> bool:
    """Whether a text stands for several files, and is not itself the name of one.

    Example:
        >>> from greffon.pictures.sources.files import is_pattern
        >>> is_pattern("shard-{000..009}.tar"), is_pattern("shard-000.tar")
        (True, False)
    """
    return (has_magic(text) or "{" in text) and (is_address(text) or not os.path.lexists(text))


def found_in_files(place: str | Path, columns: Columns, root: Path | None) -> Found:
    """The pictures of the tables or shards at a place.

    Args:
        place: path, address, or pattern of either; a folder of them, or a folder elsewhere with class folders.
        columns: which columns of a table say what.
        root: the folder that a table's relative paths start from; None: the table's own.

    Raises:
        InputError: there is nothing, or nothing that is understood.
        DataError: it does not make sense.
    """
    if isinstance(place, Path):
        files = inside(place) if place.is_dir() else [str(place)]
        if not place.is_dir() and not place.exists():
            raise InputError(f"expected pictures at {place}: there is no such file or folder")
    elif is_pattern(place):
        files = _matching(place)
    elif _kind(place) in _KINDS:
        files = [place]
    else:
        files = _inside_elsewhere(place)
        if not files:
            return found_in_remote_folder(place)
    kinds = {_kind(file) for file in files}
    strange = kinds - set(_KINDS)
    if strange or (".tar" in kinds and len(kinds) > 1):
        what = f"{', '.join(sorted(kind or 'no extension' for kind in strange or kinds))}"
        raise InputError(
            f"{place}: expected {', '.join(TABLE_SUFFIXES)}, or tar shards (.tar), got {what}{_advice(kinds)}"
        )
    if kinds == {".tar"}:
        return found_in_shards(files, str(place), label=columns.label if isinstance(columns.label, str) else None)
    return _found_in_tables(files, str(place), columns, root)


def inside(folder: Path) -> list[str]:
    """The tables or shards that a folder is to be read by; none where it is to be read by its folders.

    Shards and Parquet in it, or one folder deeper; else one table, unless there are folders of pictures for two
    classes or more.
    """
    try:
        top = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        below = [(entry, os.listdir(entry.path)) for entry in top if entry.is_dir()]  # noqa: PTH208
    except OSError:
        return []
    files = [entry.path for entry in top if entry.is_file()]
    beside = _sides_with_tables(below)
    with_pictures = [] if beside else [entry.path for entry, _ in below if _has_picture(entry.path)]
    if with_pictures:
        tables = [file for file in files if _kind(file) in TABLE_SUFFIXES]
        return tables if len(tables) == 1 and not _has_class_folders(with_pictures) else []
    deeper = [str(Path(entry.path) / name) for entry, names in below for name in names]
    for kind in (".tar", ".parquet"):
        for candidates in (files, deeper):
            found = [file for file in candidates if _kind(file) == kind]
            if found:
                return natural_order(found)
    return natural_order([file for file in files if _kind(file) in TABLE_SUFFIXES] or beside)


def _has_class_folders(folders: Sequence[str]) -> bool:
    """Whether folders with pictures are two or more, or one with two or more of them inside."""
    if len(folders) > 1:
        return True
    with os.scandir(folders[0]) as entries:
        return sum(entry.is_dir() and _has_picture(entry.path) for entry in entries) > 1


def _has_picture(folder: str) -> bool:
    return any(_kind(name) in PICTURE_SUFFIXES for _, _, names in os.walk(folder) for name in names)


def _sides_with_tables(below: Sequence[tuple[os.DirEntry[str], list[str]]]) -> list[str]:
    """`train/metadata.csv` and the like: pictures in one folder with a table beside them."""
    return [
        str(Path(entry.path) / name)
        for entry, names in below
        for name in names
        if entry.name.lower() in SPLIT_FOLDERS and Path(name).stem == "metadata" and _kind(name) in TABLE_SUFFIXES
    ]


def table_catalog_file(place: str | Path, schema: Mapping[str, Any]) -> Path | None:
    """The file of a catalog that was saved, known by its columns; None for anything else."""
    if not isinstance(place, Path) or not place.is_file() or place.suffix not in (".csv", ".parquet"):
        return None
    try:
        if place.suffix == ".parquet":
            with panics_told():
                names = set(pl.read_parquet_schema(place))
        else:
            with place.open("rb") as stream:
                line = stream.readline(65536).decode("utf-8-sig", "replace")
            names = {name.strip().strip('"') for name in line.replace(";", ",").replace("\t", ",").split(",")}
    except (OSError, pl.exceptions.PolarsError):
        return None
    telling = {"path", "hash", "state", "reason", "size_bytes"}
    return place if telling <= names and telling <= set(schema) else None


def _matching(pattern: str) -> list[str]:
    """All files that a pattern stands for.

    Raises:
        InputError: there are none.
    """
    found: list[str] = []
    for name in expanded(pattern):
        if not has_magic(name):
            found.append(name)
        elif is_address(name):
            from greffon.pictures.sources.remote import filesystem_of

            system, path = filesystem_of(name)
            found.extend(natural_order(system.unstrip_protocol(match) for match in system.glob(path)))
        else:
            found.extend(natural_order(glob(name, recursive=True)))  # noqa: PTH207  # absolute or not
    if not found:
        raise InputError(f"no file is called like {pattern}")
    gone = [name for name in found if not is_address(name) and not os.path.lexists(name)]
    if gone:
        more = f" and {len(gone) - 10} more" if len(gone) > 10 else ""
        raise InputError(f"{len(gone)} of {len(found)} files of {pattern} are not there: {', '.join(gone[:10])}{more}")
    return found


def _inside_elsewhere(address: str) -> list[str]:
    """Shards or Parquet files in a folder elsewhere; none where it has none, or only class folders."""
    from greffon.pictures.sources.remote import filesystem_of

    if address.lower().startswith(("http://", "https://")):
        raise InputError(
            f"{address}: a folder cannot be listed over HTTP; give the address of a table or of tar shards, "
            f"{', '.join(_KINDS)}"
        )
    system, top = filesystem_of(address)
    names = files_below(system, top, address)
    for kind in (".tar", ".parquet"):
        found = [f"{address.rstrip('/')}/{name}" for name in names if _kind(name) == kind]
        if found and not any(_kind(name) in PICTURE_SUFFIXES for name in names):
            return found
    return []


def _found_in_tables(files: Sequence[str], name: str, columns: Columns, root: Path | None) -> Found:
    founds = [_found_in_one(file, columns, root) for file in files]
    if len(founds) == 1:
        return founds[0]
    names = {found.class_names for found in founds}
    if len(names) > 1:
        raise InputError(f"the tables of {name} name different classes, or in another order")
    sides = sides_of_names(files)
    rows = []
    for found, side in zip(founds, sides, strict=True):
        said = any(row.split for row in found.rows)
        for row in found.rows:
            path = str(located(found.root.absolute(), row.path))
            rows.append(Row(path, row.labels, row.group, row.split if said else side, row.ignored, row.origin))
    notes = tuple(dict.fromkeys(note for found in founds for note in found.notes))
    several = any(found.several for found in founds)
    return Found(rows, Path(), name, founds[0].class_names, several, notes)


def _found_in_one(file: str, columns: Columns, root: Path | None) -> Found:
    try:
        here = local_file(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    table = read_table(here)
    found = found_in_table(table, columns, root or here.parent, file)
    if not is_address(file) or root is not None or found.root != here.parent:
        return found
    parent = file.rpartition("/")[0] + "/"
    rows = [
        Row(parent + row.path if is_local(row.path) else row.path, row.labels, row.group, row.split, row.ignored)
        for row in found.rows
    ]
    return Found(rows, Path(), file, found.class_names, found.several, found.notes)


def _kind(name: str) -> str:
    """The extension of a file's name or address, without what follows a `?`."""
    text = name.partition("?")[0] if is_address(name) else name
    return Path(text).suffix.lower()


def _advice(kinds: set[str]) -> str:
    if ".gz" in kinds or ".tgz" in kinds:
        return ": unpack what is compressed to plain .tar"
    if ".xlsx" in kinds or ".xls" in kinds:
        return ": save the sheet as CSV"
    if ".zip" in kinds:
        return ": unpack the archive"
    if ".json" in kinds:
        return ": write one JSON object on each line (.jsonl)"
    return ""
