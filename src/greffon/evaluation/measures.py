"""How good predictions are, from the one table that they stand in."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.evaluation.table import (
    THRESHOLD,
    class_names_of,
    has_several_labels,
    probabilities_of,
)

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Group

SMALLEST = float(np.finfo(np.float32).eps)
"""A probability counts as at least this much in the log loss, so that one sure mistake does not make it infinite."""


@dataclass(frozen=True)
class ClassMeasures:
    """One class.

    Attributes:
        recall: share of its pictures that were recognised, 0..1; None where there is no picture of it.
        precision: share of the pictures called so that are it, 0..1; None where none was called so.
        support: pictures of it.
        predicted: pictures called so.
        correct: pictures of it that were called so.
    """

    recall: float | None
    precision: float | None
    support: int
    predicted: int
    correct: int


@dataclass(frozen=True, eq=False)
class Measures:
    """How good a table of predictions is.

    Attributes:
        count: pictures.
        correct: pictures whose label was predicted; with several labels per picture: all labels right, none too many.
        accuracy: correct / count, 0..1.
        accuracy_interval: 95 % Wilson interval of the accuracy, 0..1.
        balanced_accuracy: mean recall over the classes that are there, 0..1; with several labels per picture the mean,
            over the classes that some pictures have and others lack, of recall and the share of the others left alone.
            None where there is no such class.
        log_loss: mean of -log(probability of the label), natural logarithm; with several labels per picture the mean
            over pictures and classes.
        per_class: by class name, in class order.
        confusion: int64 (classes, classes), pictures by label (rows) and prediction (columns), both in class order;
            None with several labels per picture.
    """

    count: int
    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float | None
    log_loss: float
    per_class: dict[str, ClassMeasures]
    confusion: np.ndarray | None

    @property
    def class_names(self) -> list[str]:
        """In class order."""
        return list(self.per_class)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, lists and dictionaries, ready for JSON; None for what cannot be said."""
        return {
            "count": self.count,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_interval_95": list(self.accuracy_interval),
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "per_class": {name: dict(vars(one)) for name, one in self.per_class.items()},
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }

    def headline(self) -> str:
        """Accuracy with its interval and the pictures that it rests on, in one line."""
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}), "
            f"{self.correct:,} of {self.count:,} pictures"
        )

    def __str__(self) -> str:
        rows = [_HEADINGS, *self._rows()]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        return "\n".join([self.headline(), self._others(), *lines, *self._left_out()])

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for number, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="right" if number else "left")
        for row in self._rows():
            table.add_row(*map(Text, row))
        return Group(Text(self.headline(), style="bold"), Text(self._others()), table, *map(Text, self._left_out()))

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(row[0])}</td>"
            + "".join(f"<td>{cell}</td>" for cell in row[1:])
            + "</tr>"
            for row in self._rows()
        )
        below = "".join(f"<p>{line}</p>" for line in self._left_out())
        return f"<p><b>{self.headline()}</b><br>{self._others()}</p><table><tr>{heads}</tr>{rows}</table>{below}"

    def _others(self) -> str:
        return f"balanced accuracy {_share(self.balanced_accuracy)}, log loss {self.log_loss:.3f}"

    def _rows(self) -> list[tuple[str, ...]]:
        """The classes in class order; of many only those that are recognised worst."""
        shown = set(self.per_class)
        if len(shown) > _MOST_ROWS:
            recalls = {name: 2.0 if one.recall is None else one.recall for name, one in self.per_class.items()}
            shown = set(sorted(recalls, key=lambda name: recalls[name])[:_MOST_ROWS])
        return [
            (name, _share(one.recall), _share(one.precision), f"{one.support:,}", f"{one.predicted:,}")
            for name, one in self.per_class.items()
            if name in shown
        ]

    def _left_out(self) -> list[str]:
        more = len(self.per_class) - _MOST_ROWS
        return [f"the {_MOST_ROWS} classes with the lowest recall; {more} more are in per_class"] if more > 0 else []


_MOST_ROWS = 25
_HEADINGS = ("class", "recall", "precision", "pictures", "predicted")


def measure(table: pl.DataFrame) -> Measures:
    """Measure a table of predictions. The order of its rows makes no difference.

    Args:
        table: from `prediction_table`, every row with a label.

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
        'accuracy 0.500 (95 % interval 0.095 to 0.905), 1 of 2 pictures'
    """
    if not len(table):
        raise DataError("there is nothing to measure: the table of predictions has no rows")
    unlabelled = table["label"].null_count()
    if unlabelled:
        raise InputError(f"{unlabelled} of {len(table)} pictures have no label: leave them out to measure the others")
    # Sorted, so that sums round in the same way whatever the order of the rows.
    table = table.sort("path", "hash", *(name for name in table.columns if name not in {"path", "hash"}))
    names = class_names_of(table)
    probabilities = probabilities_of(table).astype(np.float64)
    if has_several_labels(table):
        return _measure_several(_indicator(table["label"].to_list(), names), probabilities, names)
    number = {name: column for column, name in enumerate(names)}
    labels = np.array([number[label] for label in table["label"]])
    return _measure_one(labels, probabilities, names)


def wilson_interval(correct: int, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Interval that holds the true share with the given confidence (Wilson 1927); sound for few pictures too.

    Args:
        correct: how many of them.
        count: of how many; at least 1.
        level: the confidence, between 0 and 1.

    Example:
        >>> from greffon.evaluation.measures import wilson_interval
        >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    if not 0 <= correct <= count or not count:
        raise InputError(f"correct must be in 0..count and count at least 1, got {correct} of {count}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / count
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    width = 1 + z**2 / count
    return max(0.0, (middle - half) / width), min(1.0, (middle + half) / width)


def _measure_one(labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> Measures:
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    per_class = {
        name: _class_measures(int(confusion[n].sum()), int(confusion[:, n].sum()), int(confusion[n, n]))
        for n, name in enumerate(names)
    }
    recalls = [one.recall for one in per_class.values() if one.recall is not None]
    total = probabilities.sum(axis=1)
    of_label = probabilities[np.arange(len(labels)), labels] / np.where(total > 0, total, 1.0)
    correct = int((labels == predicted).sum())
    return Measures(
        count=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        accuracy_interval=wilson_interval(correct, len(labels)),
        balanced_accuracy=_mean(recalls),
        log_loss=float(-np.log(of_label.clip(SMALLEST, 1.0)).mean()),
        per_class=per_class,
        confusion=confusion,
    )


def _measure_several(has: np.ndarray, probabilities: np.ndarray, names: list[str]) -> Measures:
    called = probabilities >= THRESHOLD
    hits, support, predicted = (has & called).sum(axis=0), has.sum(axis=0), called.sum(axis=0)
    per_class = {
        name: _class_measures(int(support[n]), int(predicted[n]), int(hits[n])) for n, name in enumerate(names)
    }
    left_alone = (~has & ~called).sum(axis=0)
    balanced = [
        (hits[n] / support[n] + left_alone[n] / (len(has) - support[n])) / 2
        for n in range(len(names))
        if 0 < support[n] < len(has)
    ]
    correct = int((has == called).all(axis=1).sum())
    right = np.where(has, probabilities, 1 - probabilities)
    return Measures(
        count=len(has),
        correct=correct,
        accuracy=correct / len(has),
        accuracy_interval=wilson_interval(correct, len(has)),
        balanced_accuracy=_mean(balanced),
        log_loss=float(-np.log(right.clip(SMALLEST, 1.0)).mean()),
        per_class=per_class,
        confusion=None,
    )


def _indicator(labels: list[list[str]], names: list[str]) -> np.ndarray:
    return np.array([[name in set(of_one) for name in names] for of_one in labels], bool)


def _class_measures(support: int, predicted: int, correct: int) -> ClassMeasures:
    return ClassMeasures(
        recall=correct / support if support else None,
        precision=correct / predicted if predicted else None,
        support=support,
        predicted=predicted,
        correct=correct,
    )


def _mean(values: list[Any]) -> float | None:
    return float(sum(values) / len(values)) if values else None


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
