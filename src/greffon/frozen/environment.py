"""One LMDB environment per path and process, shared by every store that is opened on that path.

LMDB forbids opening the same files twice in one process, using an environment after a fork, and changing the size
of the map while a transaction is open. This module keeps those three rules, so that the store need not know them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import lmdb

from greffon.errors import GreffonError
from greffon.frozen.folder import erase as erase_files
from greffon.frozen.folder import mark_in_use
from greffon.frozen.gate import Gate
from greffon.frozen.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_T = TypeVar("_T")

FORMAT = b"1"
FIRST_MAP_BYTES = (64 if sys.platform == "win32" else 1024) * 2**20  # Windows gives the file the map's size at once
_SLACK_PAGES = 64  # LMDB may leave a few pages that it freed at once unwritten at the end of the file
_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)


class Environment:
    """An open LMDB environment.

    Use `acquire` and `release`, never the constructor. All work is done in functions that take a transaction
    and leave nothing of it behind: so the map may grow between any two of them, whoever else is reading.
    """

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self.pid = os.getpid()
        self.users = 0
        self._gate = Gate()
        self._writing = threading.Lock()
        self._in_use: int | None = None
        self._lmdb: Any = None
        self._open()

    @property
    def map_bytes(self) -> int:
        """Size of the memory map: what the file may grow to before the map has to."""
        return int(self._lmdb.info()["map_size"])

    @property
    def empty(self) -> bool:
        """Whether nothing was ever written (a store opened only for reading cannot make its tables)."""
        return self._entries is None

    def read(self, work: Callable[[Transaction], _T]) -> _T:
        """What `work` returns for a read transaction (with buffers: copy what is to outlive it)."""
        while True:
            try:
                with self._gate.shared(), self._damage_named(), self._lmdb.begin(buffers=True) as transaction:
                    return work(self._wrap(transaction))
            except lmdb.MapResizedError:
                self._resize(0)

    def write(self, work: Callable[[Transaction], _T], *, most_map_bytes: int) -> _T:
        """What `work` returns for a write transaction, committed and on the disk when this returns.

        `work` is run again from the start after the map has grown.

        Raises:
            lmdb.MapFullError: the map would have to grow beyond `most_map_bytes`.
            lmdb.Error: the disk is full or the file cannot be written; nothing of the transaction is kept.
        """
        while True:
            try:
                with (
                    self._writing,
                    self._gate.shared(),
                    self._damage_named(),
                    self._lmdb.begin(write=True, buffers=True) as transaction,
                ):
                    return work(self._wrap(transaction))
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.MapFullError:
                size = self.map_bytes
                if size >= most_map_bytes:
                    raise
                self._resize(min(2 * size, most_map_bytes))
            except lmdb.PanicError:
                self.reopen()  # writing the file's root failed; only a new environment can be used again
                raise

    def reopen(self, *, erase: bool = False, writable: bool = False) -> bool:
        """Close and open again; with `erase`, delete the files in between unless another process uses them.

        Returns:
            Whether the files were deleted.
        """
        with self._writing, self._gate.exclusive():
            self._lmdb.close()
            erased = False
            try:
                if erase:
                    erased = erase_files(self.path, self._in_use)
            finally:
                self.readonly = self.readonly and not writable
                self._open()
            return erased

    def close(self) -> None:
        """Close the files; the environment cannot be used any more."""
        with self._writing, self._gate.exclusive():
            self._close()

    @contextlib.contextmanager
    def closed_for_a_moment(self) -> Iterator[None]:
        """Closed within this, after the transactions that are open have ended; nobody notices."""
        with self._gate.exclusive():
            self._close()
            yield
            self._open()

    def _open(self) -> None:
        self._in_use = mark_in_use(self.path, self._in_use)
        try:
            with self._damage_named():
                self._lmdb = _open_lmdb(self.path, self.readonly)
                self._page_bytes = int(self._lmdb.stat()["psize"])
                self._entries, self._trunks = self._tables_of_any_size()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._lmdb is not None:
            self._lmdb.close()
        if self._in_use is not None:
            os.close(self._in_use)
            self._in_use = None

    def _wrap(self, transaction: Any) -> Transaction:
        return Transaction(transaction, self._entries, self._trunks, self._page_bytes)

    def _tables_of_any_size(self) -> tuple[Any, Any]:
        while True:
            try:
                return self._tables()
            except lmdb.MapResizedError:  # another process made the file grow since it was opened, just now
                self._lmdb.set_mapsize(0)

    def _tables(self) -> tuple[Any, Any]:
        if self.readonly:
            self._check_length(None)
            try:
                tables = self._lmdb.open_db(b"entries", create=False), self._lmdb.open_db(b"trunks", create=False)
            except (lmdb.NotFoundError, lmdb.ReadonlyError):
                return None, None
        else:
            self._lmdb.reader_check()  # killed processes must not keep old pages alive
            with self._lmdb.begin(write=True) as transaction:
                self._check_length(transaction)
                tables = (
                    self._lmdb.open_db(b"entries", txn=transaction),
                    self._lmdb.open_db(b"trunks", txn=transaction),
                )
                if not transaction.stat(tables[0])["entries"]:
                    transaction.put(b"format", FORMAT)
        with self._lmdb.begin() as transaction:
            written = transaction.get(b"format")
        if written != FORMAT:
            raise damaged(self.path, f"it has format {written!r}, this version of Greffon writes {FORMAT!r}")
        return tables

    def _check_length(self, transaction: Any) -> None:
        # Reading a page behind the end of a mapped file kills the process, so a cut file is refused before that.
        expected = (self._lmdb.info()["last_pgno"] + 1) * self._page_bytes
        data = self.path / "data.mdb"
        length = data.stat().st_size
        if length < expected - _SLACK_PAGES * self._page_bytes:
            raise damaged(self.path, f"data.mdb should have at least {expected} bytes and has {length}")
        if transaction is not None and length < expected:  # within the writer's lock nobody else changes the file
            os.truncate(data, expected)

    def _resize(self, size: int) -> None:
        with self._writing, self._gate.exclusive(), self._damage_named():
            if size == 0 or size > self.map_bytes:
                self._lmdb.set_mapsize(size)

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise damaged(self.path, str(error)) from error


def damaged(path: Path, reason: str) -> GreffonError:
    """The error for a store that cannot be trusted, with what to do."""
    return GreffonError(
        f"the activation store {path} is damaged: {reason}. Expected a store as Greffon wrote it. "
        "Remove it with `greffon cache clear`; activations are computed again when they are needed"
    )


_registry: dict[str, Environment] = {}
_registry_lock = threading.Lock()
_forking = contextlib.ExitStack()


def acquire(path: Path, *, readonly: bool) -> Environment:
    """The process's environment at `path`, opened if it is not yet; give it back with `release`.

    A store that may write gets an environment that can, even where an earlier one was opened for reading.

    Raises:
        OSError: the folder cannot be used.
        lmdb.Error: LMDB cannot use the folder.
        GreffonError: the files there are damaged, or not a store.
    """
    key = os.path.realpath(path)
    with _registry_lock:
        environment = _registry.get(key)
        if environment is None:
            environment = _registry[key] = Environment(path, readonly=readonly)
        elif environment.readonly and not readonly:
            environment.reopen(writable=True)
        environment.users += 1
        return environment


def release(environment: Environment) -> None:
    """Give an environment back; its last user closes it."""
    if environment.pid != os.getpid():
        return
    with _registry_lock:
        environment.users -= 1
        if environment.users == 0:
            _registry.pop(os.path.realpath(environment.path), None)
            environment.close()


def erase(path: Path) -> bool:
    """Delete the files of a store that this process has not open; False if another process uses it."""
    mark = mark_in_use(path, None)
    try:
        return erase_files(path, mark)
    finally:
        if mark is not None:
            os.close(mark)


def is_open_here(path: Path) -> bool:
    """Whether this process has the store at `path` open."""
    return os.path.realpath(path) in _registry


def _open_lmdb(path: Path, readonly: bool) -> Any:
    options: dict[str, Any] = {"max_dbs": 4, "max_readers": 256, "map_size": FIRST_MAP_BYTES}
    if not readonly:
        return lmdb.Environment(str(path), **options)
    try:
        return lmdb.Environment(str(path), readonly=True, create=False, **options)
    except (lmdb.ReadonlyError, lmdb.LockError):
        # The lock file cannot be written: nobody who could be locked out writes here either.
        return lmdb.Environment(str(path), readonly=True, create=False, lock=False, **options)


def _before_fork() -> None:
    # Nothing of LMDB may pass a fork: a child that closed what it inherited would free its parent's slot among
    # the readers; one that did not could not open the same files again.
    _registry_lock.acquire()
    for environment in _registry.values():
        _forking.enter_context(environment.closed_for_a_moment())


def _after_fork_in_parent() -> None:
    try:
        _forking.close()
    finally:
        _registry_lock.release()


def _after_fork_in_child() -> None:
    _forking.pop_all()
    _registry.clear()
    _registry_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
