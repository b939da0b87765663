"""Reading every picture once: its content's hash, its size, whether it can be decoded to its last pixel, how it looks.

What was found is remembered by path, length and times of the file, so a second scan asks the file system only: about
0.1 ms for each file in place of reading it. As with git, a file that changed within the last two seconds is not
trusted: within the clock's grain it could change once more and look the same. What is left is a file that gets other
bytes of the same length and both its old times, which no ordinary program can give it on a POSIX system (on Windows,
where the second time is that of its creation, a program that sets the first one back can). `GREFFON_RESCAN=1` in the
environment reads every file again.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import xxhash

from greffon.pictures.decode import DECODER_VERSION, usual_workers
from greffon.pictures.faults import Fault, PictureError
from greffon.pictures.jpeg_check import can_check, damage_in, ends_early
from greffon.pictures.loaded import DRAFT_MARGIN, load, upright_size
from greffon.pictures.opened import name_of, opened
from greffon.pictures.quality import LOOKED_AT, Facts, Finding, facts_of, findings_of
from greffon.pictures.sources import locate
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_log = logging.getLogger("greffon")

RESCAN = "GREFFON_RESCAN"
"""The environment variable that, set to anything but 0, has every picture read as if none were remembered."""

SCAN_VERSION = "1"
"""Goes up whenever something else is measured of a picture, or in another way."""

_CHUNK = 16  # pictures that a thread is given at a time: handing over costs as much as reading a small one
_AHEAD = 4
_WHOLE_BYTES = 256 * 2**20  # longer files are hashed in pieces and decoded from the disk
_RACY_NS = 2 * 10**9  # a file changed this short before the scan could change again within the clock's grain
_ZEROS = 64
_MEMORY_SCHEMA = {
    "path": pl.String,
    "size_bytes": pl.Int64,
    "modified": pl.Int64,
    "changed": pl.Int64,
    "hash": pl.String,
    "width": pl.Int64,
    "height": pl.Int64,
    "format": pl.String,
    "mode": pl.String,
    "animated": pl.Boolean,
    "light": pl.Float64,
    "red": pl.Float64,
    "green": pl.Float64,
    "blue": pl.Float64,
    "bright": pl.Int64,
    "spread": pl.Int64,
    "blur": pl.Float64,
    "broken_profile": pl.Boolean,
    "camera": pl.String,
    "damage": pl.String,
}


_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one file is.

    Attributes:
        hash: xxh3_128 of the file's bytes, 32 hexadecimal digits; "" if the file could not be read at all.
        size_bytes: length of the file.
        width: of the upright picture, in pixels; None if it cannot be read.
        height: of the upright picture, in pixels; None if it cannot be read.
        reason: why it cannot be used, or "".
        fault: the same in one word; None if it can be used.
        facts: what was measured of it; None if it cannot be used.
    """

    hash: str
    size_bytes: int | None
    width: int | None
    height: int | None
    reason: str = ""
    fault: Fault | None = None
    facts: Facts | None = None

    def findings(self, path: str) -> tuple[Finding, ...]:
        """What a user should know of the picture: why it cannot be used, or warnings.

        Args:
            path: its name; its ending may not be that of what it is.
        """
        size = None if self.width is None or self.height is None else (self.width, self.height)
        return findings_of(path, reason=self.reason, fault=self.fault, size=size, facts=self.facts)


_Read = tuple[_Stamp | None, Scanned, bool]
"""A file's length and times, what it is, and whether it was read for that."""


def scan(
    root: Path,
    files: Sequence[tuple[str, str | Path]],
    *,
    workers: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Scanned]:
    """Read, hash and decode files, several at a time.

    Args:
        root: the folder that the paths are relative to; what is remembered is kept for each folder apart.
        files: relative path, by which a file is remembered, and where the file is: a path or another locator.
        workers: threads; by default one for each processor, at most 16.
        advance: called with how many more files are done, from this thread.

    Returns:
        One result per file, in order. A file that cannot be read is one with a reason, never an exception.

    Raises:
        InputError: a locator that cannot be followed: a package is missing, or such addresses are not known.
    """
    memory = _Memory(root)
    results: list[Scanned] = []
    told = 0
    try:
        for result in _in_order(memory, files, workers or usual_workers()):
            results.append(result)
            if advance is not None and len(results) - told >= _CHUNK:
                advance(len(results) - told)
                told = len(results)
        memory.keep_only(path for path, _ in files)
    finally:
        memory.write()  # an interrupted scan goes on where it was
    if advance is not None and len(results) > told:
        advance(len(results) - told)
    return results


def read_picture(file: str | Path) -> Scanned:
    """Read, hash and decode one file, whatever is remembered of it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from greffon.pictures.scan import read_picture
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.new("RGB", (64, 48)).save(file)
        >>> read_picture(file).width
        64
    """
    try:
        length = Path(file).stat().st_size if locate.is_local(file) else 0
        content = None if length > _WHOLE_BYTES else locate.read_bytes(file)
        digest = _hash_in_pieces(Path(file)) if content is None else xxhash.xxh3_128_hexdigest(content)
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
        return Scanned("", None, None, None, f"cannot be read: {reason}", "missing")
    source = file if content is None else content
    length = length if content is None else len(content)
    try:
        with opened(source) as image:
            width, height = upright_size(image)
            mode = image.mode
            facts = facts_of(image, load(image, LOOKED_AT // DRAFT_MARGIN, "pad"), mode)
        if facts.format == "JPEG" and content is not None:
            facts = replace(facts, damage=_checked(content, facts.mode))
    except PictureError as error:
        return Scanned(digest, length, None, None, str(error).removeprefix(f"{name_of(source)}: "), error.fault)
    return Scanned(digest, length, width, height, facts=facts)


class _Memory:
    """What earlier scans of a folder found, in one small file of the cache folder.

    Only readable pictures are remembered: whether others can be read may depend on what is installed.
    """

    def __init__(self, root: Path) -> None:
        name = xxhash.xxh3_64_hexdigest(os.path.realpath(root).encode("utf-8", "surrogateescape"))
        version = f"{DECODER_VERSION}.{SCAN_VERSION}{'s' if can_check() else ''}"
        self._file = cache_dir() / "scan" / f"{name}-{version}.parquet"
        self._now = time.time_ns()
        self._known: dict[str, tuple[_Stamp, Scanned]] = {}
        self._fresh = False
        if os.environ.get(RESCAN, "") not in ("", "0"):
            return
        with suppress(OSError, pl.exceptions.PolarsError):  # as if there were none
            frame = pl.read_parquet(self._file)
            rows = frame.iter_rows() if dict(frame.schema) == _MEMORY_SCHEMA else iter(())
            for path, size, modified, changed, *found in rows:
                digest, width, height, *facts = found
                self._known[path] = (
                    (size, modified, changed),
                    Scanned(digest, size, width, height, facts=Facts(*facts)),
                )

    def get(self, path: str, stamp: _Stamp | None) -> Scanned | None:
        known = self._known.get(path)
        return known[1] if known is not None and known[0] == stamp else None

    def put(self, path: str, stamp: _Stamp | None, found: Scanned) -> None:
        if stamp is None or found.reason or found.size_bytes != stamp[0] or max(stamp[1:]) > self._now - _RACY_NS:
            return
        self._known[path] = (stamp, found)
        self._fresh = True

    def keep_only(self, paths: Iterable[str]) -> None:
        kept = {path: self._known[path] for path in paths if path in self._known}
        self._fresh = self._fresh or len(kept) < len(self._known)
        self._known = kept

    def write(self) -> None:
        if not self._fresh:
            return
        rows = [
            (path, *stamp, found.hash, found.width, found.height, *astuple(found.facts))
            for path, (stamp, found) in self._known.items()
            if found.facts is not None
        ]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as stream:
                    pl.DataFrame(rows, schema=_MEMORY_SCHEMA, orient="row").write_parquet(stream)
                Path(name).replace(self._file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            _log.info("the next scan reads every picture again: %s cannot be written (%s)", self._file, error)


def _in_order(memory: _Memory, files: Sequence[tuple[str, str | Path]], workers: int) -> Iterator[Scanned]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="greffon-scan")
    waiting: deque[tuple[list[tuple[str, str | Path]], Future[list[_Read]]]] = deque()

    def finished() -> Iterator[Scanned]:
        chunk, future = waiting.popleft()
        for (path, _), (stamp, found, fresh) in zip(chunk, future.result(), strict=True):
            if fresh:
                memory.put(path, stamp, found)
            yield found

    try:
        for start in range(0, len(files), _CHUNK):
            chunk = list(files[start : start + _CHUNK])
            waiting.append((chunk, pool.submit(_read_chunk, memory, chunk)))
            if len(waiting) > _AHEAD * workers:
                yield from finished()
        while waiting:
            yield from finished()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_chunk(memory: _Memory, chunk: list[tuple[str, str | Path]]) -> list[_Read]:
    results: list[_Read] = []
    for path, file in chunk:
        stamp = locate.stamp(file)
        known = memory.get(path, stamp)
        results.append((stamp, known or read_picture(file), known is None))
    return results


def _checked(content: bytes, mode: str) -> str:
    """What is wrong inside of a JPEG that could be decoded, "" for nothing.

    Raises:
        PictureError: pixels are missing.
    """
    if _ends_in_nothing(content):
        raise PictureError("is cut short: it ends in zeros, as a file that was never written to its end", "truncated")
    damage = damage_in(content, mode)
    if ends_early(damage):
        raise PictureError(
            "is cut short, and closed again: pixels are missing at its end, or in its middle", "truncated"
        )
    return damage


def _ends_in_nothing(content: bytes) -> bool:
    """Whether a JPEG has zeros in place of its end: to its decoder they are a picture like any other."""
    return content.endswith(bytes(_ZEROS)) and b"\xff\xd9" not in content[content.rfind(b"\xff\xda") :]


def _hash_in_pieces(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while piece := stream.read(2**24):
            digest.update(piece)
    return digest.hexdigest()
