"""Tables of text as people have them: CSV of any separator and encoding, JSON Lines."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_SEPARATORS = (",", ";", "\t", "|")
_SHOWN = 10
_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """What a table's file holds.

    Attributes:
        frame: as it is; a CSV's columns are all texts, so that the class 001 stays 001.
        notes: what a user should be told of the reading.
        content: the bytes in a column of Binary of which `frame` only says whether there are some, one after the other;
            None where `frame` holds them itself.
        class_names: of a column of numbers, where the file says them.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()
    content: Callable[[str], Iterator[bytes | None]] | None = None
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_csv(file: Path) -> Table:
    """Read a CSV file: the separator is that of its first line, the encoding UTF-8, UTF-16 with a mark, or Windows'.

    Raises:
        OSError: the file cannot be read.
        DataError: it has no header, a column twice, or lines with another number of cells.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from greffon.pictures.sources.table_file import read_csv
        >>> file = Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = file.write_text(chr(10).join(["path;label", "a.jpg;cat, wild"]))
        >>> read_csv(file).frame.rows()
        [('a.jpg', 'cat, wild')]
    """
    text, notes = _decoded(file)
    separator = _separator(text)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = [name.strip() for name in next(lines, [])]
        rows = [(lines.line_num, line) for line in lines if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise DataError(f"{file} is no CSV table: line {lines.line_num}: {error}") from error
    _check_header(file, header)
    ragged = [
        f"\n  line {number}: {len(line)} cells ({separator.join(line)[:60]})"
        for number, line in rows
        if len(line) != len(header)
    ]
    if ragged:
        more = f"\n  and {len(ragged) - _SHOWN} more" if len(ragged) > _SHOWN else ""
        hint = f" A cell with {separator!r} in it must stand in quotes." if separator != "\t" else ""
        raise DataError(
            f"{file} has {len(header)} columns ({', '.join(header)}), but {len(ragged)} lines with another number of "
            f"cells:{''.join(ragged[:_SHOWN])}{more}\n{hint.strip()}"
        )
    columns = [[line[place] for _, line in rows] for place in range(len(header))]
    frame = pl.DataFrame(columns, schema=dict.fromkeys(header, pl.String), orient="col")
    return Table(frame, notes)


def read_json_lines(file: Path) -> Table:
    """Read one JSON object from each line.

    Raises:
        OSError: the file cannot be read.
        DataError: a line is no object, or a column holds things that do not go together.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from greffon.pictures.sources.table_file import read_json_lines
        >>> file = Path(tempfile.mkdtemp()) / "a.jsonl"
        >>> _ = file.write_text('{"path": "a.jpg", "labels": ["cat", "dog"]}')
        >>> read_json_lines(file).frame.rows()
        [('a.jpg', ['cat', 'dog'])]
    """
    text, notes = _decoded(file)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}: line {number} must be an object, {{...}}, got {line.strip()[:60]}")
        rows.append(row)
    if not rows:
        raise DataError(f"{file} is empty: expected one JSON object on each line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_column(file, name, [row.get(name) for row in rows]) for name in names]
    return Table(pl.DataFrame(columns), notes)


def decoded_base64(text: Any) -> bytes | None:
    """Bytes from base64, with or without `data:image/...;base64,` before it; None where it is something else.

    Example:
        >>> from greffon.pictures.sources.table_file import decoded_base64
        >>> decoded_base64("data:image/png;base64,YWJj"), decoded_base64("a.jpg")
        (b'abc', None)
    """
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text.partition(";base64,")[2] or text, validate=True) or None
    except ValueError:
        return None


def _decoded(file: Path) -> tuple[str, tuple[str, ...]]:
    content = file.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding), ()
    except UnicodeDecodeError as error:
        if encoding == "utf-16" or b"\x00" in content:
            raise DataError(f"{file} is no text: {error}") from error
    note = f"{file.name} is not UTF-8: it was read as Windows-1252. Look at its names with accents"
    return content.decode("cp1252", "replace"), (note,)


def _separator(text: str) -> str:
    """What is most often in the first line outside of quotes, or in none of them a comma."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    outside = "".join(line.split('"')[::2])
    counts = Counter({separator: outside.count(separator) for separator in _SEPARATORS})
    best, count = counts.most_common(1)[0]
    return best if count else ","


def _check_header(file: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{file} is empty: expected a first line with the names of the columns (path,label)")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{file} has more than one column called {', '.join(map(repr, twice))}: rename them")
    if any(name.lower().endswith(_PICTURES) for name in header):
        raise DataError(
            f"{file} has no names of columns: its first line is {', '.join(header)[:80]!r}. Put a line path,label "
            "before it"
        )


def _column(file: Path, name: str, values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str, int, float, bool} and len(kinds) > 1 and kinds != {int, float}:
        values = [None if value is None else str(value) for value in values]
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        said = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{file}: column {name!r} holds things that do not go together ({said}): {error}") from error
