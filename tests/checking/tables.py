"""Catalogs without files, for tests of what only looks at the table."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from greffon.pictures.catalog import SCHEMA, Catalog
from greffon.pictures.near import NearPair


def catalog(rows, *, side=100, **columns):
    """From rows (path, hash, label, split); further columns by name."""
    full = [(path, content, label, split, "ok", "", side, side, 999) for path, content, label, split in rows]
    frame = pl.DataFrame(full, schema=SCHEMA, orient="row")
    for name, values in columns.items():
        frame = frame.with_columns(pl.Series(name, values))
    return Catalog(frame, tuple(sorted({row[2] for row in rows})), Path())


def pair(first, second, correlation=0.95):
    return NearPair(first, second, 0.9, correlation, False)
