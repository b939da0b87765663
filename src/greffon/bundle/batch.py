"""Predictions for many pictures as a file, written so that an interrupted job goes on where it was.

While it works, every answered batch is appended to a journal beside the file, `NAME.part`: JSON lines, the first of
which says which run answers. When all pictures are answered the file is written, renamed to its name, and the journal
removed. A job that is started again keeps the journal's answers for pictures with the same path and content.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.bundle.inputs import iterate_sources
from greffon.bundle.manifest import MANIFEST, sha256_of
from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    import polars as pl

    from greffon.bundle.predict import Prediction, Predictor

__all__ = ["SUFFIXES", "BatchResult", "check_out_file", "names_of", "predict_to_file"]

SUFFIXES = (".csv", ".jsonl", ".parquet")
"""What the names of such files end in."""

_JOURNAL_VERSION = 1

_Row = dict[str, Any]


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch job.

    Attributes:
        out: the file.
        pictures: its rows.
        kept: how many of them an interrupted job had answered before.
        unreadable: pictures that could not be read, and why: (path, reason).
    """

    out: Path
    pictures: int
    kept: int
    unreadable: tuple[tuple[str, str], ...]


def check_out_file(out: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse a file that could not be written at the end.

    Raises:
        InputError: its name does not end in .csv, .jsonl or .parquet, its folder is not there, or it is there already.
    """
    place = Path(out).expanduser()
    if place.suffix.lower() not in SUFFIXES:
        raise InputError(f"the file of predictions must end in {', '.join(SUFFIXES)}, got {str(out)!r}")
    if not place.parent.is_dir():
        raise InputError(f"{place} cannot be written: there is no folder {place.parent}")
    if place.is_dir():
        raise InputError(f"{place} is a folder: give the name of a file")
    if place.exists() and not overwrite:
        raise InputError(
            f"{place} is there already: give another name, or replace it with overwrite=True (--overwrite)"
        )
    return place


def names_of(sources: Any) -> list[str]:
    """Paths and addresses of all pictures, folders looked into.

    Args:
        sources: one or many paths of files and folders, and addresses.

    Raises:
        InputError: one has no path, such as bytes and arrays; or see `Predictor.predict`.
    """
    names = []
    for source in iterate_sources(sources):
        if source.path is None:
            raise InputError("a file of predictions is for pictures that have a path: give files and folders")
        names.append(source.path)
    return names


def predict_to_file(
    predictor: Predictor,
    pictures: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    batch_size: int = 32,
    sure: Callable[[Prediction], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> BatchResult:
    """Name what is in many pictures, into a file.

    One row per picture, in the order given: `path`; `hash`, xxh3_128 of the file's bytes as in a catalog, null where
    it cannot be read; `label` and its `probability`; `labels` where a picture may have several (in CSV a JSON list);
    `error`, why it could not be read; and `p_CLASS` for every class. In .jsonl `scores` holds those by class name.

    Args:
        predictor: from `greffon.load`.
        pictures: paths and addresses, from `names_of`.
        out: where to, ending in .csv, .jsonl or .parquet. An interrupted job for the same file and run goes on.
        overwrite: a file that is there is replaced, when the new one is whole.
        batch_size: pictures that are computed at once, at least 1.
        sure: whether an answer is sure enough; what it says is a column `sure`, null where there is no answer.
        advance: called with how many more pictures are answered.

    Raises:
        InputError: see `check_out_file`; or the file cannot be written.

    Example:
        >>> import greffon
        >>> from greffon.bundle.batch import names_of, predict_to_file
        >>> predictor = greffon.load("runs/first")  # doctest: +SKIP
        >>> predict_to_file(predictor, names_of("photos/"), "answers.csv").pictures  # doctest: +SKIP
        120
    """
    place = check_out_file(out, overwrite=overwrite)
    names = [str(name) for name in pictures]
    try:
        with _Journal(place, predictor) as journal:
            kept = _answer(predictor, names, journal, batch_size, advance)
            rows = [journal.rows[name] for name in names]
            if sure is not None:
                rows = [{**row, "sure": None if row["error"] else sure(_prediction(row))} for row in rows]
            _write(place, rows, predictor)
            journal.remove()
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error.strerror or error}") from error
    unreadable = tuple((row["path"], row["error"]) for row in rows if row["error"] is not None)
    return BatchResult(place, len(rows), kept, unreadable)


def _answer(
    predictor: Predictor, names: list[str], journal: _Journal, batch_size: int, advance: Callable[[int], None] | None
) -> int:
    """Answer what the journal has no answer for; give for how many it had one."""
    known, journal.rows = journal.rows, {}
    unique = list(dict.fromkeys(names))
    hashes: deque[str | None] = deque()
    kept: list[str] = []

    def unanswered() -> Iterator[str]:
        for name in unique:
            digest, row = _hash_of(name), known.get(name)
            if row is not None and row["hash"] == digest and row["error"] is None:
                journal.rows[name] = row
                kept.append(name)
                if advance is not None:
                    advance(1)
                continue
            hashes.append(digest)
            yield name

    batch: list[_Row] = []
    for one in predictor.stream(unanswered(), batch_size=batch_size):
        batch.append(_row(one, hashes.popleft()))
        if len(batch) == batch_size:
            journal.append(batch)
            batch = []
        if advance is not None:
            advance(1)
    journal.append(batch)
    if advance is not None and len(unique) < len(names):
        advance(len(names) - len(unique))
    return len(kept)


def _hash_of(name: str) -> str | None:
    import xxhash

    from greffon.pictures.sources.locate import read_bytes

    try:
        return xxhash.xxh3_128_hexdigest(read_bytes(name))
    except (OSError, DataError, InputError):
        return None


def _row(one: Prediction, digest: str | None) -> _Row:
    return {
        "path": one.path,
        "hash": digest,
        "label": one.label,
        "probability": one.probability,
        "labels": list(one.labels),
        "scores": one.scores,
        "error": one.error,
    }


def _prediction(row: _Row) -> Prediction:
    from greffon.bundle.predict import Prediction

    given = {name: row[name] for name in ("path", "label", "probability", "scores", "error")}
    return Prediction(**given, labels=tuple(row["labels"]))


class _Journal:
    """What was answered so far, in memory and on the disk."""

    def __init__(self, out: Path, predictor: Predictor) -> None:
        self.rows: dict[str, _Row] = {}
        self._file = out.with_name(f"{out.name}.part")
        self._head = {
            "greffon_predictions": _JOURNAL_VERSION,
            "run": sha256_of(predictor.bundle.path / MANIFEST),
            "decoder": _decoder(),
        }
        self._stream: BinaryIO | None = None

    def __enter__(self) -> _Journal:
        whole = self._read()
        self._stream = self._file.open("r+b" if whole else "wb")
        self._stream.truncate(whole)
        self._stream.seek(whole)
        if not whole:
            self._write([self._head])
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def append(self, rows: list[_Row]) -> None:
        """Keep answers; they are on the disk when this returns."""
        self._write(rows)
        self.rows.update((row["path"], row) for row in rows)

    def remove(self) -> None:
        """Forget them: the file is written."""
        self.__exit__()
        self._file.unlink(missing_ok=True)

    def _write(self, rows: list[_Row]) -> None:
        if self._stream is None or not rows:
            return
        self._stream.write("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _read(self) -> int:
        """Take over what another process of the same run wrote; give how many bytes of it are whole."""
        try:
            lines = self._file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = 0
        for place, line in enumerate(lines):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or (place == 0 and row != self._head):
                break
            if place:
                self.rows[row["path"]] = row
            whole += len(line)
        return whole


def _decoder() -> str:
    from greffon.pictures.decode import DECODER_VERSION

    return DECODER_VERSION


def _write(place: Path, rows: list[_Row], predictor: Predictor) -> None:
    """The whole file, under its name when it is on the disk."""
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        if place.suffix.lower() == ".jsonl":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            # A path need not be UTF-8; what is not is escaped as JSON writes it.
            beside.write_bytes(text.encode("utf-8", "backslashreplace"))
        elif place.suffix.lower() == ".csv":
            _table(rows, predictor, lists=False).write_csv(beside)
        else:
            _table(rows, predictor, lists=True).write_parquet(beside)
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _table(rows: list[_Row], predictor: Predictor, *, lists: bool) -> pl.DataFrame:
    import polars as pl

    from greffon.evaluation.table import PREFIX

    def column(name: str) -> list[Any]:
        return [row[name] for row in rows]

    columns: dict[str, Any] = {
        # Polars holds text as UTF-8, which a path need not be.
        "path": pl.Series(
            [str(path).encode("utf-8", "backslashreplace").decode() for path in column("path")], dtype=pl.String
        ),
        "hash": pl.Series(column("hash"), dtype=pl.String),
        "label": pl.Series(column("label"), dtype=pl.String),
        "probability": pl.Series(column("probability"), dtype=pl.Float32),
    }
    if predictor.bundle.several_labels:
        given = column("labels")
        columns["labels"] = (
            pl.Series(given, dtype=pl.List(pl.String))
            if lists
            else pl.Series([json.dumps(labels, ensure_ascii=False) for labels in given], dtype=pl.String)
        )
    if rows and "sure" in rows[0]:
        columns["sure"] = pl.Series(column("sure"), dtype=pl.Boolean)
    columns["error"] = pl.Series(column("error"), dtype=pl.String)
    for name in predictor.class_names:
        columns[PREFIX + name] = pl.Series([row["scores"].get(name) for row in rows], dtype=pl.Float32)
    return pl.DataFrame(columns)
