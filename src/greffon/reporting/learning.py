"""The learning curve: how good a solved head is that has seen a part of the training pictures.

Where it still rises at its end, more pictures are worth more than more training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from greffon.errors import DataError
from greffon.evaluation.intervals import wilson_interval
from greffon.evaluation.probe import solve
from greffon.evaluation.scores import Answers

Array = np.ndarray[Any, Any]

_SHARES = (0.125, 0.25, 0.5, 1.0)
_DRAWS = 3
_FEWEST = 16  # training pictures
_MOST_WORK = 4_000_000  # numbers in the training features up to which each share is drawn several times


@dataclass(frozen=True)
class Point:
    """What so many pictures give.

    Attributes:
        pictures: that were learned from.
        accuracy: 0..1, the mean over the draws.
        interval: its 95 % Wilson interval: of the pictures measured on, not of the draws.
    """

    pictures: int
    accuracy: float
    interval: tuple[float, float]


def learning_curve(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    *,
    strength: float,
    several_labels: bool = False,
    seed: int = 0,
) -> tuple[Point, ...]:
    """Solve the head on an eighth, a quarter, a half and all of the training pictures.

    Of every class the same share is drawn, at least one picture; what is drawn for a small share is in the larger one.

    Args:
        train: features, floating point (n, d), finite, and targets, 0 or 1 (n, classes).
        test: likewise, of the pictures that are measured on, at least one.
        strength: of the data against the penalty (scikit-learn's C), as it suits all of the pictures.
        several_labels: whether a picture may have several labels.
        seed: of the draws.

    Returns:
        One point for each share; none where there are fewer than 16 training pictures, or they are of one class.

    Example:
        >>> import numpy as np
        >>> from greffon.reporting.learning import learning_curve
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(80) % 2]
        >>> features = random.normal(size=(80, 4)) + targets[:, :1]
        >>> [it.pictures for it in learning_curve((features, targets), (features, targets), strength=1.0)]
        [10, 20, 40, 80]
    """
    features, targets = np.asarray(train[0]), np.asarray(train[1])
    if len(features) < _FEWEST:
        return ()
    draws = _DRAWS if features.size <= _MOST_WORK else 1
    points = []
    for share in _SHARES:
        counts, accuracies = [], []
        for draw in range(draws if share < 1 else 1):
            rows = _drawn(targets, share, seed + draw)
            try:
                probe = solve(features[rows], targets[rows], several_labels=several_labels, strengths=(strength,))
            except DataError:  # all of one class
                continue
            answers = Answers.of(probe.probabilities(test[0]), test[1], several_labels=several_labels)
            counts.append(len(rows))
            accuracies.append(float(answers.correct.mean()))
        if counts:
            accuracy, measured = float(np.mean(accuracies)), len(test[1])
            points.append(Point(round(np.mean(counts)), accuracy, wilson_interval(accuracy * measured, measured)))
    return tuple(points)


def _drawn(targets: Array, share: float, seed: int) -> Array:
    """Rows, of each class (or set of classes) the first ones of an order that depends on the seed alone."""
    random = np.random.default_rng(seed)
    kinds = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
    drawn = []
    for kind in range(int(kinds.max()) + 1):
        rows = random.permutation(np.flatnonzero(kinds == kind))
        drawn.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(drawn))
