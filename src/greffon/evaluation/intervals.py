"""How sure a number is: intervals for shares, for means of shares, and for whatever else by resampling."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Array = np.ndarray[Any, Any]

LEVEL = 0.95
RESAMPLES = 1000
"""How often a table is drawn anew for a bootstrap interval."""

_CELLS = 4_000_000  # weights that are in memory at once


def wilson_interval(correct: float, count: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Interval that holds the true share with the given confidence (Wilson 1927); sound for few pictures too.

    Args:
        correct: how many of them; a broken number where it is a mean over repetitions.
        count: of how many; at least 1.
        level: the confidence, between 0 and 1.

    Example:
        >>> from greffon.evaluation.intervals import wilson_interval
        >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    _check_share(correct, count)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / count
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    width = 1 + z**2 / count
    return max(0.0, (middle - half) / width), min(1.0, (middle + half) / width)


def upper_bound(wrong: int, count: int, *, level: float = LEVEL) -> float:
    """The share that the true one exceeds with a chance of at most 1 - `level` (Clopper and Pearson 1934, one-sided).

    Args:
        wrong: how many of them.
        count: of how many; at least 1.
        level: the confidence, between 0 and 1.

    Example:
        >>> from greffon.evaluation.intervals import upper_bound
        >>> round(upper_bound(0, 149), 4)
        0.0199
    """
    from scipy.stats import beta

    _check_share(wrong, count)
    return 1.0 if wrong == count else float(beta.ppf(level, wrong + 1, count - wrong))


def mean_share_interval(correct: Sequence[int], counts: Sequence[int], *, level: float = LEVEL) -> tuple[float, float]:
    """Interval for the mean of independent shares, such as recalls of classes.

    Wilson's interval of each share, put together by the recovery of variances (MOVER, Zou and Donner 2008). Unlike a
    bootstrap it has a width where every picture is right.

    Args:
        correct: how many of each.
        counts: of how many each; all at least 1.
        level: the confidence, between 0 and 1.

    Example:
        >>> from greffon.evaluation.intervals import mean_share_interval
        >>> [round(bound, 3) for bound in mean_share_interval([10, 10], [10, 10])]
        [0.804, 1.0]
    """
    if not len(counts) or len(counts) != len(correct):
        raise InputError(f"as many of each are expected, at least one, got {len(correct)} and {len(counts)}")
    shares = np.array([part / whole for part, whole in zip(correct, counts, strict=True)])
    bounds = np.array([wilson_interval(part, whole, level=level) for part, whole in zip(correct, counts, strict=True)])
    mean, number = float(shares.mean()), len(shares)
    low = mean - float(np.sqrt(((shares - bounds[:, 0]) ** 2).sum())) / number
    high = mean + float(np.sqrt(((bounds[:, 1] - shares) ** 2).sum())) / number
    return max(0.0, low), min(1.0, high)


def resampled_counts(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each of `count` pictures was drawn, for every resample: float64 (resamples, count), in parts."""
    random = np.random.default_rng(seed)
    part = max(1, _CELLS // count)
    for start in range(0, resamples, part):
        rows = min(part, resamples - start)
        drawn = random.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def percentile_interval(values: Array, *, level: float = LEVEL) -> tuple[float, float] | None:
    """The middle of resampled values (Efron's percentile interval); None where too few of them can be said."""
    known = values[np.isfinite(values)]
    if not len(values) or len(known) < len(values) / 2:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mirrored_interval(values: Array, found: float, *, level: float = LEVEL) -> tuple[float, float] | None:
    """The percentile interval turned around what was found (the "basic" bootstrap), for numbers of at least 0.

    Resampled calibration errors are larger than the one found, as that one is larger than the true one: noise adds to
    it. Turned around, the interval makes up for that. It is widened to hold what was found.
    """
    interval = percentile_interval(values, level=level)
    if interval is None:
        return None
    low, high = interval
    return max(0.0, min(2 * found - high, found)), max(2 * found - low, found)


def _check_share(correct: float, count: int) -> None:
    if not 0 <= correct <= count or not count:
        raise InputError(f"correct must be in 0..count and count at least 1, got {correct} of {count}")
