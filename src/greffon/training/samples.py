"""The pictures of a training as its stages see them: rows with a key, a target and a side of the split.

A row is one view of one picture. First comes view 0, the picture itself, of every picture of both sides; then the
other views of the pictures to learn from, those of one picture one after the other, so that its file is read once for
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.errors import DataError
from greffon.frozen.activations import fits_memory
from greffon.pictures.split import group_numbers, to_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from greffon.frozen.trunk import Load
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.resize import ResizeRule
    from greffon.pictures.skipped import Skipped
    from greffon.recipe import Augment

    Array = np.ndarray[Any, Any]


class GoneBadError(DataError):
    """Pictures that could be read at the start cannot be read any more.

    Attributes:
        errors: content hash -> why.
    """

    def __init__(self, errors: dict[str, DataError]) -> None:
        first = next(iter(errors.values()))
        super().__init__(f"a picture that could be read at the start cannot be read any more: {first}")
        self.errors = errors


@dataclass(frozen=True)
class Samples:
    """Decoded on demand.

    Attributes:
        keys: 16 bytes for each row: the picture's content, how it is decoded, and which view of it this is.
        targets: float32 (n, classes), one for each class that the row's picture has.
        train: rows of the pictures to learn from, as they are.
        validation: rows of the pictures held out.
        load: decodes some rows: [uint8 (rows, size, size, 3), RGB]; each file once for all rows asked for at once.
        shape: of one decoded picture, (size, size, 3).
        views: int (len(train), views): the rows of each picture to learn from; column 0 is `train`.
        groups: int (len(train),): pictures of one number are copies or near-copies, or of one group.
    """

    keys: Sequence[bytes]
    targets: Array
    train: Array
    validation: Array
    load: Load
    shape: tuple[int, int, int]
    views: Array
    groups: Array

    def __len__(self) -> int:
        return len(self.keys)


def samples_of(
    catalog: Catalog,
    size: int,
    rule: ResizeRule,
    *,
    views: int = 1,
    augment: Augment = "crop",
    together: Iterable[Sequence[str]] = (),
) -> Samples:
    """The pictures of a catalog that is split, those to learn from first.

    Args:
        catalog: with pictures on the sides `train` and `val`; what is on other sides is left out.
        size: side of the network's input, in pixels.
        rule: how a picture becomes square.
        views: of each picture to learn from, itself counted; those held out have one.
        augment: what the other views are.
        together: content hashes of near-copies, as for `split`.
    """
    train, held_out = catalog.side("train"), catalog.side("val")
    both = pl.concat([train, held_out])
    paths, contents = catalog.locators(both), both["hash"].to_list()
    picture, view = _rows(len(train), len(paths), views)
    reader = _Reader(paths, contents, picture, view, size, rule, augment)
    itself = np.arange(len(train))[:, None]
    others = len(paths) + np.arange(len(train) * (views - 1)).reshape(len(train), views - 1)
    return Samples(
        keys=[reader.key(row) for row in range(len(picture))],
        targets=catalog.targets(both)[picture],
        train=np.arange(len(train)),
        validation=np.arange(len(train), len(paths)),
        load=reader.load,
        shape=(size, size, 3),
        views=np.concatenate([itself, others], axis=1),
        groups=group_numbers(train, together),
    )


def samples_to_split(catalog: Catalog, size: int, rule: ResizeRule) -> Samples:
    """All pictures that are to be split or have been, as if they were all to learn from; see `samples_of`."""
    frame = to_split(catalog).with_columns(split=pl.lit("train"))
    return samples_of(replace(catalog, frame=frame), size, rule)


def without(catalog: Catalog, bad: GoneBadError, skipped: Skipped) -> Catalog:
    """The catalog with pictures in quarantine that went bad, each counted.

    Raises:
        DataError: too many have.
    """
    for path, content in catalog.ok.select("path", "hash").iter_rows():
        if content in bad.errors:
            skipped.add(path, bad.errors[content])
    gone = (pl.col("state") == "ok") & pl.col("hash").is_in(list(bad.errors))
    reason = pl.col("hash").replace_strict({it: str(error) for it, error in bad.errors.items()}, default="")
    frame = catalog.frame.with_columns(
        state=pl.when(gone).then(pl.lit("quarantined")).otherwise(pl.col("state")),
        reason=pl.when(gone).then(reason).otherwise(pl.col("reason")),
    )
    return replace(catalog, frame=frame)


def _rows(train: int, pictures: int, views: int) -> tuple[Array, Array]:
    """For each row, which picture it shows and which view of it."""
    others = np.arange(1, views)
    picture = np.concatenate([np.arange(pictures), np.repeat(np.arange(train), len(others))])
    return picture, np.concatenate([np.zeros(pictures, int), np.tile(others, train)])


@dataclass(frozen=True)
class _Reader:
    """Names and reads rows: the picture at `paths[picture[row]]`, view `view[row]` of it."""

    paths: Sequence[str | Path]
    contents: Sequence[str]
    picture: Array
    view: Array
    size: int
    rule: ResizeRule
    augment: Augment

    def key(self, row: int) -> bytes:
        """Changes with whatever changes a pixel; that of view 0 does not tell how many views there are."""
        import xxhash

        from greffon.pictures.augment import AUGMENT_VERSION
        from greffon.pictures.decode import DECODER_VERSION

        view = int(self.view[row])
        how = f"{self.rule} {self.size} {DECODER_VERSION} view {view}"
        if view:
            how = f"{how} {self.augment} {AUGMENT_VERSION}"
        return xxhash.xxh3_128_digest(f"{self.contents[self.picture[row]]} {how}".encode())

    def load(self, rows: Array) -> list[Array]:
        """Decode some rows, in whatever order: [uint8 (rows, size, size, 3)].

        Raises:
            GoneBadError: pictures cannot be read any more; all of these rows are named.
        """
        from greffon.pictures.views import ViewRequest, decode_views_many

        rows = np.asarray(rows)
        places: dict[int, list[int]] = {}
        for place, picture in enumerate(self.picture[rows].tolist()):
            places.setdefault(picture, []).append(place)
        requests = [
            ViewRequest(self.paths[picture], self.contents[picture], tuple(self.view[rows[at]].tolist()))
            for picture, at in places.items()
        ]
        pixels = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        bad: dict[str, DataError] = {}
        decoded = decode_views_many(requests, self.size, self.rule, self.augment)
        for (picture, at), views in zip(places.items(), decoded, strict=True):
            if isinstance(views, DataError):
                bad[self.contents[picture]] = views
            else:
                pixels[at] = views
        if bad:
            raise GoneBadError(bad)
        return [pixels]


class PictureRows:
    """Stands where activations stand when nothing is frozen: gives the pictures themselves, uint8.

    Decoded pictures are held in memory where they fit, else decoded again when they are asked for.
    """

    def __init__(self, samples: Samples, *, memory: int | None = None) -> None:
        self._samples = samples
        size = len(samples) * int(np.prod(samples.shape))
        held = fits_memory(size, memory)
        self._array = np.empty((len(samples), *samples.shape), np.uint8) if held else None
        self._held = np.zeros(len(samples), bool)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of one picture."""
        return [self._samples.shape]

    @property
    def dtypes(self) -> list[np.dtype[Any]]:
        """Of the pictures: uint8."""
        return [np.dtype(np.uint8)]

    @property
    def in_memory(self) -> bool:
        """Whether decoded pictures are held in memory."""
        return self._array is not None

    def gather(self, rows: Array) -> list[Array]:
        """Pictures of some rows, in that order: [uint8 (rows, size, size, 3)]."""
        rows = np.asarray(rows)
        if self._array is None:
            return list(self._samples.load(rows))
        fresh = np.unique(rows[~self._held[rows]])
        if fresh.size:
            self._array[fresh] = self._samples.load(fresh)[0]
            self._held[fresh] = True
        return [self._array[rows]]
