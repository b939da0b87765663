"""Two ways to name the same pictures, compared picture by picture: what the better one gains, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from greffon.evaluation.folds import DECADES
from greffon.evaluation.intervals import RESAMPLES, percentile_interval, resampled_counts
from greffon.evaluation.probe import solve

Array = np.ndarray[Any, Any]

LEAST = 0.02
"""A gain below which no cause counts as found, whatever its interval: 2 of 100 pictures."""
SURE = 0.995
"""Share of the resamples in which the gain must be above nothing. Ten causes are tried, some in several ways, so the
usual 0.95 would find one in a run without any every other time."""


@dataclass(frozen=True)
class Change:
    """A number as it is, and as it is without the fault.

    Attributes:
        now: as it is.
        without: without the fault.
        interval: 95 % of the difference; None where it cannot be said.
        sure: share of bootstrap resamples of the pictures in which it is better without.
        measure: what the number is.
        log_loss: the mean log loss as it is and without, in nats; None where it was not measured.
    """

    now: float
    without: float
    interval: tuple[float, float] | None = None
    sure: float = 0.0
    measure: str = "accuracy"
    log_loss: tuple[float, float] | None = None

    @property
    def gain(self) -> float:
        """Without minus now."""
        return self.without - self.now

    @property
    def helps(self) -> bool:
        """Whether it is surely better without, by so much that it matters."""
        return self.gain >= LEAST and self.sure >= SURE

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return {
            "measure": self.measure,
            "now": self.now,
            "without": self.without,
            "gain": self.gain,
            "gain_interval_95": None if self.interval is None else list(self.interval),
            "better_in_resamples": self.sure,
            "log_loss_now": None if self.log_loss is None else self.log_loss[0],
            "log_loss_without": None if self.log_loss is None else self.log_loss[1],
        }


def compared(
    before: Array,
    after: Array,
    *,
    groups: Array | None = None,
    weights: Array | None = None,
    measure: str = "accuracy",
    losses: tuple[Array, Array] | None = None,
    seed: int = 0,
) -> Change:
    """The change from one way of naming pictures to another.

    Args:
        before: how right each picture is as things are, 0..1, (n,), at least one.
        after: likewise without the fault, of the same pictures.
        groups: int (n,); pictures of one number are drawn together, as copies tell the same thing twice.
        weights: float (n,), how much each picture counts.
        measure: what the mean is called.
        losses: log loss of each picture, before and after.
        seed: of the resamples.

    Example:
        >>> import numpy as np
        >>> from greffon.diagnosing.compare import compared
        >>> change = compared(np.zeros(50), np.ones(50))
        >>> change.gain, change.helps
        (1.0, True)
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    weights = np.ones(len(before)) if weights is None else np.asarray(weights, np.float64)
    place = np.arange(len(before)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    gains = np.bincount(place, weights * (after - before))
    sizes = np.bincount(place, weights)
    parts = [
        (drawn @ gains) / np.maximum(drawn @ sizes, 1e-12) for drawn in resampled_counts(len(sizes), RESAMPLES, seed)
    ]
    values = np.concatenate(parts)
    return Change(
        float(np.average(before, weights=weights)),
        float(np.average(after, weights=weights)),
        percentile_interval(values),
        float((values > 0).mean()),
        measure,
        None if losses is None else (float(losses[0].mean()), float(losses[1].mean())),
    )


def rightness(probabilities: Array, targets: Array, *, several_labels: bool) -> Array:
    """How right each answer is, float64 (n,): 0 or 1; with several labels the share of the classes that are right."""
    if several_labels:
        return np.asarray(((probabilities >= 0.5) == (targets > 0.5)).mean(axis=1), np.float64)
    return np.asarray(probabilities.argmax(axis=1) == targets.argmax(axis=1), np.float64)


def held_out(
    features: Array, targets: Array, groups: Array | None, *, several_labels: bool, seed: int = 0
) -> Array | None:
    """For every picture the probabilities of a solved head that has not seen it; None where there are too few."""
    if (targets.sum(axis=0) > 0).sum() < 2:
        return None
    found = solve(features, targets, several_labels=several_labels, groups=groups, strengths=DECADES, seed=seed)
    return found.held_out
