"""Classes of different sizes: pictures of rare ones counted more, or shown more often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


def balanced_weights(targets: Array) -> Array:
    """How much each picture counts, so that all classes count alike in the sum.

    Args:
        targets: 0 or 1 (n, classes).

    Returns:
        float32 (n,), mean 1. A picture with several labels counts as the rarest of them, one without any as 1 of all
        would.

    Example:
        >>> import numpy as np
        >>> from greffon.training.balance import balanced_weights
        >>> balanced_weights(np.eye(2)[[0, 0, 1, 1, 1, 1]]).tolist()
        [1.5, 1.5, 0.75, 0.75, 0.75, 0.75]
    """
    counts = targets.sum(axis=0)
    each = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
    weights = (targets * each).max(axis=1)
    without = ~targets.any(axis=1)
    weights[without] = weights[~without].mean() if not without.all() else 1.0
    return (weights * len(weights) / weights.sum()).astype(np.float32)


def balanced_rows(targets: Array, *, seed: int) -> Array:
    """Rows of an epoch in which each class is shown as often as the largest.

    Args:
        targets: 0 or 1 (n, classes). Of several labels the rarest is the one that a picture is shown for.
        seed: decides which pictures of a class are shown once more than others.

    Returns:
        int (m,), m >= n: every row at least once.

    Example:
        >>> import numpy as np
        >>> from greffon.training.balance import balanced_rows
        >>> balanced_rows(np.eye(2)[[0, 0, 0, 1]], seed=0).tolist()
        [0, 1, 2, 3, 3, 3]
    """
    counts = targets.sum(axis=0)
    rarity = np.where(targets > 0, counts, np.inf)
    owner = np.where(targets.any(axis=1), rarity.argmin(axis=1), -1)
    members = [np.flatnonzero(owner == label) for label in np.unique(owner)]
    most = max(map(len, members), default=0)
    random = np.random.default_rng(seed)
    rows = [np.concatenate([np.tile(it, most // len(it)), random.permutation(it)[: most % len(it)]]) for it in members]
    return np.sort(np.concatenate(rows)) if rows else np.arange(0)
