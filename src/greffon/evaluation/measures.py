"""How good predictions are, from the one table that they stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from greffon.errors import DataError, InputError
from greffon.evaluation.intervals import RESAMPLES, mean_share_interval, wilson_interval
from greffon.evaluation.result import ClassMeasures, Measures
from greffon.evaluation.scores import (
    SMALLEST,
    Answers,
    average_precisions,
    balanced_several,
    calibration_error,
    f1_scores,
    resampled_intervals,
)
from greffon.evaluation.table import class_names_of, has_several_labels, probabilities_of

if TYPE_CHECKING:
    import polars as pl

    from greffon.evaluation.scores import Interval

__all__ = ["SMALLEST", "ClassMeasures", "Measures", "answers_of", "measure", "measured", "wilson_interval"]

TOP = (2, 3, 5)
"""How many guesses are allowed where top-k accuracy is told."""


def measure(table: pl.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> Measures:
    """Measure a table of predictions. The order of its rows makes no difference.

    Args:
        table: from `prediction_table`, every row with a label.
        resamples: of the bootstrap intervals, at least 0; with 0 there are none.
        seed: of their draws.

    Raises:
        DataError: the table has no rows.
        InputError: a row has no label.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.measures import measure
        >>> from greffon.evaluation.table import prediction_table
        >>> p = np.array([[0.75, 0.25], [0.5, 0.5]])
        >>> table = prediction_table(["a.jpg", "b.jpg"], [None, None], ["cat", "dog"], p, ["cat", "dog"])
        >>> measure(table).headline()
        'accuracy 0.500 (95 % interval 0.095 to 0.905), balanced accuracy 0.500 (0.103 to 0.897), 1 of 2 pictures'
    """
    return measured(answers_of(table), class_names_of(table), resamples=resamples, seed=seed)


def answers_of(table: pl.DataFrame) -> Answers:
    """Probabilities and labels of a table, sorted, so that sums round in the same way whatever the order of the rows.

    Raises:
        DataError: the table has no rows.
        InputError: a row has no label.
    """
    if not len(table):
        raise DataError("there is nothing to measure: the table of predictions has no rows")
    unlabelled = table["label"].null_count()
    if unlabelled:
        raise InputError(f"{unlabelled} of {len(table)} pictures have no label: leave them out to measure the others")
    table = table.sort("path", "hash", *(name for name in table.columns if name not in {"path", "hash"}))
    several, names = has_several_labels(table), class_names_of(table)
    labels = table["label"].to_list() if several else [[label] for label in table["label"]]
    return Answers.of(probabilities_of(table), _indicator(labels, names), several_labels=several)


def measured(answers: Answers, names: list[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Measures:
    """Measure bare arrays; `measure` says what the arguments are."""
    has, called, count = answers.has, answers.called, len(answers.has)
    hits, support, predicted = (has & called).sum(axis=0), has.sum(axis=0), called.sum(axis=0)
    f1, precisions = f1_scores(hits, support, predicted), average_precisions(answers)
    per_class = {
        name: _class_measures(int(support[n]), int(predicted[n]), int(hits[n]), float(f1[n]), float(precisions[n]))
        for n, name in enumerate(names)
    }
    correct = int(answers.correct.sum())
    top_k, confusion = {}, None
    intervals: dict[str, Interval] = {"accuracy": wilson_interval(correct, count), "balanced_accuracy": None}
    if answers.several_labels:
        balanced = balanced_several(hits, support, predicted, count)
    else:
        there = support > 0
        balanced = hits[there] / support[there]
        intervals["balanced_accuracy"] = mean_share_interval(hits[there].tolist(), support[there].tolist())
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (has.argmax(axis=1), called.argmax(axis=1)), 1)
        rank = answers.rank()
        within = {k: int((rank < k).sum()) for k in TOP if k < len(names)}
        top_k = {k: number / count for k, number in within.items()}
        intervals |= {f"top_{k}": wilson_interval(number, count) for k, number in within.items()}
    return Measures(
        count=count,
        correct=correct,
        accuracy=correct / count,
        accuracy_interval=wilson_interval(correct, count),
        balanced_accuracy=_mean(balanced),
        log_loss=float(answers.losses.mean()),
        per_class=per_class,
        confusion=confusion,
        top_k=top_k,
        macro_f1=_mean(f1),
        mean_average_precision=_mean(precisions),
        brier=float(answers.squares.mean()),
        ece=calibration_error(answers),
        intervals=intervals | resampled_intervals(answers, resamples=resamples, seed=seed),
    )


def _indicator(labels: list[list[str]], names: list[str]) -> np.ndarray:
    number = {name: column for column, name in enumerate(names)}
    has = np.zeros((len(labels), len(names)), bool)
    for row, of_one in enumerate(labels):
        has[row, [number[label] for label in of_one]] = True
    return has


def _class_measures(support: int, predicted: int, correct: int, f1: float, average_precision: float) -> ClassMeasures:
    return ClassMeasures(
        recall=correct / support if support else None,
        precision=correct / predicted if predicted else None,
        support=support,
        predicted=predicted,
        correct=correct,
        f1=f1 if support else None,
        average_precision=average_precision if support else None,
        recall_interval=wilson_interval(correct, support) if support else None,
        precision_interval=wilson_interval(correct, predicted) if predicted else None,
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
