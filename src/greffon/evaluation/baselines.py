"""What a result has to beat to be worth anything: the largest class, the most similar picture, a solved head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.evaluation.measures import measured
from greffon.evaluation.probe import solve
from greffon.evaluation.result import share
from greffon.evaluation.scores import Answers

if TYPE_CHECKING:
    from rich.table import Table

    from greffon.evaluation.measures import Measures
    from greffon.evaluation.probe import Probe

    Array = np.ndarray[Any, Any]

_CELLS = 20_000_000  # similarities that are in memory at once
LINEAR = "linear head"
"""What the solved head is called as a baseline; a stage that solves one is usually called `probe`."""

_KEYS = {LINEAR: "probe"}  # in JSON, for programs that read what was always written so
_HEADINGS = ("what", "accuracy", "95 % interval", "balanced accuracy", "log loss")


@dataclass(frozen=True)
class Baseline:
    """One baseline on the same pictures as the result.

    Attributes:
        name: `majority class`, `nearest neighbour` or `linear head`.
        accuracy: 0..1.
        interval: 95 % Wilson interval of the accuracy.
        balanced_accuracy: 0..1, or None where nothing can be said.
        log_loss: in nats; None where it gives no probabilities.
        count: pictures.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float | None
    log_loss: float | None
    count: int

    @classmethod
    def of(cls, name: str, measures: Measures, *, probabilities: bool = True) -> Baseline:
        """From measures, of any result; `probabilities` says whether its log loss means something."""
        loss = measures.log_loss if probabilities else None
        return cls(
            name, measures.accuracy, measures.accuracy_interval, measures.balanced_accuracy, loss, measures.count
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        values = dict(vars(self))
        values["accuracy_interval_95"] = list(values.pop("interval"))
        return values


@dataclass(frozen=True)
class Baselines:
    """Baselines beside one another.

    Attributes:
        rows: the baselines, weakest idea first.
    """

    rows: tuple[Baseline, ...]

    def to_dict(self) -> dict[str, Any]:
        """Each by its name, the linear head as `probe`; plain values, ready for JSON."""
        return {_KEYS.get(row.name, row.name): row.to_dict() for row in self.rows}

    def beside(self, name: str, measures: Measures) -> Baselines:
        """The same with a result as the last row."""
        return Baselines((*self.rows, Baseline.of(name, measures)))

    def __str__(self) -> str:
        cells = [_HEADINGS, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in cells
        )

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for number, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="right" if number else "left")
        for row in self._cells():
            table.add_row(*map(Text, row))
        return table

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.name,
                share(row.accuracy),
                f"{row.interval[0]:.3f} to {row.interval[1]:.3f}",
                share(row.balanced_accuracy),
                share(row.log_loss),
            )
            for row in self.rows
        ]


def baselines(
    train_features: Array,
    train_targets: Array,
    test_features: Array,
    test_targets: Array,
    *,
    several_labels: bool = False,
    probe: Probe | None = None,
    groups: Array | None = None,
    seed: int = 0,
) -> Baselines:
    """Majority class, nearest neighbour and solved head, learned from some pictures and measured on others.

    Args:
        train_features: floating point (n, d), finite.
        train_targets: 0 or 1 (n, classes).
        test_features: floating point (m, d), finite, m at least 1.
        test_targets: 0 or 1 (m, classes).
        several_labels: whether a picture may have several labels.
        probe: a head that was solved on the training pictures already; None: it is solved.
        groups: int (n,), near-copies among the training pictures; see `solve`.
        seed: of the folds that choose the linear head's penalty.

    Returns:
        Three rows; without the linear head where the training pictures are of one class.

    Raises:
        InputError: shapes do not go together, or a number is not finite.
        DataError: there are no pictures to learn from or to measure on.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.baselines import baselines
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(60) % 2]
        >>> features = random.normal(size=(60, 3)) + 4 * targets[:, :1]
        >>> found = baselines(features[:40], targets[:40], features[40:], targets[40:])
        >>> [row.name for row in found.rows]
        ['majority class', 'nearest neighbour', 'linear head']
    """
    train, test = _checked(train_features, train_targets), _checked(test_features, test_targets)
    if train[0].shape[1] != test[0].shape[1] or train[1].shape[1] != test[1].shape[1]:
        raise InputError(
            f"both sides must have the same features and classes, got {train[0].shape}, {train[1].shape} and "
            f"{test[0].shape}, {test[1].shape}"
        )
    rows = [
        majority(train[1], test[1], several_labels=several_labels),
        _measured("nearest neighbour", nearest(train[0], test[0], train[1]), test[1], several_labels, sure=False),
    ]
    if probe is None and (several_labels or (train[1].sum(axis=0) > 0).sum() > 1):
        probe = solve(train[0], train[1], several_labels=several_labels, groups=groups, seed=seed)
    if probe is not None:
        rows.append(_measured(LINEAR, probe.probabilities(test[0]), test[1], several_labels))
    return Baselines(tuple(rows))


def majority(train_targets: Array, test_targets: Array, *, several_labels: bool = False) -> Baseline:
    """The answer that looks at no picture: each class as probable as it is frequent among the training pictures.

    Args:
        train_targets: 0 or 1 (n, classes), n at least 1.
        test_targets: 0 or 1 (m, classes), m at least 1.
        several_labels: whether a picture may have several labels.
    """
    counts = np.asarray(train_targets, np.float64).sum(axis=0)
    # As if there were one more picture, half of it with the class, half without; or one more of each class.
    seen = len(train_targets)
    chances = (counts + 0.5) / (seen + 1) if several_labels else (counts + 1) / (counts.sum() + len(counts))
    if several_labels:
        chances = np.where(counts * 2 == seen, 0.5, chances)
    return _measured("majority class", np.tile(chances, (len(test_targets), 1)), test_targets, several_labels)


def nearest(train_features: Array, test_features: Array, train_targets: Array) -> Array:
    """The targets of the most similar training picture by the cosine of the features: (m, classes).

    Of equally similar ones the first is taken.
    """
    known, answers = _unit(train_features), []
    part = max(1, _CELLS // max(1, len(known)))
    for start in range(0, len(test_features), part):
        similar = _unit(test_features[start : start + part]) @ known.T
        answers.append(np.asarray(train_targets)[similar.argmax(axis=1)])
    return np.concatenate(answers)


def _unit(features: Array) -> Array:
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def _measured(name: str, probabilities: Array, targets: Array, several_labels: bool, *, sure: bool = True) -> Baseline:
    answers = Answers.of(probabilities, targets, several_labels=several_labels)
    names = [str(number) for number in range(answers.has.shape[1])]
    return Baseline.of(name, measured(answers, names, resamples=0), probabilities=sure)


def _checked(features: Array, targets: Array) -> tuple[Array, Array]:
    features, targets = np.asarray(features), np.asarray(targets)
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise InputError(
            f"features (n, d) and targets (n, classes) are expected, got {features.shape} and {targets.shape}"
        )
    if not len(features):
        raise DataError("baselines need pictures to learn from and pictures to be measured on")
    if not np.isfinite(features).all():
        raise InputError("features must be finite: some are NaN or infinite")
    return features, targets
