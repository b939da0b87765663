"""What was measured: the numbers of a table of predictions, as they print and as they go into JSON."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Group

    from greffon.evaluation.scores import Interval


@dataclass(frozen=True)
class ClassMeasures:
    """One class.

    Attributes:
        recall: share of its pictures that were recognised, 0..1; None where there is no picture of it.
        precision: share of the pictures called so that are it, 0..1; None where none was called so.
        support: pictures of it.
        predicted: pictures called so.
        correct: pictures of it that were called so.
        f1: harmonic mean of precision and recall, 0..1; None where there is no picture of it.
        average_precision: area under precision over recall, 0..1; None where there is no picture of it.
        recall_interval: 95 % Wilson interval of the recall, or None.
        precision_interval: 95 % Wilson interval of the precision, or None.
    """

    recall: float | None
    precision: float | None
    support: int
    predicted: int
    correct: int
    f1: float | None = None
    average_precision: float | None = None
    recall_interval: Interval = None
    precision_interval: Interval = None


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
        top_k: share of pictures whose label is among the k most probable classes, by k; of 2, 3 and 5 those that are
            fewer than the classes. Empty with several labels per picture.
        macro_f1: mean F1 over the classes that are there, 0..1; None where there are none.
        mean_average_precision: mean average precision over the classes that are there, 0..1; None likewise.
        brier: mean over pictures of the sum over classes of (probability - truth)^2, 0..2 (Brier 1950; halve it for
            the number that is usual with two classes); with several labels the mean over pictures and classes, 0..1.
        ece: expected calibration error, 0..1, in 15 bins of one width.
        intervals: 95 % intervals by the name of the number: `accuracy` and `top_K` by Wilson's formula,
            `balanced_accuracy` by Wilson's for each class, put together; others, and with several labels
            `balanced_accuracy`, by a bootstrap over the pictures. None where there is none.
    """

    count: int
    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float | None
    log_loss: float
    per_class: dict[str, ClassMeasures]
    confusion: np.ndarray | None
    top_k: dict[int, float] = field(default_factory=dict)
    macro_f1: float | None = None
    mean_average_precision: float | None = None
    brier: float | None = None
    ece: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)

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
            "top_k": {str(k): share for k, share in self.top_k.items()},
            "macro_f1": self.macro_f1,
            "mean_average_precision": self.mean_average_precision,
            "brier": self.brier,
            "ece": self.ece,
            "intervals_95": {name: _listed(interval) for name, interval in self.intervals.items()},
            "per_class": {name: _plain(one) for name, one in self.per_class.items()},
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }

    def headline(self) -> str:
        """Accuracy with its interval, balanced accuracy, and the pictures that they rest on, in one line."""
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}), balanced accuracy "
            f"{share(self.balanced_accuracy)}{_range(self.intervals.get('balanced_accuracy'))}, "
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
        """The other numbers with their intervals, in one line."""
        numbers: list[tuple[str, str, float | None]] = [
            *((f"top {k}", f"top_{k}", value) for k, value in self.top_k.items()),
            ("macro F1", "macro_f1", self.macro_f1),
            ("mean average precision", "mean_average_precision", self.mean_average_precision),
            ("log loss", "log_loss", self.log_loss),
            ("Brier", "brier", self.brier),
            ("ECE", "ece", self.ece),
        ]
        return ", ".join(f"{what} {share(value)}{_range(self.intervals.get(key))}" for what, key, value in numbers)

    def _rows(self) -> list[tuple[str, ...]]:
        """The classes in class order; of many only those that are recognised worst."""
        shown = set(self.per_class)
        if len(shown) > _MOST_ROWS:
            recalls = {name: 2.0 if one.recall is None else one.recall for name, one in self.per_class.items()}
            shown = set(sorted(recalls, key=lambda name: recalls[name])[:_MOST_ROWS])
        return [
            (
                name,
                *map(share, (one.recall, one.precision, one.f1, one.average_precision)),
                f"{one.support:,}",
                f"{one.predicted:,}",
            )
            for name, one in self.per_class.items()
            if name in shown
        ]

    def _left_out(self) -> list[str]:
        more = len(self.per_class) - _MOST_ROWS
        return [f"the {_MOST_ROWS} classes with the lowest recall; {more} more are in per_class"] if more > 0 else []


_MOST_ROWS = 25
_HEADINGS = ("class", "recall", "precision", "F1", "AP", "pictures", "predicted")


def share(value: float | None) -> str:
    """A number as it is printed; a dash where it cannot be said."""
    return "-" if value is None else f"{value:.3f}"


def _plain(one: ClassMeasures) -> dict[str, Any]:
    intervals = {f"{name}_95": _listed(getattr(one, name)) for name in ("recall_interval", "precision_interval")}
    return {name: value for name, value in vars(one).items() if not name.endswith("_interval")} | intervals


def _listed(interval: Interval) -> list[float] | None:
    return None if interval is None else list(interval)


def _range(interval: Interval) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
