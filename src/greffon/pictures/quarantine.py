"""The manifest: what was found of which picture, and what the user decided about it.

A table that can be saved, read and edited as CSV or Parquet, one row for each finding. Nothing is deleted, moved or
replaced: a picture in quarantine stays where it is, and training leaves it out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import polars as pl

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.sources.table_file import read_csv

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greffon.pictures.scan import Scanned

Decision = Literal["", "use", "leave out"]
"""What the user says of a finding: nothing, so that its severity decides; to use the picture; to leave it out."""

SCHEMA: dict[str, type[pl.DataType]] = {
    "path": pl.String,
    "hash": pl.String,
    "kind": pl.String,
    "severity": pl.String,
    "reason": pl.String,
    "decision": pl.String,
}
"""The columns. `path` is relative to the root, with `/`; `hash` is of the content that the finding is about: of another
content nothing was found or decided; `severity` is quarantine, warning or ignored."""

SEVERITIES = ("quarantine", "warning", "ignored")


def manifest_of(scanned: Iterable[tuple[str, Scanned]], ignored: Iterable[tuple[str, str]] = ()) -> pl.DataFrame:
    """The manifest of a scan.

    Args:
        scanned: path and what was found, of each picture.
        ignored: path and reason of each file that is not taken for a picture.

    Returns:
        A table with the columns of `SCHEMA`, a row for each finding: quarantine first, then warnings, then ignored.

    Example:
        >>> from greffon.pictures.quarantine import manifest_of
        >>> from greffon.pictures.scan import Scanned
        >>> manifest_of([("a.jpg", Scanned("", 0, None, None, "is empty (0 bytes)", "empty"))])["kind"].to_list()
        ['empty']
    """
    rows: list[tuple[str, ...]] = [
        (path, found.hash, each.kind, each.severity, each.sentence, "")
        for path, found in scanned
        for each in found.findings(path)
    ]
    rows += [(path, "", "ignored", "ignored", reason, "") for path, reason in ignored]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    order = pl.col("severity").replace_strict({name: place for place, name in enumerate(SEVERITIES)}, default=9)
    return frame.sort(order, maintain_order=True)


def save_manifest(manifest: pl.DataFrame, file: str | Path) -> None:
    """Write a manifest as CSV or Parquet, by the file's name.

    Raises:
        InputError: the name ends in neither, or the file cannot be written.
    """
    file = Path(file)
    try:
        if _kind(file) == ".csv":
            manifest.write_csv(file)
        else:
            manifest.write_parquet(file)
    except OSError as error:
        raise InputError(f"the manifest {file} cannot be written: {error.strerror or error}") from error


def load_manifest(file: str | Path) -> pl.DataFrame:
    """Read a manifest that `save_manifest` wrote, edited or not.

    Raises:
        InputError: the file cannot be read.
        DataError: a column is missing, or a severity or decision is not known.
    """
    file = Path(file)
    try:
        frame = read_csv(file).frame if _kind(file) == ".csv" else pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the manifest {file} cannot be read: {error}") from error
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise DataError(f"expected the columns {', '.join(SCHEMA)} in {file}, {', '.join(missing)} is missing")
    frame = frame.with_columns(pl.col(name).cast(pl.String).fill_null("").str.strip_chars() for name in SCHEMA)
    for column, known in (("severity", SEVERITIES), ("decision", get_args(Decision))):
        for value in frame[column].unique(maintain_order=True).to_list():
            if value not in known:
                raise DataError(
                    f"{column} in {file} must be one of {', '.join(repr(each) for each in known)}, got {value!r}"
                    f"{nearest(value, known)}"
                )
    return frame


def obey(catalog: pl.DataFrame, manifest: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """A catalog's table with the states that a manifest gives its pictures.

    A picture is left out if one of its findings says so: by its decision, or by its severity where nothing was
    decided. What cannot be read stays in quarantine whatever was decided.

    Args:
        catalog: with the columns `path`, `hash`, `state`, `reason` and `width`.
        manifest: with the columns of `SCHEMA`.

    Returns:
        The table, and notes: decisions that could not be followed, one sentence each.

    Example:
        >>> import polars as pl
        >>> from greffon.pictures.quarantine import SCHEMA, obey
        >>> catalog = pl.DataFrame({"path": ["a.png"], "hash": ["1"], "state": ["ok"], "reason": [""], "width": [9]})
        >>> row = ("a.png", "1", "very dark", "warning", "is very dark", "leave out")
        >>> table, notes = obey(catalog, pl.DataFrame([row], schema=SCHEMA, orient="row"))
        >>> table["state"].to_list(), table["reason"].to_list()
        (['quarantined'], ['left out by the manifest: is very dark'])
    """
    findings: dict[str, list[tuple[str, str, str, str]]] = {}
    for path, content, severity, reason, decision in manifest.select(
        "path", "hash", "severity", "reason", "decision"
    ).iter_rows():
        findings.setdefault(path, []).append((content, severity, reason, decision))
    states, reasons, notes = [], [], []
    for path, content, state, reason, width in catalog.select("path", "hash", "state", "reason", "width").iter_rows():
        found = findings.pop(path, [])
        if state == "ignored" or not found:
            new = (state, reason)
        elif all(each[0] != content for each in found):
            new = (state, reason)
            if any(each[3] for each in found):
                notes.append(f"{path} is another file than the one that was decided about in the manifest: look again")
        else:
            new = _state([each for each in found if each[0] == content], state, reason)
            if state == "quarantined" and width is None and new[0] == "ok":
                notes.append(f"{path} is to be used by the manifest, but it cannot be: it {reason}")
                new = (state, reason)
        states.append(new[0])
        reasons.append(new[1])
    gone = sum(any(each[3] for each in rows) for rows in findings.values())
    if gone:
        notes.append(f"{gone:,} pictures that were decided about in the manifest are not there")
    table = catalog.with_columns(pl.Series("state", states, pl.String), pl.Series("reason", reasons, pl.String))
    return table, notes


def _state(found: list[tuple[str, str, str, str]], state: str, reason: str) -> tuple[str, str]:
    """State and reason of a picture from its findings: content, severity, reason and decision each."""
    for _, _, why, decision in found:
        if decision == "leave out":
            return "quarantined", f"left out by the manifest: {why}" if why else "left out by the manifest"
    for _, severity, why, decision in found:
        if severity == "quarantine" and decision == "":
            return "quarantined", why
    if any(decision == "use" for *_, decision in found):
        return "ok", ""
    return state, reason


def _kind(file: Path) -> str:
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"the manifest must end in .csv or .parquet, got {file.name}")
    return file.suffix.lower()
