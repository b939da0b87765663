"""The numbers behind `measures`, from bare arrays; and what resampling makes of them.

Answers are judged as `Answers`: whether a class is there, whether it was called, and with which probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from greffon.errors import InputError
from greffon.evaluation.intervals import mirrored_interval, percentile_interval, resampled_counts
from greffon.evaluation.table import THRESHOLD

Array = np.ndarray[Any, Any]
Interval = tuple[float, float] | None

SMALLEST = float(np.finfo(np.float32).eps)
"""A probability counts as at least this much in the log loss, so that one sure mistake does not make it infinite."""

BINS = 15
"""Of the calibration error: equally wide, as in Guo et al. 2017."""

_MOST_WORK = 100_000_000  # numbers that may be added up for the interval of the average precision: a second or two
_FEWEST_RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Answers:
    """Probabilities beside the truth.

    Attributes:
        probabilities: float64 (n, classes); of one label per picture they sum to 1.
        has: bool (n, classes), the classes that each picture has.
        several_labels: whether a picture may have several labels, or none.
    """

    probabilities: Array
    has: Array
    several_labels: bool

    @classmethod
    def of(cls, probabilities: Array, has: Array, *, several_labels: bool = False) -> Answers:
        """From probabilities (n, classes) in 0..1 and 0 or 1 for each class, of the same shape.

        Raises:
            InputError: the shapes are others, or there is not one label in each row where there has to be.
        """
        values, has = np.asarray(probabilities, np.float64), np.asarray(has).astype(bool)
        if values.ndim != 2 or values.shape != has.shape:
            raise InputError(
                f"probabilities (n, classes) and as many labels are expected, got {values.shape} and {has.shape}"
            )
        if not several_labels:
            if not (has.sum(axis=1) == 1).all():
                raise InputError("every picture must have one label, or several_labels=True")
            total = values.sum(axis=1, keepdims=True)
            values = values / np.where(total > 0, total, 1.0)
        return cls(values, has, several_labels)

    @cached_property
    def called(self) -> Array:
        """The classes that were said to be there: bool (n, classes)."""
        if self.several_labels:
            return self.probabilities >= THRESHOLD
        called = np.zeros(self.has.shape, bool)
        called[np.arange(len(called)), self.probabilities.argmax(axis=1)] = True
        return called

    @cached_property
    def correct(self) -> Array:
        """Whether the label was said, with several labels all of them and none too many: bool (n,)."""
        return np.asarray((self.called == self.has).all(axis=1))

    @cached_property
    def confidence(self) -> Array:
        """float64 (n,): the highest probability; with several labels how sure the least sure yes or no is."""
        if self.several_labels:
            return np.asarray(np.maximum(self.probabilities, 1 - self.probabilities).min(axis=1))
        return np.asarray(self.probabilities.max(axis=1))

    @cached_property
    def losses(self) -> Array:
        """float64 (n,): -log of the label's probability, in nats; with several labels the mean over the classes."""
        if self.several_labels:
            right = np.where(self.has, self.probabilities, 1 - self.probabilities)
            return np.asarray(-np.log(right.clip(SMALLEST, 1.0)).mean(axis=1))
        return np.asarray(-np.log(self.probabilities[self.has].clip(SMALLEST, 1.0)))

    @cached_property
    def squares(self) -> Array:
        """float64 (n,): Brier's sum over the classes, 0..2; with several labels the mean over them, 0..1."""
        squares = (self.probabilities - self.has) ** 2
        return np.asarray(squares.mean(axis=1) if self.several_labels else squares.sum(axis=1))

    def rank(self) -> Array:
        """How many classes come before the label, int64 (n,); of equal ones the first in class order does."""
        of_label = self.probabilities[self.has][:, None]
        before = np.cumsum(self.has, axis=1) == 0
        return np.asarray(((self.probabilities > of_label) | ((self.probabilities == of_label) & before)).sum(axis=1))


def calibration_bins(answers: Answers, bins: int = BINS) -> tuple[Array, Array, Array]:
    """What is said and what is so, by how sure the answers are: the data of a reliability diagram.

    Of one label per picture the highest probability is looked at, and whether that class is the label; of several
    every probability, and whether that class is there.

    Returns:
        Answers in each bin, int64; their mean probability, and the share of them that is so, float64, NaN where
        there are none. The bins are equally wide, (0, 1 / bins] the first.
    """
    said, true = _said_and_true(answers)
    place = _bin(said, bins)
    counts = np.bincount(place.ravel(), minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place.ravel(), said.ravel(), bins) / counts
        share = np.bincount(place.ravel(), true.ravel(), bins) / counts
    return counts, mean, share


def calibration_error(answers: Answers, bins: int = BINS) -> float:
    """Expected calibration error (ECE), 0..1: how far what is said lies from what is so, in the mean of the answers.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.scores import Answers, calibration_error
        >>> answers = Answers.of(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([[1, 0], [0, 1]]))
        >>> round(calibration_error(answers), 3)
        0.4
    """
    gaps = _gaps(answers, bins)
    return float(np.abs(gaps.sum(axis=0)).sum() / _items(answers))


def average_precisions(answers: Answers) -> Array:
    """Area under each class's precision over recall, as a sum of steps: float64 (classes,), NaN without a picture."""
    weights = np.ones((1, len(answers.has)))
    return np.array(
        [_average_precision(weights, p, has)[0] for p, has in zip(answers.probabilities.T, answers.has.T, strict=True)]
    )


def f1_scores(hits: Array, support: Array, predicted: Array) -> Array:
    """F1 of each class, NaN where there is no picture of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(support > 0, 2 * hits / (support + predicted), np.nan)


def balanced_several(hits: Array, support: Array, predicted: Array, count: Any) -> Array:
    """Mean of recall and the share of the others left alone, for each class; NaN where all or none have it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        left_alone = count - support - predicted + hits
        values = (hits / support + left_alone / (count - support)) / 2
        return np.where((support > 0) & (support < count), values, np.nan)


def resampled_intervals(answers: Answers, *, resamples: int, seed: int) -> dict[str, Interval]:
    """95 % bootstrap intervals over the pictures, for what has no formula of its own.

    Args:
        answers: what to judge, in an order that does not depend on chance.
        resamples: how often; 0: no interval.
        seed: of the draws.

    Returns:
        By name: macro_f1, mean_average_precision, log_loss, brier, ece; with several labels balanced_accuracy too.
        None where nothing can be said, or where there are too many pictures and classes for it.
    """
    names = ("macro_f1", "mean_average_precision", "log_loss", "brier", "ece", "balanced_accuracy")
    values: dict[str, list[Array]] = {name: [] for name in names}
    count = len(answers.has)
    gaps, indicators, draws = _gaps(answers, BINS), _class_indicators(answers), 0
    precise = min(resamples, _MOST_WORK // max(1, answers.has.size))
    precise = precise if precise >= min(resamples, _FEWEST_RESAMPLES) else 0
    for weights in resampled_counts(count, resamples, seed):
        values["log_loss"].append(weights @ answers.losses / count)
        values["brier"].append(weights @ answers.squares / count)
        values["ece"].append(np.abs(weights @ gaps).sum(axis=1) / _items(answers))
        hits, support, predicted = (np.asarray((part @ weights.T).T) for part in indicators)
        values["macro_f1"].append(_mean(f1_scores(hits, support, predicted)))
        if answers.several_labels:
            values["balanced_accuracy"].append(_mean(balanced_several(hits, support, predicted, count)))
        rows = weights[: max(0, precise - draws)]
        draws += len(weights)
        if len(rows):
            values["mean_average_precision"].append(_mean(_resampled_precisions(answers, rows)))
    if not resamples:
        return {}
    intervals = {name: percentile_interval(np.concatenate(parts)) for name, parts in values.items() if parts}
    intervals["ece"] = mirrored_interval(np.concatenate(values["ece"]), calibration_error(answers))
    return {"mean_average_precision": None, **intervals}


def _resampled_precisions(answers: Answers, weights: Array) -> Array:
    columns = [
        _average_precision(weights, p, has) for p, has in zip(answers.probabilities.T, answers.has.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def _average_precision(weights: Array, probabilities: Array, has: Array) -> Array:
    """For every row of weights (resamples, n); pictures with one probability are one step, as they cannot be told."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    sorted_weights = weights[:, order]
    hits = np.cumsum(sorted_weights * has[order], axis=1)[:, ends]
    called = np.cumsum(sorted_weights, axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, hits / called, 0.0)
        return np.asarray((np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1])


def _class_indicators(answers: Answers) -> list[Any]:
    """Sparse (classes, n): where a class was found, where it is, where it was called."""
    from scipy.sparse import csr_array

    parts = (answers.has & answers.called, answers.has, answers.called)
    return [csr_array(part.T).astype(np.float64) for part in parts]


def _said_and_true(answers: Answers) -> tuple[Array, Array]:
    if answers.several_labels:
        return answers.probabilities, answers.has.astype(np.float64)
    return answers.confidence[:, None], answers.correct[:, None].astype(np.float64)


def _bin(said: Array, bins: int) -> Array:
    return np.clip(np.ceil(said * bins).astype(np.int64) - 1, 0, bins - 1)


def _gaps(answers: Answers, bins: int) -> Array:
    """What is so minus what is said, added up per picture and bin: (n, bins)."""
    said, true = _said_and_true(answers)
    gaps = np.zeros((len(said), bins))
    rows = np.repeat(np.arange(len(said)), said.shape[1])
    np.add.at(gaps, (rows, _bin(said, bins).ravel()), (true - said).ravel())
    return gaps


def _items(answers: Answers) -> int:
    return answers.has.size if answers.several_labels else len(answers.has)


def _mean(values: Array) -> Array:
    """Mean over the classes that something can be said of; NaN where there are none."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1))
