"""Parquet: its columns at once, pictures in it a few at a time."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.errors import InputError
from greffon.pictures.sources.table_file import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AT_ONCE = 128 * 2**20  # bytes of pictures


def read_parquet(file: Path) -> Table:
    """Read the columns of a Parquet file that hold no bytes; of those that do, which rows have any.

    A column of bytes, or of Hugging Face's structure of bytes and path, becomes one of Binary with b"" for each row
    that has some and null for the others; `content` of the table gives the bytes themselves. A structure without any
    bytes becomes its paths.

    Raises:
        OSError: the file cannot be read.
        polars.exceptions.PolarsError: it is no Parquet file.
    """
    with panics_told():
        return _read(file)


@contextmanager
def panics_told() -> Iterator[None]:
    """Polars panics on some damaged files, which is no `Exception`: an error of its own in place of that.

    Raises:
        polars.exceptions.ComputeError: it panicked.
    """
    try:
        yield
    except pl.exceptions.PanicException as error:
        raise pl.exceptions.ComputeError(f"it is damaged ({str(error)[:80]}...)") from error


def _read(file: Path) -> Table:
    lazy = pl.scan_parquet(file, glob=False)
    schema = lazy.collect_schema()
    columns = []
    for name, kind in schema.items():
        if not holds_bytes(kind):
            columns.append(pl.col(name))
            continue
        content = _content(name, kind)
        columns.append(pl.when(content.is_not_null() & (content.bin.size() > 0)).then(pl.lit(b"")).alias(name))
    frame = lazy.select(columns).collect()
    for name, kind in schema.items():
        fields = {field.name for field in kind.fields} if isinstance(kind, pl.Struct) else set()
        if "path" in fields and "bytes" in fields and frame[name].dtype == pl.Binary and not frame[name].count():
            paths = lazy.select(pl.col(name).struct.field("path").alias(name)).collect()
            frame = frame.with_columns(paths[name])

    def bytes_in(name: str) -> Iterator[bytes | None]:
        rows = max(1, _AT_ONCE * len(frame) // max(1, file.stat().st_size))
        for start in range(0, len(frame), rows):
            try:
                with panics_told():
                    part = lazy.select(_content(name, schema[name]).alias(name)).slice(start, rows).collect()
            except (OSError, pl.exceptions.PolarsError) as error:
                raise InputError(f"{file}, column {name!r} cannot be read: {error}") from error
            yield from part[name]

    return Table(frame, content=bytes_in, class_names=_class_names(file))


def holds_bytes(kind: Any) -> bool:
    """Whether a column of this type holds picture files: Binary, or a structure with a field `bytes`."""
    if isinstance(kind, pl.Struct):
        return any(field.name == "bytes" and field.dtype == pl.Binary for field in kind.fields)
    return bool(kind == pl.Binary)


def _content(name: str, kind: Any) -> pl.Expr:
    return pl.col(name).struct.field("bytes") if isinstance(kind, pl.Struct) else pl.col(name)


def _class_names(file: Path) -> dict[str, tuple[str, ...]]:
    """What Hugging Face's datasets write into a file's metadata: the names of classes that rows have by number."""
    try:
        told = json.loads(pl.read_parquet_metadata(file).get("huggingface", "{}"))
        features = told["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    names = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]  # noqa: PLW2901  # a list of labels
        if (
            isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
        ):
            names[column] = tuple(map(str, feature["names"]))
    return names
