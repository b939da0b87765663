"""Too few pictures: the learning curve on features, carried on to twice as many, with how uncertain that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.diagnosing.compare import Change
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import DataError
from greffon.evaluation.folds import DECADES
from greffon.evaluation.intervals import percentile_interval, resampled_counts
from greffon.evaluation.linear import fold_rows
from greffon.evaluation.probe import solve

if TYPE_CHECKING:
    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

CAUSE = "too few pictures"
TIMES = 2
"""How many times as many pictures the curve is carried on to."""

_SHARES = (0.125, 0.25, 0.5, 1.0)
_FOLDS, _DRAWS = 4, 2
_FEWEST = 16
_RESAMPLES = 500
_FLOORS = np.linspace(0.0, 1.0, 9)[:-1]  # of the error, as shares of the least one
_STEEPEST = 1.0  # exponent: error halves where pictures double
_MATTERS = 0.04  # accuracy that twice as many pictures have to bring


def try_more_pictures(subject: Subject) -> Finding:
    """How much better a solved head is likely to be with twice as many pictures."""
    if not subject.labels_tell:
        return not_tested(CAUSE, "the labels tell nothing")
    if len(subject.train) < _FEWEST:
        few = f"{len(subject.train)} pictures to learn from are too few for a learning curve, and for nearly anything"
        return not_tested(CAUSE, few)
    with subject.progress.bar("learning curve", total=None):
        found = _curve(subject)
    if found is None:
        return not_tested(CAUSE, "a class has so few pictures that a part of them cannot be cross-validated")
    counts, right = found
    change = extrapolated(counts, right)
    whole = len(subject.bundle.split.filter(subject.bundle.split["split"] == "train"))
    points = ", ".join(
        f"{count:,.0f} give {value:.3f}" for count, value in zip(counts, right.mean(axis=1), strict=True)
    )
    said = (
        f"heads solved on a part of the pictures, cross-validated: {points}. Carried on (error = a + b n^-c), {TIMES} "
        f"times as many give {change.without:.3f}."
    )
    details = {"counts": [float(it) for it in counts], "accuracies": [float(it) for it in right.mean(axis=1)]}
    low = change.interval[0] if change.interval else 0.0
    if change.gain < _MATTERS or low < _MATTERS / 3 or len(subject.train) < whole:
        more = "" if len(subject.train) == whole else f" The run has more pictures than were looked at ({whole:,})."
        return Finding(CAUSE, "not found", said + more, change, details=details)
    return Finding(
        CAUSE, "found", said, change, "More labelled pictures help more than anything else here.", details=details
    )


def extrapolated(counts: Array, right: Array, *, seed: int = 0) -> Change:
    """From a learning curve to what `TIMES` as many pictures as its last point has are likely to give.

    A power law with a floor, error = a + b n^-c, is fitted to the points; again for every bootstrap resample of the
    pictures that were measured on, which gives the interval.

    Args:
        counts: float (points,), pictures that were learned from, ascending, at least three points.
        right: float (points, n), how right the answer for each measured picture was, 0..1.
        seed: of the resamples.

    Example:
        >>> import numpy as np
        >>> from greffon.diagnosing.needed import extrapolated
        >>> right = np.arange(400) % 100 >= np.array([[40], [28], [20], [14]])
        >>> change = extrapolated(np.array([10.0, 20.0, 40.0, 80.0]), right.astype(float))
        >>> round(change.now, 2), round(change.without, 2)
        (0.86, 0.9)
    """
    at = float(counts[-1]) * TIMES
    errors = 1 - right.mean(axis=1)
    gains = []
    for drawn in resampled_counts(right.shape[1], _RESAMPLES, seed):
        for resampled in 1 - (drawn @ right.T) / right.shape[1]:
            gains.append(resampled[-1] - _carried_on(counts, resampled, at))
    values = np.array(gains)
    now = float(right[-1].mean())
    without = now + float(errors[-1] - _carried_on(counts, errors, at))
    return Change(now, without, percentile_interval(values), float((values > 0).mean()))


def _carried_on(counts: Array, errors: Array, at: float) -> float:
    """The error at so many pictures, of the best of a few floors; never above that of the last point."""
    if errors[-1] <= 0:
        return 0.0
    best, found = np.inf, float(errors[-1])
    x = np.log(counts)
    weights = np.sqrt(counts)  # the left end is far from where the curve goes, and is drawn from few pictures
    for floor in _FLOORS * max(float(errors.min()), 0.0):
        y = np.log(np.maximum(errors - floor, 1e-4))
        centre = np.average(x, weights=weights), np.average(y, weights=weights)
        slope = np.average((x - centre[0]) * (y - centre[1]), weights=weights) / np.average(
            (x - centre[0]) ** 2, weights=weights
        )
        slope = float(np.clip(slope, -_STEEPEST, 0.0))
        fitted = floor + np.exp(centre[1] + slope * (x - centre[0]))
        missed = float(np.average((fitted - errors) ** 2, weights=weights))
        if missed < best:
            best = missed
            # From the last point on, which is the best known one.
            found = float(floor + (errors[-1] - floor) * np.exp(slope * (np.log(at) - x[-1])))
    return min(found, float(errors[-1]))


def _curve(subject: Subject) -> tuple[Array, Array] | None:
    """Counts (points,) and how right each picture was named (points, n), by heads that had not seen it."""
    targets, features = subject.targets, subject.features
    splits = fold_rows(targets, _FOLDS, subject.groups, 0, several_labels=subject.several)
    if not splits:
        return None
    first = solve(features, targets, several_labels=subject.several, groups=subject.groups, strengths=DECADES).strength
    right = np.zeros((len(_SHARES), len(targets)))
    counts = np.zeros(len(_SHARES))
    for point, share in enumerate(_SHARES):
        draws = _DRAWS if share < 1 else 1
        for fold, (learn, measure) in enumerate(splits):
            for draw in range(draws):
                rows = _part(learn, targets, share, seed=10 * fold + draw)
                try:
                    probe = solve(
                        features[rows], targets[rows], several_labels=subject.several, strengths=(first,), folds=1
                    )
                except DataError:
                    return None
                answers = probe.probabilities(features[measure])
                right[point, measure] += subject.rightness(answers, targets[measure]) / draws
                counts[point] += len(rows) / (draws * len(splits))
    return counts, right


def _part(learn: Array, targets: Array, share: float, *, seed: int) -> Array:
    """Rows of a share of each class (or set of classes), at least one; those of a small share are in the larger."""
    random = np.random.default_rng(seed)
    kinds = np.unique(targets[learn], axis=0, return_inverse=True)[1].reshape(-1)
    parts = []
    for kind in range(int(kinds.max()) + 1):
        rows = random.permutation(learn[kinds == kind])
        parts.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(parts))
