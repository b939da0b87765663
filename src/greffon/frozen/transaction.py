"""A transaction of the activation store with the store's two tables at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from greffon.frozen.records import KEY_BYTES, Meta

MOST_DELETED = 4096
"""Records that one transaction deletes."""


@dataclass(frozen=True)
class Transaction:
    """A transaction with the store's two tables: `entries` (records by trunk and sample), `trunks` (their `Meta`).

    What `get` returns lies in the map and must be copied before the transaction ends.
    """

    raw: Any
    entries: Any
    trunks: Any
    page_bytes: int

    def get(self, key: bytes) -> memoryview | None:
        """A record."""
        return self.raw.get(key, db=self.entries)

    def has(self, key: bytes) -> bool:
        """Whether there is a record; does not read it."""
        return self.cursor().set_key(key)

    def put(self, key: bytes, record: Any) -> None:
        """Write a record, over an old one if there is one."""
        self.raw.put(key, record, db=self.entries)

    def delete(self, key: bytes) -> bool:
        """Delete a record; whether there was one."""
        return self.raw.delete(key, db=self.entries)

    def cursor(self) -> Any:
        """A cursor over the records."""
        return self.raw.cursor(db=self.entries)

    def metas(self) -> list[tuple[bytes, Meta]]:
        """Every trunk, the least recently used first."""
        rows = [(bytes(key), Meta.load(value)) for key, value in self.raw.cursor(db=self.trunks)]
        return sorted(rows, key=lambda row: row[1].last_used)

    def meta(self, digest: bytes) -> Meta | None:
        """One trunk."""
        text = self.raw.get(digest, db=self.trunks)
        return None if text is None else Meta.load(text)

    def set_meta(self, digest: bytes, meta: Meta) -> None:
        """Write a trunk's row; one without records loses it."""
        if meta.entries:
            self.raw.put(digest, meta.dump(), db=self.trunks)
        else:
            self.raw.delete(digest, db=self.trunks)

    def delete_some(self, digest: bytes, *, enough: float = math.inf) -> int:
        """Delete a batch of a trunk's records, or as many as free `enough` bytes; returns the bytes freed."""
        meta = self.meta(digest)
        if meta is None:
            return 0
        each = max(1, meta.size_bytes // meta.entries)
        most = min(MOST_DELETED, math.ceil(min(enough, meta.size_bytes) / each))
        cursor = self.cursor()
        deleted = 0
        while deleted < most and cursor.set_range(digest) and bytes(cursor.key()[:KEY_BYTES]) == digest:
            cursor.delete()
            deleted += 1
        all_gone = deleted < most or deleted >= meta.entries
        freed = meta.size_bytes if all_gone else deleted * each
        meta.entries = 0 if all_gone else meta.entries - deleted
        meta.size_bytes -= freed
        meta.evicted += deleted
        self.set_meta(digest, meta)
        return freed
