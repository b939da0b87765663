"""What the numbers of pictures say: classes that are empty, too small or of very different sizes; torn groups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from greffon.checking.findings import Finding
from greffon.errors import DataError
from greffon.pictures.split import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.pictures.catalog import Catalog

UNEQUAL = 5
"""How many times more pictures the largest class has than the smallest, above which it is told."""

_NAMED = 5


def too_small(catalog: Catalog, together: Sequence[Sequence[str]] = ()) -> list[Finding]:
    """Classes that cannot be learned and measured: without a picture, alone, or too small to be split.

    Args:
        catalog: not split, but for the sides that it was given.
        together: content hashes of near-copies, as for `greffon.pictures.split.split`.
    """
    counts = catalog.counts()
    empty = [name for name, count in counts.items() if not count]
    found = []
    if empty:
        found.append(_wrong("classes without pictures", f"no picture that can be read is in {_listed(empty)}"))
    if len(catalog.class_names) < 2:
        what = f"only {catalog.class_names[0]!r}" if catalog.class_names else "none"
        found.append(_wrong("one class", f"at least two classes are needed to tell apart, there is {what}"))
    some = tuple(name for name in catalog.class_names if counts[name])
    if len(some) < 2:
        return found
    try:
        split(replace(catalog, class_names=some), together=together)
    except DataError as error:
        found.append(_wrong("classes too small", " ".join(str(error).split())))
    return found


def unequal(catalog: Catalog) -> list[Finding]:
    """Whether some classes have many times more pictures than others."""
    counts = {name: count for name, count in catalog.counts().items() if count}
    if len(counts) < 2:
        return []
    large, small = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[large] / counts[small]
    if ratio <= UNEQUAL:
        return []
    sentence = (
        f"{large} has {counts[large]:,} pictures, {small} {counts[small]:,}, {ratio:.1f} times fewer: always to "
        f"answer {large} is right in {counts[large] / sum(counts.values()):.0%}. Look at the balanced accuracy; "
        'class_weight="balanced" or sampling="balanced" make rare classes count'
    )
    return [Finding("imbalance", "look", sentence, score=ratio)]


def torn_groups(catalog: Catalog) -> list[Finding]:
    """Groups (a patient, a camera, a video) that a given split tears apart."""
    frame = catalog.ok
    if "group" not in frame.columns:
        return []
    named = frame.filter(pl.col("group").fill_null("") != "")
    torn = named.filter(pl.col("split").n_unique().over("group") > 1)
    found = []
    for (group,), rows in torn.group_by(["group"], maintain_order=True):
        sides = ", ".join(f"{count} in {side or 'no side'}" for side, count in rows["split"].value_counts().iter_rows())
        sentence = f"the pictures of group {group} are on different sides of the split ({sides})"
        reason = f"is of group {group}, which the split tears apart, as is"
        found.append(Finding("groups torn apart", "wrong", sentence, tuple(rows["path"]), score=len(rows), each=reason))
    return found


def _wrong(kind: str, sentence: str) -> Finding:
    return Finding(kind, "wrong", sentence)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
