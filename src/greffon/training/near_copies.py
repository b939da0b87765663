"""Near-copies among the pictures of a training, which have to be on one side of the split."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError
from greffon.frozen.kept_rows import fill_rows
from greffon.pictures.near import THUMBNAIL, NearPair, groups, near_duplicates
from greffon.pictures.split import to_split
from greffon.say import are, counted
from greffon.training.samples import GoneBadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from greffon.frozen.activations import Activations
    from greffon.frozen.store import ActivationStore
    from greffon.pictures.catalog import Catalog

    Array = np.ndarray[Any, Any]

_SHOWN = 3


@dataclass(frozen=True)
class NearCopies:
    """What was found.

    Attributes:
        paths: of the pictures that were compared.
        hashes: of their content.
        labels: of them.
        pairs: rows of those lists that are near-copies; exact copies are not among them.
    """

    paths: Sequence[str]
    hashes: Sequence[str]
    labels: Sequence[str]
    pairs: Sequence[NearPair]

    @property
    def together(self) -> list[list[str]]:
        """Content hashes of the pictures that belong on one side."""
        rows_of_pairs = [(pair.first, pair.second) for pair in self.pairs]
        leader = groups(len(self.paths), rows_of_pairs)
        rows = sorted({row for pair in rows_of_pairs for row in pair})
        found: dict[int, list[str]] = {}
        for row in rows:
            found.setdefault(int(leader[row]), []).append(self.hashes[row])
        return list(found.values())

    def notes(self, sides: dict[str, str]) -> list[str]:
        """What a user should be told, one sentence each.

        Args:
            sides: content hash -> side of the split.
        """
        if not self.pairs:
            return []
        torn = [pair for pair in self.pairs if len({sides[self.hashes[row]] for row in pair[:2]}) > 1]
        mixed = [pair for pair in self.pairs if self.labels[pair.first] != self.labels[pair.second]]
        many = len(self.pairs)
        found = f"{counted(many, 'pair')} of pictures {are(many)} near-copies (resized, cropped, mirrored, recoloured)"
        if torn:
            told = [f"{found}; {len(torn)} of them {are(len(torn))} on two sides of the split, so the scores will be "
                    f"too good: {self._shown(torn)}"]  # fmt: skip
        else:
            told = [f"{found}; they stay on one side of the split: {self._shown(self.pairs)}"]
        if mixed:
            told.append(
                f"{counted(len(mixed), 'pair')} of near-copies {are(len(mixed))} under two labels: {self._shown(mixed)}"
            )
        return told

    def _shown(self, pairs: Sequence[NearPair]) -> str:
        names = "; ".join(f"{self.paths[pair.first]} = {self.paths[pair.second]}" for pair in pairs[:_SHOWN])
        more = len(pairs) - _SHOWN
        return f"{names}; and {more} more" if more > 0 else names


def find_near_copies(catalog: Catalog, pooled: Activations, store: ActivationStore | None) -> NearCopies:
    """Compare all usable pictures with one another.

    Args:
        catalog: not split yet.
        pooled: for each usable picture that is not in test/, in the catalog's order, averaged features (d,).
        store: where thumbnails are kept; None: nowhere.

    Raises:
        GoneBadError: a picture cannot be read any more.
    """
    frame = to_split(catalog)
    features = np.asarray(pooled.gather(np.arange(len(frame)))[0], dtype=np.float32)
    pairs = near_pairs(catalog, frame, features, store)
    return NearCopies(frame["path"].to_list(), frame["hash"].to_list(), frame["label"].to_list(), pairs)


def near_pairs(catalog: Catalog, frame: pl.DataFrame, features: Array, store: ActivationStore | None) -> list[NearPair]:
    """Near-copies among some pictures of a catalog, by row.

    Of exact copies the first is compared with others, and speaks for all.

    Args:
        catalog: knows where the pictures are.
        frame: usable rows of it.
        features: floating point (rows, d).
        store: where thumbnails are kept; None: nowhere.

    Raises:
        GoneBadError: a picture cannot be read any more.
    """
    hashes, locators = frame["hash"].to_list(), catalog.locators(frame)
    first = {content: row for row, content in reversed(list(enumerate(hashes)))}
    different = sorted(first.values())

    files = {hashes[row]: locators[row] for row in different}
    with _thumbnails(files, store) as thumbnails:
        found = near_duplicates(features[different], thumbnails.__getitem__)
    return [pair._replace(first=different[pair.first], second=different[pair.second]) for pair in found]


@contextmanager
def _thumbnails(files: Mapping[str, Any], store: ActivationStore | None) -> Iterator[Array]:
    """Grey thumbnails of pictures, uint8 (n, 96, 96), in their order; those that the store knows are not decoded.

    They lie in a temporary file, not in memory: a picture is compared with pictures from anywhere, ten times over.

    Args:
        files: content hash -> where the picture is.
        store: keeps them.

    Raises:
        GoneBadError: pictures cannot be read any more.
    """
    import xxhash

    from greffon.pictures.decode import DECODER_VERSION

    with tempfile.TemporaryFile() as file:
        kept = np.memmap(file, dtype=np.uint8, mode="w+", shape=(max(1, len(files)), THUMBNAIL, THUMBNAIL))
        fill_rows(
            store,
            "thumbnails, for near-copies",
            [xxhash.xxh3_128_digest(content.encode()) for content in files],
            kept,
            lambda missing: _decode(files, missing, kept),
            version=DECODER_VERSION,
        )
        yield kept


def _decode(files: Mapping[str, Any], places: Array, into: Array) -> None:
    from PIL import Image

    from greffon.pictures.decode import decode_many

    hashes, locators = list(files), list(files.values())
    broken: dict[str, DataError] = {}
    decoded = decode_many([locators[place] for place in places], THUMBNAIL, "stretch")
    for number, pixels in decoded:
        if isinstance(pixels, DataError):
            broken[hashes[places[number]]] = pixels
        else:
            into[places[number]] = np.asarray(Image.fromarray(pixels).convert("L"))
    if broken:
        raise GoneBadError(broken)
