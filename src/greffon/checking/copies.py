"""Copies: pictures that are there more than once, to the last byte or nearly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.checking.findings import Finding, Severity
from greffon.pictures.layout import natural_order
from greffon.pictures.near import groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import polars as pl

    from greffon.pictures.catalog import Catalog
    from greffon.pictures.near import NearPair

    Array = np.ndarray[Any, Any]

SMALL = 64
"""Pixels of the shorter side below which near-copies are only to be looked at: there is too little in such a picture to
be sure, and whole data sets (Fashion-MNIST) are full of pictures that differ by less than a copy may."""

_SHOWN_GROUPS = 2000


def exact_copies(catalog: Catalog) -> list[Finding]:
    """Pictures whose bytes are in several files.

    On two sides of a given split, or under different labels, they are wrong; else to be looked at.
    """
    frame = catalog.ok
    rows: dict[str, list[int]] = {}
    for row, content in enumerate(frame["hash"]):
        rows.setdefault(content, []).append(row)
    told = _Teller(frame, catalog.labels_of(frame), "exact copies", "are the same to the last byte", "is a copy of")
    return [told.finding(members) for members in rows.values() if len(members) > 1]


def near_copies(catalog: Catalog, pairs: Sequence[NearPair]) -> list[Finding]:
    """Pictures that are one picture, saved again, resized, cropped a little, mirrored or in other colours.

    Args:
        catalog: whose usable rows the pairs are of.
        pairs: of which none are exact copies.
    """
    frame = catalog.ok
    hashes = frame["hash"].to_list()
    contents: dict[str, list[int]] = {}
    for row, content in enumerate(hashes):
        contents.setdefault(content, []).append(row)
    alike = "are near-copies (saved again, resized, cropped, mirrored, in other colours)"
    told = _Teller(frame, catalog.labels_of(frame), "near-copies", alike, "is a near-copy of")
    best: dict[int, float] = {}
    leaders = groups(len(frame), [(pair.first, pair.second) for pair in pairs])
    members: dict[int, set[int]] = {}
    for pair in pairs:
        leader = int(leaders[pair.first])
        for row in (pair.first, pair.second):
            members.setdefault(leader, set()).update(contents[hashes[row]])
        best[leader] = max(best.get(leader, 0.0), pair.correlation)
    found = [told.finding(sorted(members[leader]), score=best[leader]) for leader in members]
    return sorted(found, key=lambda each: -each.score)[:_SHOWN_GROUPS]


def together(catalog: Catalog, pairs: Iterable[NearPair]) -> list[list[str]]:
    """Content hashes of near-copies, as `greffon.pictures.split.split` takes them."""
    hashes = catalog.ok["hash"].to_list()
    return [[hashes[pair.first], hashes[pair.second]] for pair in pairs]


class _Teller:
    """Says of a group of copies how bad it is."""

    def __init__(self, frame: pl.DataFrame, labels: list[list[str]], kind: str, alike: str, each: str) -> None:
        self._paths, self._sides = frame["path"].to_list(), frame["split"].to_list()
        self._sizes = list(frame.select("width", "height").iter_rows())
        self._labels, self._kind, self._alike, self._each = labels, kind, alike, each

    def finding(self, rows: Sequence[int], *, score: float = 1.0) -> Finding:
        labels = natural_order({", ".join(sorted(self._labels[row])) for row in rows})
        sides = sorted({self._sides[row] for row in rows}, key=("train", "val", "test", "").index)
        count = "two pictures" if len(rows) == 2 else f"{len(rows):,} pictures"
        sentence, kind, severity = f"{count} {self._alike}", self._kind, self._worst(rows)
        more = 0
        if len(sides) > 1:
            sentence += f", on different sides of the split ({', '.join(side or 'no side' for side in sides)}): "
            sentence += "scores on them are too good"
            kind, more = f"{self._kind} across the split", 2
        if len(labels) > 1:
            sentence += f"{'; and' if more else ','} under different labels ({', '.join(labels)})"
            if not more:
                kind = f"{self._kind} under different labels"
            more += 1
        if not more:
            severity = "look"
        paths = tuple(self._paths[row] for row in rows)
        return Finding(kind, severity, sentence, paths, score=score + more, each=self._each)

    def _worst(self, rows: Sequence[int]) -> Severity:
        if self._kind == "exact copies":
            return "wrong"
        small = any(None in self._sizes[row] or min(self._sizes[row]) < SMALL for row in rows)
        return "look" if small else "wrong"
