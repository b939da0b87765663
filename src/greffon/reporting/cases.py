"""Which pictures are worth a look: the mistakes it was surest of, and the answers it was least sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.evaluation.scores import Answers
from greffon.evaluation.table import class_names_of, has_several_labels, probabilities_of

if TYPE_CHECKING:
    import polars as pl

    Array = np.ndarray[Any, Any]

_SHOWN_SCORES = 3


@dataclass(frozen=True)
class Case:
    """One picture to look at.

    Attributes:
        path: as in the table; None where it has none.
        hash: of its content; None where nobody computed one.
        labels: the classes that it is.
        called: the classes that it was called.
        asked: numbers of the classes to explain: the one that was said, then, where that is wrong, the right one.
            With several labels per picture the one class that it is here for.
        scores: class names and probabilities, the highest first.
    """

    path: str | None
    hash: str | None
    labels: tuple[str, ...]
    called: tuple[str, ...]
    asked: tuple[int, ...]
    scores: tuple[tuple[str, float], ...]

    @property
    def is_right(self) -> bool:
        """Whether it was called what it is."""
        return set(self.labels) == set(self.called)


def worth_a_look(table: pl.DataFrame, *, most: int = 8) -> tuple[list[Case], list[Case]]:
    """Choose pictures from a table of predictions.

    Args:
        table: from `prediction_table`; rows without a label are passed over.
        most: of each kind.

    Returns:
        Mistakes, the surest first; and the least sure answers among all the others, the least sure first.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.table import prediction_table
        >>> from greffon.reporting.cases import worth_a_look
        >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
        >>> table = prediction_table(["a", "b", "c"], [None] * 3, ["dog", "cat", "cat"], p, ["cat", "dog"])
        >>> mistakes, unsure = worth_a_look(table)
        >>> [case.path for case in mistakes], [case.path for case in unsure]
        (['a'], ['b', 'c'])
    """
    table = table.filter(table["label"].is_not_null())
    if not len(table):
        return [], []
    answers = _answers(table)
    # How sure each wrong yes or no was; with one label per picture that is how probable the wrong class seemed.
    surest = answers.probabilities.max(axis=1)
    far = np.abs(answers.probabilities - answers.has) * (answers.called != answers.has)
    wrong = far.max(axis=1) if answers.several_labels else np.where(answers.correct, 0.0, surest)
    mistakes = [row for row in np.argsort(-wrong, kind="stable")[:most] if not answers.correct[row]]
    shown = set(mistakes)
    unsure = [row for row in np.argsort(answers.confidence, kind="stable") if row not in shown][:most]
    paths, hashes = table["path"].to_list(), table["hash"].to_list()
    names = class_names_of(table)

    def case(row: int, number: Array) -> Case:
        """Of a picture with several labels the class with the highest `number` is asked for."""
        asked = [int(number[row].argmax())]
        if not answers.several_labels:
            asked = [int(surest_class) for surest_class in np.flatnonzero(answers.called[row])]
            asked += [] if answers.correct[row] else [int(answers.has[row].argmax())]
        order = np.argsort(-answers.probabilities[row], kind="stable")[:_SHOWN_SCORES]
        return Case(
            paths[row],
            hashes[row],
            _named(names, answers.has[row]),
            _named(names, answers.called[row]),
            tuple(asked),
            tuple((names[n], float(answers.probabilities[row, n])) for n in order),
        )

    undecided = -np.abs(answers.probabilities - 0.5)
    return [case(int(row), far) for row in mistakes], [case(int(row), undecided) for row in unsure]


def _answers(table: pl.DataFrame) -> Answers:
    names, several = class_names_of(table), has_several_labels(table)
    labels = table["label"].to_list() if several else [[label] for label in table["label"]]
    has = np.array([[name in of_one for name in names] for of_one in labels], bool).reshape(len(table), len(names))
    return Answers.of(probabilities_of(table), has, several_labels=several)


def _named(names: list[str], which: Array) -> tuple[str, ...]:
    return tuple(names[n] for n in np.flatnonzero(which))
