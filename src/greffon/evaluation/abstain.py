"""Answering only where it is sure: how many pictures that leaves, and how many of the answers are wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.evaluation.intervals import LEVEL, upper_bound, wilson_interval

if TYPE_CHECKING:
    from greffon.evaluation.scores import Answers

    Array = np.ndarray[Any, Any]

_LEAST_COVERAGE = 0.2  # a model that answers fewer is of no use, and trying fewer first would cost certainty
_STEPS = 25  # shares of the pictures at which a wanted error is tried


@dataclass(frozen=True)
class Selected:
    """What answering only the sure pictures means, on labelled pictures.

    Attributes:
        min_confidence: pictures below it are not answered, 0..1.
        count: pictures.
        answered: of these.
        wrong: of those that were answered.
        bound: 95 % upper bound of the share of wrong answers (Clopper and Pearson), 0..1; 1 where none is answered.
    """

    min_confidence: float
    count: int
    answered: int
    wrong: int
    bound: float

    @property
    def coverage(self) -> float:
        """Share of the pictures that is answered, 0..1."""
        return self.answered / self.count

    @property
    def error(self) -> float | None:
        """Share of the answers that is wrong, 0..1; None where there are none."""
        return self.wrong / self.answered if self.answered else None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        interval = wilson_interval(self.wrong, self.answered) if self.answered else None
        return {
            **vars(self),
            "coverage": self.coverage,
            "error": self.error,
            "error_interval_95": None if interval is None else list(interval),
        }

    def __str__(self) -> str:
        text = (
            f"with a confidence of at least {self.min_confidence:.3f}: {self.coverage:.1%} of the pictures are "
            f"answered ({self.answered:,} of {self.count:,})"
        )
        if not self.answered:
            return text
        return (
            f"{text}, {self.error:.1%} of the answers are wrong ({self.wrong:,}; 95 % sure: at most {self.bound:.1%})"
        )


def selected(answers: Answers, min_confidence: float) -> Selected:
    """What answering only from a confidence on means.

    Args:
        answers: of labelled pictures, at least one.
        min_confidence: 0..1. With one label per picture it is compared with the highest probability; with several
            with the least sure yes or no, `max(p, 1 - p)`.

    Raises:
        InputError: it is outside of 0..1.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.abstain import selected
        >>> from greffon.evaluation.scores import Answers
        >>> answers = Answers.of(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[1, 0], [0, 1]]))
        >>> found = selected(answers, 0.8)
        >>> found.coverage, found.error
        (0.5, 0.0)
    """
    checked_share("min_confidence", min_confidence)
    sure = answers.confidence >= min_confidence
    answered, wrong = int(sure.sum()), int((sure & ~answers.correct).sum())
    bound = upper_bound(wrong, answered) if answered else 1.0
    return Selected(float(min_confidence), len(sure), answered, wrong, bound)


def confidence_for(answers: Answers, max_error: float) -> Selected:
    """The lowest confidence from which on at most a wanted share of the answers is wrong, with 95 % certainty.

    Answers are tried from the surest on, a larger share of the pictures each time, until the 95 % upper bound of
    their errors is above what is wanted. Where to begin depends on how many pictures there are and on nothing else,
    and the first failure ends it, so that trying several shares costs no certainty (fixed-sequence testing;
    Angelopoulos et al. 2021, "Learn then Test").

    Args:
        answers: of labelled pictures that the model has not learned from.
        max_error: share of the answers that may be wrong, between 0 and 1.

    Raises:
        InputError: `max_error` is out of its range, there are too few pictures to be that sure, or even the surest
            answers are wrong more often.
    """
    checked_share("max_error", max_error)
    fewest = _fewest(max_error)
    count = len(answers.has)
    if count < fewest:
        needed = "no number of pictures shows that" if fewest == math.inf else f"it takes at least {fewest:,} pictures"
        raise InputError(
            f"an error of at most {max_error:g} cannot be promised from {count:,} labelled pictures: {needed}, even if "
            "all of them are named right"
        )
    confidence = np.sort(answers.confidence)[::-1]
    best = None
    for share in _shares(count, int(fewest), max_error):
        found = selected(answers, float(confidence[share - 1]))
        if found.bound > max_error:
            break
        best = found
    if best is None:
        raise InputError(
            f"an error of at most {max_error:g} cannot be promised: of the surest {found.answered:,} answers "
            f"{found.wrong:,} are wrong, so it may be up to {found.bound:.3g}"
        )
    return best


def risk_coverage(answers: Answers, points: int = 100) -> list[dict[str, float]]:
    """The risk-coverage curve: how many answers are wrong when only the surest share of the pictures is answered.

    Returns:
        At most `points` rows, from the surest on: coverage and error, 0..1, and the confidence where it ends. Pictures
        of equal confidence are answered together.
    """
    order = np.argsort(-answers.confidence, kind="stable")
    confidence, wrong = answers.confidence[order], np.cumsum(~answers.correct[order])
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(order) - 1)
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(int))]
    return [
        {
            "coverage": float((end + 1) / len(order)),
            "error": float(wrong[end] / (end + 1)),
            "confidence": float(confidence[end]),
        }
        for end in ends
    ]


def checked_share(name: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        InputError: it is outside of 0..1.
    """
    if not 0 <= value <= 1:
        hint = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        raise InputError(f"{name} must be in 0..1, got {value!r}{hint}")


def _fewest(max_error: float) -> float:
    """Pictures from which on an error of at most this can be shown, if all of them are named right."""
    if max_error in (0.0, 1.0):
        return 1 if max_error else math.inf
    return math.ceil(math.log(1 - LEVEL) / math.log1p(-max_error))


def _shares(count: int, fewest: int, max_error: float) -> list[int]:
    """How many of the surest pictures are tried, in order.

    The first is a fifth of them, or as many as may hold one mistake where that is more: of few pictures a single
    mistake would end it.
    """
    one_wrong = fewest
    while one_wrong < count and upper_bound(1, one_wrong) > max_error:
        one_wrong = min(count, math.ceil(one_wrong * 1.1))
    first = one_wrong if upper_bound(1, one_wrong) <= max_error else fewest
    first = max(first, math.ceil(count * _LEAST_COVERAGE))
    return sorted({*np.linspace(first, count, _STEPS).round().astype(int).tolist()})
