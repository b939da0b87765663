"""The activation store: what a trunk gave for a picture, kept on disk by content, so that it is computed once.

A record is found by the digest of the trunk (its graph, weights, preprocessing and numeric mode) and the digest of
the sample (its content and view). A record is there whole or not at all, whatever killed the process that wrote it.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import lmdb

from greffon.errors import GreffonError, InputError
from greffon.frozen import environment as shared
from greffon.frozen.folder import network_filesystem
from greffon.frozen.records import TrunkInfo, checked_key
from greffon.frozen.stored_trunk import StoredTrunk
from greffon.frozen.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.frozen.environment import Environment
    from greffon.frozen.records import Meta

_T = TypeVar("_T")

_MOST_BYTES = 20 * 10**9
_MAP_SLACK_BYTES = 256 * 2**20  # a file is never without gaps
_DELETING_BYTES = 64 * 2**20
_RECENT_SECONDS = 3600.0


class ActivationStore:
    """Activations on disk, shared by every process that opens the same folder.

    A folder that cannot be used (not writable, on a network file system, its disk full) is said once, as a warning,
    and the store goes on as one that keeps nothing more: `missing` gives what is not there, `put_many` gives 0. So
    the caller needs no second way. `problem` says why.

    Example:
        >>> import numpy as np, tempfile
        >>> store = ActivationStore(tempfile.mkdtemp())
        >>> trunk = store.trunk(b"t" * 16, label="a trunk")
        >>> trunk.put_many([b"a" * 16], (np.ones((1, 4), "float16"),))
        1
        >>> arrays, found = trunk.get_many([b"a" * 16, b"b" * 16])
        >>> arrays[0].shape, found.tolist()
        ((1, 4), [True, False])

    Args:
        path: the folder; by default `activations` in the cache folder (`GREFFON_CACHE` or the platform's own).
        limit_bytes: the most that all records together take on the disk; by default 20 GB, or a quarter of the
            free disk if that is less. Beyond it the records of the least recently used other trunks go first, and
            what still does not fit is not stored.
        readonly: never write, create or mark anything.

    Raises:
        GreffonError: the files in the folder are damaged or not a store; the message says what to do.
        InputError: `limit_bytes` is negative.
    """

    def __init__(
        self, path: str | Path | None = None, *, limit_bytes: int | None = None, readonly: bool = False
    ) -> None:
        if limit_bytes is not None and limit_bytes < 0:
            raise InputError(f"limit_bytes must be 0 or more, got {limit_bytes}")
        self.path = Path(path) if path is not None else _default_path()
        self.readonly = readonly
        self.problem: str | None = None
        self._warned = False
        self._lock = threading.Lock()
        self._environment = self._acquire()
        self.limit_bytes = _default_limit(self.path) if limit_bytes is None else int(limit_bytes)

    def trunk(self, digest: bytes, *, label: str = "", modest: bool = False) -> StoredTrunk:
        """The records of one trunk.

        Args:
            digest: 16 bytes that name it.
            label: what `info` shows people.
            modest: whether it takes no room of trunks that were used within the hour.

        Raises:
            InputError: the digest is not 16 bytes.
        """
        return StoredTrunk(self, checked_key(digest, of="trunk"), label, modest)

    def info(self) -> list[TrunkInfo]:
        """What is kept, the most recently used trunk first."""
        none: list[tuple[bytes, Meta]] = []
        return [
            TrunkInfo(
                digest=digest,
                label=meta.label,
                entries=meta.entries,
                size_bytes=meta.size_bytes,
                last_used=datetime.fromtimestamp(meta.last_used, UTC),
                tensors=meta.tensors,
            )
            for digest, meta in reversed(self.read(Transaction.metas, none))
        ]

    @property
    def file_bytes(self) -> int:
        """Length of the store's file; the room of deleted records stays in it and is used again."""
        return _length(self.path)

    def clear(self, trunk: bytes | None = None) -> int:
        """Delete the records of one trunk, or everything.

        When nothing is left and no other process has the store open, the file shrinks too; else its room is used
        again by what is stored next.

        Returns:
            Bytes that the deleted records took.

        Raises:
            GreffonError: the store is open for reading only, or its disk is full.
        """
        environment = self._live()
        if environment is None:
            return 0
        if self.readonly or environment.readonly:
            raise GreffonError(f"the activation store {self.path} cannot be cleared: {self.problem or 'read only'}")
        kept = {info.digest: info.size_bytes for info in self.info()}
        gone = {digest for digest in kept if trunk is None or digest == checked_key(trunk, of="trunk")}
        if gone != set(kept) or not environment.reopen(erase=True):
            try:
                for digest in gone:
                    while self.write(lambda t, digest=digest: t.delete_some(digest), deletes=True):  # type: ignore[misc]
                        pass
            except lmdb.Error as error:
                raise GreffonError(f"the activation store {self.path} cannot be cleared: {error}") from error
        return sum(kept[digest] for digest in gone)

    @staticmethod
    def erase(path: str | Path | None = None) -> int:
        """Delete a whole store, also one that is damaged; what `greffon cache clear` does.

        Returns:
            Bytes by which the file shrank or, where another process uses the store, bytes of its records, which
            are deleted too.

        Raises:
            GreffonError: the store is damaged and another process uses it.
        """
        folder = Path(path) if path is not None else _default_path()
        length = _length(folder)
        if not length:
            return 0
        if not shared.is_open_here(folder) and shared.erase(folder):
            return length
        try:
            with ActivationStore(folder) as store:
                return max(store.clear(), length - store.file_bytes)
        except GreffonError as error:
            raise GreffonError(
                f"the activation store {folder} cannot be deleted while another process uses it: end that one "
                f"first. Beside it, the store cannot be emptied either: {error}"
            ) from error

    def close(self) -> None:
        """Give the files back; using the store again opens it again."""
        with self._lock:
            environment, self._environment = self._environment, None
        if environment is not None:
            shared.release(environment)

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        problem = f", problem={self.problem!r}" if self.problem else ""
        return f"ActivationStore({str(self.path)!r}, limit_bytes={self.limit_bytes}{problem})"

    # What follows is for StoredTrunk.

    def read(self, work: Callable[[Transaction], _T], nothing: _T) -> _T:
        """What `work` reads, or `nothing` where there is no store to read."""
        environment = self._live()
        if environment is None or environment.empty:
            return nothing
        try:
            return environment.read(work)
        except lmdb.Error as error:
            self.set_problem(str(error))
            return nothing

    def write(self, work: Callable[[Transaction], _T], *, deletes: bool = False) -> _T:
        """What `work` returns for a transaction that is on the disk when this returns.

        Args:
            work: is given the transaction.
            deletes: it only makes room; may use what other work must leave free, since deleting takes a little.

        Raises:
            lmdb.Error: nothing was written.
        """
        environment = self._live()
        if environment is None:
            raise lmdb.Error("the store is closed")
        most = self.limit_bytes + self.limit_bytes // 4 + _MAP_SLACK_BYTES
        return environment.write(work, most_map_bytes=most + _DELETING_BYTES * deletes)

    def can_write(self) -> bool:
        """Whether it makes sense to try."""
        environment = self._live()
        return environment is not None and not (self.readonly or environment.readonly or self.problem)

    def make_room(self, need: int, keep: bytes, *, at_once: bool = False, modest: bool = False) -> bool:
        """Delete records of the least recently used trunks other than `keep`; whether there were any to delete.

        Args:
            need: bytes that are to fit under the limit.
            keep: the trunk that they are for.
            at_once: free that much even though it should fit, since the file has no room.
            modest: leave alone what was used within the hour.
        """
        freed, newest = 0, time.time() - _RECENT_SECONDS if modest else math.inf

        def work(transaction: Transaction) -> int:
            metas = transaction.metas()
            excess = sum(meta.size_bytes for _, meta in metas) + need - self.limit_bytes
            excess = max(excess, need - freed) if at_once else excess
            others = [digest for digest, meta in metas if digest != keep and meta.last_used < newest]
            return transaction.delete_some(others[0], enough=excess) if excess > 0 and others else 0

        while done := self.write(work, deletes=True):
            freed += done
        return freed > 0

    def set_problem(self, reason: str) -> None:
        """Store nothing more, and say why, once."""
        free = _free(self.path)
        self.problem = reason if free is None else f"{reason} ({free / 1e6:,.0f} MB free on its disk)"
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"activations are computed again instead of kept: the store {self.path} cannot be used: "
                f"{self.problem}. Expected a folder on a local, writable disk with room; the environment variable "
                "GREFFON_CACHE names another one",
                stacklevel=4,
            )

    def _acquire(self) -> Environment | None:
        if self.readonly and not (self.path / "data.mdb").exists():
            return None
        try:
            if not self.readonly:
                self.path.mkdir(parents=True, exist_ok=True)
                kind = network_filesystem(self.path)
                if kind is not None:
                    self.set_problem(f"it lies on a network file system ({kind}), where its locks do not hold")
                    return None
            return shared.acquire(self.path, readonly=self.readonly)
        except (OSError, lmdb.Error) as error:
            self.set_problem(str(error))
        try:  # what is there may still be read
            return shared.acquire(self.path, readonly=True)
        except (OSError, lmdb.Error):
            return None

    def _live(self) -> Environment | None:
        """The environment of this very process: a forked child opens its own."""
        environment = self._environment
        if environment is not None:
            if environment.pid == os.getpid():
                return environment
            self._lock = threading.Lock()  # another thread of the parent may have held it
        with self._lock:
            current = self._environment
            if current is None or current.pid != os.getpid():
                unusable = current is None and self.problem is not None
                self._environment = None if unusable else self._acquire()
            return self._environment


def _default_path() -> Path:
    from greffon.weights.cache import cache_dir

    return cache_dir() / "activations"


def _default_limit(path: Path) -> int:
    free = _free(path)
    # The store's own file counts as free: its room is what may be used again.
    return _MOST_BYTES if free is None else min(_MOST_BYTES, (free + _length(path)) // 4)


def _free(path: Path) -> int | None:
    """Bytes free on the disk that a folder, which need not exist yet, lies on."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _length(path: Path) -> int:
    try:
        return (path / "data.mdb").stat().st_size
    except OSError:
        return 0
