"""Pictures that the search does not see: split off first, what belongs together kept together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.errors import DataError, InputError
from greffon.pictures.split import split, to_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from greffon.pictures.catalog import Catalog

    Array = np.ndarray[Any, Any]


def hold_out(
    catalog: Catalog, *, share: float, validation: float, seed: int, together: Iterable[Sequence[str]] = (),
    known: Mapping[str, str] | None = None,
) -> Catalog:  # fmt: skip
    """Give every picture its side: test for the final check, val to search by, train to learn from.

    A test/ that was given is the test, and a val/ that was given stays as it is. Else a share of each class is held
    back, copies, near-copies and groups on one side.

    Args:
        catalog: not split yet.
        share: of each class to hold back, where there is no test/.
        validation: share of each class of the rest to search by, where there is no val/.
        seed: of both.
        together: content hashes of near-copies.
        known: content hash -> side of pictures that the weights know already, as for `split`.

    Raises:
        InputError: a share is out of range.
        DataError: a class has too few pictures for three sides.

    Example:
        >>> import polars as pl
        >>> from pathlib import Path
        >>> from greffon.pictures.catalog import SCHEMA, Catalog
        >>> from greffon.searching.held_out import hold_out
        >>> rows = [(f"{c}/{i}.png", f"{c}{i}", c, "", "ok", "", 8, 8, 99) for c in "ab" for i in range(10)]
        >>> catalog = Catalog(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ("a", "b"), Path())
        >>> sides = hold_out(catalog, share=0.2, validation=0.25, seed=0)
        >>> [len(sides.side(name)) for name in ("train", "val", "test")]
        [12, 4, 4]
    """
    if isinstance(share, bool) or not 0 < share < 1:
        raise InputError(f"held_out must be a share above 0 and under 1, got {share!r}")
    together = list(together)
    try:
        if not len(catalog.side("test")):
            catalog = _test_split_off(catalog, share, seed, together, known)
        return split(catalog, validation=validation, seed=seed, together=together, known=known)
    except DataError as error:
        raise DataError(
            f"a search needs three sides: to learn from, to search by, and for a final check.\n{error}"
        ) from error


def split_again(
    catalog: Catalog, *, validation: float, seed: int, together: Iterable[Sequence[str]] = (),
    known: Mapping[str, str] | None = None,
) -> Catalog:  # fmt: skip
    """The same test, and the other pictures split anew.

    Args:
        catalog: split.
        validation: share of each class to hold out.
        seed: of the split.
        together: content hashes of near-copies.
        known: content hash -> side of pictures that the weights know already, as for `split`.
    """
    kept = pl.col("split").is_in(["train", "val"]) & (pl.col("state") == "ok")
    frame = catalog.frame.with_columns(split=pl.when(kept).then(pl.lit("")).otherwise(pl.col("split")))
    return split(replace(catalog, frame=frame), validation=validation, seed=seed, together=together, known=known)


def _test_split_off(
    catalog: Catalog, share: float, seed: int, together: list[Sequence[str]], known: Mapping[str, str] | None
) -> Catalog:
    rest = pl.col("split").is_in(["", "train"])
    frame = catalog.ok.filter(rest).with_columns(split=pl.lit(""))
    catalog_of_both = replace(catalog, frame=frame, notes=())
    held = split(catalog_of_both, validation=share, seed=seed, together=together, known=known).side("val")
    mine = rest & (pl.col("state") == "ok") & pl.col("hash").is_in(held["hash"].to_list())
    marked = catalog.frame.with_columns(split=pl.when(mine).then(pl.lit("test")).otherwise(pl.col("split")))
    return replace(catalog, frame=marked)


@dataclass(frozen=True)
class SomeRows:
    """Some rows of activations, under numbers of their own.

    Attributes:
        source: gives activations by row.
        rows: which of them, in order.
    """

    source: Any
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shapes(self) -> Any:
        """Shape of one row's activations."""
        return self.source.shapes

    @property
    def dtypes(self) -> Any:
        """Of them."""
        return self.source.dtypes

    def gather(self, rows: Array) -> list[Array]:
        """Activations of some of these rows."""
        return list(self.source.gather(self.rows[rows]))


def rows_left(before: Catalog, after: Catalog) -> Array:
    """Which rows of `to_split(before)` those of `to_split(after)` are."""
    import numpy as np

    place = {path: row for row, path in enumerate(to_split(before)["path"])}
    return np.array([place[path] for path in to_split(after)["path"]], np.int64)
