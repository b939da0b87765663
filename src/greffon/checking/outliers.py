"""Outliers: pictures that are like none of the others, which often do not belong there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.checking.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

NEIGHBOURS = 5
"""How many of the nearest pictures a distance is the mean to."""

FAR = 3.5
"""A distance is far that is so many times the usual spread above the usual one (both by medians)."""

FEWEST = 30
"""Pictures below which nothing is usual."""

MOST = 0.02
"""The share of the pictures that is told at most, and at least one."""

_BLOCK = 1024


def neighbour_distances(features: Array, *, groups: Array | None = None, neighbours: int = NEIGHBOURS) -> Array:
    """How far each picture is from those that are nearest to it.

    Args:
        features: floating point (n, d).
        groups: int (n,); copies, which are no neighbours of one another: two copies of one odd picture stay odd.
        neighbours: how many of the nearest.

    Returns:
        float (n,), 0..2: one minus the cosine, averaged over the neighbours. The mean of all pictures is not
        subtracted: noise, pages of text and plain colours added to photographs stand out less where it is.

    Example:
        >>> import numpy as np
        >>> from greffon.checking.outliers import neighbour_distances
        >>> features = np.random.default_rng(0).normal([9, 0, 0], 0.1, (40, 3))
        >>> features[7] = (0, 5, 5)
        >>> int(neighbour_distances(features).argmax())
        7
    """
    groups = np.arange(len(features)) if groups is None else np.asarray(groups)
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    unit = (features / np.maximum(lengths, 1e-30)).astype(np.float32)
    distances = np.zeros(len(unit))
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        cosines[groups[start : start + _BLOCK, None] == groups[None, :]] = -2
        most = min(neighbours, cosines.shape[1] - 1)
        nearest = -np.partition(-cosines, most - 1, axis=1)[:, :most] if most else np.zeros((len(cosines), 1))
        known = nearest > -2
        mean = np.where(known, nearest, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        distances[start : start + _BLOCK] = 1 - mean
    return distances


def outliers(features: Array, paths: Sequence[str], *, groups: Array | None = None) -> list[Finding]:
    """Pictures that are far from all others, the farthest first.

    Args:
        features: floating point (n, d).
        paths: of the pictures.
        groups: int (n,); copies, as for `neighbour_distances`.
    """
    if len(features) < FEWEST:
        return []
    distances = neighbour_distances(features, groups=groups)
    usual = float(np.median(distances))
    spread = 1.4826 * float(np.median(np.abs(distances - usual)))
    far = (distances - usual) / max(spread, 1e-9)
    rows = np.flatnonzero(far > FAR)
    rows = rows[np.argsort(-far[rows], kind="stable")][: max(1, int(MOST * len(features)))]
    return [
        Finding(
            "outliers",
            "look",
            f"is like no other picture: {distances[row]:.2f} from those nearest to it, where {usual:.2f} is usual",
            (paths[row],),
            score=float(far[row]),
        )
        for row in rows.tolist()
    ]
