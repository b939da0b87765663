"""Which reader a table's file needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from greffon.errors import InputError
from greffon.pictures.sources.parquet import read_parquet
from greffon.pictures.sources.table_file import read_csv, read_json_lines

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.pictures.sources.table_file import Table

_READERS = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
}

TABLE_SUFFIXES = tuple(_READERS)
"""What the name of a table's file ends in."""


def read_table(file: Path) -> Table:
    """Read CSV, TSV or JSON Lines whole, and of Parquet what is not bytes.

    Raises:
        InputError: the file cannot be read, or its name ends in none of `TABLE_SUFFIXES`.
        DataError: it is not such a table; the message names the lines.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from greffon.pictures.sources.tables import read_table
        >>> file = Path(tempfile.mkdtemp()) / "a.jsonl"
        >>> _ = file.write_text('{"path": "a.jpg", "label": "cat"}')
        >>> read_table(file).frame.columns
        ['path', 'label']
    """
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise InputError(f"a table's name must end in {', '.join(TABLE_SUFFIXES)}, got {file.name!r}")
    try:
        return read(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
