"""The records of one trunk in the activation store: ask what is missing, read batches, store batches."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import lmdb
import numpy as np

from greffon.errors import InputError
from greffon.frozen.records import (
    CHECKSUM_BYTES,
    Meta,
    TensorSpec,
    check_specs,
    checked_key,
    disk_bytes,
    pack,
    specs_of,
    unpack,
)
from greffon.frozen.transaction import MOST_DELETED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.frozen.store import ActivationStore
    from greffon.frozen.transaction import Transaction

_MOST_WRITTEN = 64 * 2**20  # bytes that one transaction writes
_TOUCH_SECONDS = 600.0  # a trunk is marked as used at most so often


@dataclass
class StoredTrunk:
    """The records of one trunk; made by `ActivationStore.trunk`. Threads may share it.

    Keys are digests of samples, 16 bytes each. What was there a moment ago may be gone: another process may have
    needed the room, or a record may have changed on a bad disk. So compute whatever a read did not find.
    """

    store: ActivationStore
    digest: bytes
    label: str = ""
    modest: bool = False
    _tensors: tuple[TensorSpec, ...] | None = field(default=None, repr=False)
    _touched: float = field(default=-math.inf, repr=False)
    _evicted: int | None = field(default=None, repr=False)  # the trunk's count when this handle last wrote
    _displaced: bool = field(default=False, repr=False)
    _broken: set[bytes] = field(default_factory=set, repr=False)

    def missing(self, keys: Sequence[bytes]) -> np.ndarray:
        """Indices of the keys that have no record; reads no data.

        Returns:
            int64 array, ascending.

        Raises:
            InputError: a key is not 16 bytes.
        """
        whole = self._whole(keys)

        def work(transaction: Transaction) -> list[int]:
            cursor = transaction.cursor()
            return [i for i, key in enumerate(whole) if not cursor.set_key(key) or key in self._broken]

        return np.asarray(self.store.read(work, list(range(len(whole)))), dtype=np.int64)

    def get_many(self, keys: Sequence[bytes]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Read the records of some samples: a batch, since all of it is held in memory.

        Returns:
            One array per tensor, (rows found, *shape), in the order of the keys; and a bool array that says for
            every key whether it was found. No arrays at all where the store knows nothing of this trunk.

        Raises:
            InputError: a key is not 16 bytes.
        """
        tensors = self._specs()
        if tensors is None:
            return (), np.zeros(len(self._whole(keys)), dtype=bool)
        out = tuple(np.empty((len(keys), *spec.shape), spec.dtype) for spec in tensors)
        found = self.read_into(keys, out)
        return (out, found) if found.all() else (tuple(array[found] for array in out), found)

    def read_into(self, keys: Sequence[bytes], out: Sequence[np.ndarray]) -> np.ndarray:
        """Read the records of some samples into rows of arrays that are there already.

        Args:
            keys: digests of samples.
            out: one array per tensor, (at least len(keys), *shape), of the stored dtype. Row i is for key i, and
                is left as it is where there is no record.

        Returns:
            bool array: which keys were found.

        Raises:
            InputError: a key is not 16 bytes, or the arrays do not fit the stored tensors.
        """
        whole = self._whole(keys)
        found = np.zeros(len(whole), dtype=bool)
        tensors = self._specs()
        if tensors is None:
            return found
        check_specs(specs_of(out), tensors, self.digest)
        if any(len(array) < len(whole) for array in out):
            raise InputError(f"the arrays must have at least {len(whole)} rows, got {[len(array) for array in out]}")
        self._touch()

        def work(transaction: Transaction) -> list[bytes]:
            broken = []
            for row, key in enumerate(whole):
                record = transaction.get(key)
                if record is not None:
                    found[row] = unpack(record, tensors, out, row)
                    if not found[row]:
                        broken.append(key)
            return broken

        self._note_broken(self.store.read(work, []))
        return found

    def put_many(self, keys: Sequence[bytes], arrays: Sequence[np.ndarray]) -> int:
        """Store the records of some samples, on the disk when this returns; those already there are left alone.

        Batches of more than 64 MiB are written in several transactions; a record is always written whole.

        Args:
            keys: digests of samples.
            arrays: one array per tensor, (len(keys), *shape), in the dtype to keep: nothing is converted.

        Returns:
            How many of the samples, counted from the first, have a record now. Fewer than len(keys) means that the
            limit is reached or the store cannot be written: compute the others again when they are needed.

        Raises:
            InputError: a key is not 16 bytes, or the arrays differ in number, shape or dtype from what this trunk
                has in the store.
        """
        whole = self._whole(keys)
        tensors = specs_of(arrays)
        if any(len(array) != len(whole) for array in arrays):
            raise InputError(f"expected {len(whole)} rows, one per key, got {[len(array) for array in arrays]}")
        if not self.store.can_write():
            return 0
        rows = max(1, _MOST_WRITTEN // (sum(spec.nbytes for spec in tensors) + CHECKSUM_BYTES))
        stored = 0
        for start in range(0, len(whole), rows):
            part = slice(start, start + rows)
            done = self._put(whole[part], pack([array[part] for array in arrays], tensors), tensors)
            stored += done
            if done < len(whole[part]):
                break
        return stored

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Delete the records of some samples; returns how many there were."""
        whole = self._whole(keys)
        deleted = 0
        if not self.store.can_write():
            return 0
        try:
            for start in range(0, len(whole), MOST_DELETED):
                part = whole[start : start + MOST_DELETED]
                deleted += self.store.write(lambda t, part=part: self._delete(t, part), deletes=True)  # type: ignore[misc]
        except lmdb.Error as error:
            self.store.set_problem(str(error))
        self._evicted = None  # should the trunk be empty now, then by this handle's own doing
        return deleted

    def _whole(self, keys: Sequence[bytes]) -> list[bytes]:
        return [self.digest + checked_key(key) for key in keys]

    def _specs(self) -> tuple[TensorSpec, ...] | None:
        if self._tensors is None:
            meta = self.store.read(lambda t: t.meta(self.digest), None)
            self._tensors = meta.tensors if meta else None
        return self._tensors

    def _touch(self) -> None:
        if time.monotonic() - self._touched < _TOUCH_SECONDS or not self.store.can_write():
            return

        def work(transaction: Transaction) -> None:
            meta = transaction.meta(self.digest)
            if meta is not None:
                meta.last_used = time.time()
                transaction.set_meta(self.digest, meta)

        self._touched = time.monotonic()
        try:
            self.store.write(work)
        except lmdb.Error as error:
            self.store.set_problem(str(error))

    def _note_broken(self, keys: list[bytes]) -> None:
        if keys and not self._broken:
            warnings.warn(
                f"the activation store {self.store.path} has a record that changed on the disk; it is computed "
                "again. Should this come again, check the disk and run `greffon cache clear`",
                stacklevel=4,
            )
        self._broken.update(keys)

    def _put(self, keys: list[bytes], packed: np.ndarray, tensors: tuple[TensorSpec, ...]) -> int:
        stored = 0
        try:
            while True:
                map_full = False
                try:
                    stored = self._put_what_fits(keys, packed, tensors)
                except lmdb.MapFullError:
                    stored, map_full = 0, True
                need = (len(keys) - stored) * packed.shape[1]
                if stored == len(keys) or self._displaced:
                    return stored
                if not self.store.make_room(need, self.digest, at_once=map_full, modest=self.modest):
                    return stored
        except lmdb.Error as error:
            self.store.set_problem(str(error))
            return 0

    def _put_what_fits(self, keys: list[bytes], packed: np.ndarray, tensors: tuple[TensorSpec, ...]) -> int:
        """One transaction: the records up to the limit; returns how many of the keys have one now."""
        stored, evicted, empty = self.store.write(lambda t: self._put_records(t, keys, packed, tensors))
        if self._evicted is not None and self._evicted != evicted:
            # Another session has just pushed this trunk out. Were it pushed back in, the two would undo each other's
            # work for ever; so this one takes only room that is free.
            self._displaced = True
        self._evicted = None if empty else evicted or 0
        self._touched = time.monotonic()
        self._tensors = tensors
        self._broken.difference_update(keys[:stored])
        return stored

    def _put_records(
        self, transaction: Transaction, keys: list[bytes], packed: np.ndarray, tensors: tuple[TensorSpec, ...]
    ) -> tuple[int, int | None, bool]:
        metas = dict(transaction.metas())
        old = metas.get(self.digest)
        meta = old or Meta(tensors)
        check_specs(tensors, meta.tensors, self.digest)
        room = self.store.limit_bytes - sum(other.size_bytes for other in metas.values())
        each = disk_bytes(packed.shape[1], transaction.page_bytes)
        stored = 0
        for key, record in zip(keys, packed, strict=True):
            new = not transaction.has(key)
            if new and room < each:
                break
            if new or key in self._broken:
                transaction.put(key, record)
            room -= each * new
            meta.entries += new
            meta.size_bytes += each * new
            stored += 1
        meta.label = self.label or meta.label
        meta.last_used = time.time()
        if meta.entries:
            transaction.set_meta(self.digest, meta)
        return stored, old.evicted if old else None, meta.entries == 0

    def _delete(self, transaction: Transaction, keys: list[bytes]) -> int:
        meta = transaction.meta(self.digest)
        deleted = sum(transaction.delete(key) for key in keys)
        if meta is not None and deleted:
            meta.size_bytes -= deleted * (meta.size_bytes // meta.entries)
            meta.entries -= deleted
            transaction.set_meta(self.digest, meta)
        return deleted
