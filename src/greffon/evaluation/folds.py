"""How good a solved head on fixed features is, by repeated K-fold: every picture is named by heads that do not know it.

Folds of one data set share pictures to learn from, and repeats share everything, so their spread alone says too
little. The interval here is the wider of two: Wilson's for the number of pictures, however often each was named; and
the corrected resampled t interval (Nadeau and Bengio 2003, "Inference for the Generalization Error"), which counts in
that other pictures to learn from would have given another head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.evaluation.intervals import LEVEL, wilson_interval
from greffon.evaluation.linear import Basis, Problem, checked_features, class_probabilities, fold_rows, solving
from greffon.evaluation.probe import FOLDS, STRENGTHS
from greffon.evaluation.scores import Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    Array = np.ndarray[Any, Any]
    Split = tuple[Array, Array]

REPEATS = 3
DECADES = STRENGTHS[2::2]
"""Penalties that are tried: a power of ten apart, which costs half the time of a finer search and no accuracy."""

_PATIENCE = 1  # penalties that may be worse before no weaker one is tried


@dataclass(frozen=True, eq=False)
class Folds:
    """How good a solved head is in repeated K-fold.

    Attributes:
        accuracy: mean over repeats of the share of pictures that were named right by a head that had not seen them.
        interval: 95 %, for the accuracy on new pictures of the same kind; see the head of this module.
        balanced_accuracy: mean over repeats of the mean recall over the classes; None with several labels.
        log_loss: mean over repeats and pictures, in nats.
        count: pictures.
        folds: of each repeat; fewer than were asked for where a class has fewer pictures, or groups of them.
        repeats: how often the pictures were dealt out anew.
        accuracies: float64 (repeats, folds), of each head on its own held-out pictures.
        strengths: float64 (repeats, folds), the penalties (scikit-learn's C), each chosen on the other folds.
        probabilities: float32 (repeats, n, classes), of every picture by heads that had not seen it.
    """

    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float | None
    log_loss: float
    count: int
    folds: int
    repeats: int
    accuracies: Array
    strengths: Array
    probabilities: Array = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the probabilities as plain values, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "accuracy_interval_95": list(self.interval),
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "count": self.count,
            "folds": self.folds,
            "repeats": self.repeats,
            "accuracies": self.accuracies.tolist(),
            "strengths": self.strengths.tolist(),
        }

    def __str__(self) -> str:
        low, high = self.interval
        balanced = "-" if self.balanced_accuracy is None else f"{self.balanced_accuracy:.3f}"
        return (
            f"{self.repeats} x {self.folds} folds of {self.count:,} pictures, a head solved on the features: accuracy "
            f"{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}), balanced accuracy {balanced}, log loss "
            f"{self.log_loss:.3f}"
        )


def folds(  # noqa: PLR0913  # all but two are options, by keyword only
    features: Array,
    targets: Array,
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    groups: Array | None = None,
    seed: int = 0,
    several_labels: bool = False,
    strengths: Sequence[float] = DECADES,
    advance: Callable[[int], None] | None = None,
) -> Folds:
    """Measure a solved head by repeated K-fold.

    No picture has a part in choosing the penalty of the head that names it: that of a fold is the one with the least
    loss on the other folds.

    Args:
        features: floating point (n, d), finite.
        targets: 0 or 1 (n, classes); one 1 in each row unless `several_labels`.
        folds: at least 2, stratified.
        repeats: at least 1.
        groups: int (n,); pictures with one number are in one fold, as near-copies have to be.
        seed: of the folds.
        several_labels: one independent problem for each class.
        strengths: penalties to choose from, as for `solve`.
        advance: called with how many more repeats are done.

    Raises:
        InputError: shapes do not go together, a number is not finite, or an option is out of its range.
        DataError: a class has fewer than two pictures, or all of them in one group.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.folds import folds
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(60) % 2]
        >>> found = folds(random.normal(size=(60, 3)) + 4 * targets[:, :1], targets, repeats=2)
        >>> found.accuracy > 0.9 and found.interval[0] < found.accuracy <= found.interval[1]
        True
    """
    if folds < 2 or repeats < 1 or not len(strengths):
        raise InputError(f"folds must be at least 2 and repeats at least 1, got {folds} and {repeats}")
    features, targets = checked_features(features, targets, several_labels=several_labels)
    if groups is not None and len(groups) != len(features):
        raise InputError(f"groups must have one number per picture ({len(features)}), got {len(groups)}")
    _, coordinates = Basis.of(features)
    problem = Problem(coordinates.astype(np.float32), targets, np.ones(len(features)), several_labels)
    probabilities, accuracies, chosen = [], [], []
    splits: list[Split] = []
    for repeat in range(repeats):
        splits = fold_rows(targets, folds, groups, seed + repeat, several_labels=several_labels)
        if not splits:
            raise DataError(
                "repeated folds need at least two pictures of every class, and near-copies count as one: give more "
                "pictures of the smallest class, or leave it out"
            )
        with solving() as threads:
            answers, best = _named(problem, splits, sorted(strengths), threads)
        correct = Answers.of(answers, targets, several_labels=several_labels).correct
        probabilities.append(answers)
        accuracies.append([float(correct[test].mean()) for _, test in splits])
        chosen.append(best)
        if advance is not None:
            advance(1)
    return _summed_up(np.stack(probabilities), targets, np.array(accuracies), np.array(chosen), several_labels)


def corrected_interval(accuracies: Array, folds: int, *, level: float = LEVEL) -> tuple[float, float]:
    """The corrected resampled t interval of Nadeau and Bengio, cut off at 0 and 1.

    Args:
        accuracies: of every fold of every repeat.
        folds: of one repeat: a fold is 1 / folds of the pictures, and is named by what the others taught.
        level: the confidence, between 0 and 1.
    """
    from scipy.stats import t

    values = np.asarray(accuracies, np.float64).ravel()
    if len(values) < 2:
        return 0.0, 1.0
    error = math.sqrt((1 / len(values) + 1 / (folds - 1)) * float(values.var(ddof=1)))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return max(0.0, float(values.mean()) - half), min(1.0, float(values.mean()) + half)


def _named(
    problem: Problem, splits: list[Split], strengths: list[float], threads: Executor
) -> tuple[Array, list[float]]:
    """Probabilities of every picture by the head of its fold, and the penalty of each fold."""
    paths = [problem.path(train, strengths) for train, _ in splits]
    answers: list[list[Array]] = []
    losses: list[list[float]] = []  # by penalty, then fold
    for _ in strengths:
        solved = list(threads.map(next, paths))
        answers.append(
            [
                class_probabilities(problem.features[test] @ kernel + bias, several_labels=problem.several_labels)
                for (kernel, bias), (_, test) in zip(solved, splits, strict=True)
            ]
        )
        losses.append(
            [
                float(Answers.of(found, problem.targets[test], several_labels=problem.several_labels).losses.sum())
                for found, (_, test) in zip(answers[-1], splits, strict=True)
            ]
        )
        best = _chosen(np.array(losses))
        if max(best) < len(losses) - _PATIENCE:
            break
    named = np.zeros(problem.targets.shape, np.float32)
    for fold, (_, test) in enumerate(splits):
        named[test] = answers[best[fold]][fold]
    return named, [strengths[place] for place in best]


def _chosen(losses: Array) -> list[int]:
    """For every fold, which penalty is best on the other folds: the first that is not beaten soon after."""
    best = []
    for fold in range(losses.shape[1]):
        others, least = losses.sum(axis=1) - losses[:, fold], 0
        for place, loss in enumerate(others):
            if place > least + _PATIENCE:
                break
            if loss < others[least]:
                least = place
        best.append(least)
    return best


def _summed_up(probabilities: Array, targets: Array, accuracies: Array, strengths: Array, several: bool) -> Folds:
    answers = [Answers.of(one, targets, several_labels=several) for one in probabilities]
    count, number = len(targets), accuracies.shape[1]
    accuracy = float(np.mean([one.correct.mean() for one in answers]))
    wilson, corrected = wilson_interval(accuracy * count, count), corrected_interval(accuracies, number)
    support = targets.sum(axis=0)
    there = support > 0
    recalls = [((one.called & one.has).sum(axis=0)[there] / support[there]).mean() for one in answers]
    return Folds(
        accuracy=accuracy,
        interval=(min(wilson[0], corrected[0]), max(wilson[1], corrected[1])),
        balanced_accuracy=None if several else float(np.mean(recalls)),
        log_loss=float(np.mean([one.losses.mean() for one in answers])),
        count=count,
        folds=number,
        repeats=len(answers),
        accuracies=accuracies,
        strengths=strengths,
        probabilities=probabilities,
    )
