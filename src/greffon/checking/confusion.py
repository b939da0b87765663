"""Classes that are hard to tell apart: which two a linear head takes for one another, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.checking.findings import Finding
from greffon.evaluation.intervals import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

HARD = 0.1
"""The share of two classes' pictures, at the lower end of its interval, above which they are hard to tell apart."""

_EXAMPLES = 6


def confusion(probabilities: Array, given: Array) -> Array:
    """How often each class was taken for each.

    Args:
        probabilities: float (n, classes), of heads that have not seen the picture.
        given: int (n,), the classes of the pictures.

    Returns:
        int (classes, classes): row: given, column: the most probable one.

    Example:
        >>> import numpy as np
        >>> from greffon.checking.confusion import confusion
        >>> confusion(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1])).tolist()
        [[1, 0], [1, 0]]
    """
    classes = probabilities.shape[1]
    flat = np.asarray(given) * classes + probabilities.argmax(axis=1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def hard_to_tell_apart(
    probabilities: Array, given: Array, class_names: Sequence[str], paths: Sequence[str], *, without: Sequence[str] = ()
) -> list[Finding]:
    """Pairs of classes that are taken for one another often, the worst first.

    Args:
        probabilities: float (n, classes), of heads that have not seen the picture.
        given: int (n,), the classes of the pictures.
        class_names: in the order of the probabilities.
        paths: of the pictures.
        without: paths of pictures whose label is doubtful, which say nothing of the classes.
    """
    doubtful = set(without)
    rows = np.array([row for row, path in enumerate(paths) if path not in doubtful], dtype=int)
    given, probabilities = np.asarray(given)[rows], probabilities[rows]
    answers, counts = probabilities.argmax(axis=1), confusion(probabilities, given)
    found = []
    for one in range(len(class_names)):
        for other in range(one + 1, len(class_names)):
            confused = int(counts[one, other] + counts[other, one])
            if not confused:
                continue
            # Only pictures that were taken for one of the two say something of these two.
            count = confused + int(counts[one, one] + counts[other, other])
            low, high = wilson_interval(confused, count)
            if low <= HARD:
                continue
            at = np.flatnonzero(((given == one) & (answers == other)) | ((given == other) & (answers == one)))
            at = at[np.argsort(probabilities[at, given[at]])][:_EXAMPLES]
            names = f"{class_names[one]} and {class_names[other]}"
            sentence = (
                f"{names} are hard to tell apart: a linear head takes {confused:,} of {count:,} for the other one "
                f"({confused / count:.0%}, 95 % interval {low:.0%} to {high:.0%}); {class_names[one]} for "
                f"{class_names[other]} {counts[one, other]:,} times, the other way round {counts[other, one]:,}"
            )
            examples = tuple(paths[rows[row]] for row in at)
            found.append(Finding("classes hard to tell apart", "look", sentence, score=low, examples=examples))
    return sorted(found, key=lambda each: -each.score)
