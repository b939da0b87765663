"""Likely label errors: pictures that a classifier, which has not seen them, is sure are something else.

The solved head gives every picture the probabilities of a head that has not learned from it. Averaged over several
partitions into folds these hang less on luck. From them confident learning (Northcutt et al. 2021, the library
cleanlab) estimates how many labels are wrong; the pictures with the least probable labels are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.checking.findings import Finding
from greffon.evaluation.probe import STRENGTHS, solve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = np.ndarray[Any, Any]

REPEATS = 5
"""Partitions into folds that probabilities are averaged over."""

MANY = 3000
"""Pictures above which 2 partitions and half of the penalties do: probabilities are steadier, and each costs more."""

CONTRADICTED, SURE = 0.1, 0.8
"""A label less probable than the one, where another class is more probable than the other, is told whatever the
estimate says. On the photographs (docs/data.md) that finds 81 in place of 80 % of the wrong labels, and 72 in place of
74 % of what is told are wrong."""

FEWEST = 5
"""Pictures of a class below which nothing is said of its labels: folds without it know nothing of it."""


def held_out_probabilities(
    features: Array,
    targets: Array,
    *,
    groups: Array | None = None,
    several_labels: bool = False,
    repeats: int | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Array | None:
    """For every picture the probabilities of heads that have not seen it, nor its copies.

    Args:
        features: floating point (n, d).
        targets: 0 or 1 (n, classes).
        groups: int (n,); pictures of one number are in one fold.
        several_labels: whether each class has a probability of its own.
        repeats: partitions into folds; by default 5, of many pictures 2.
        seed: of the folds.
        advance: called with 1 for each partition.

    Returns:
        float32 (n, classes); None where the pictures are too few for folds.

    Example:
        >>> import numpy as np
        >>> from greffon.checking.labels import held_out_probabilities
        >>> targets = np.eye(2)[np.arange(20) % 2]
        >>> held_out_probabilities(targets + 0.01, targets, repeats=1).argmax(axis=1)[:4].tolist()
        [0, 1, 0, 1]
    """
    many = len(features) > MANY
    repeats = repeats or (2 if many else REPEATS)
    options: dict[str, Any] = {"several_labels": several_labels, "groups": groups}
    first = solve(features, targets, seed=seed, strengths=STRENGTHS[::2] if many else STRENGTHS, **options)
    if first.held_out is None:
        return None
    total = first.held_out.astype(np.float64)
    for repeat in range(1, repeats):
        if advance is not None:
            advance(1)
        # The penalty is that of the first partition: choosing it is nearly all of the work.
        again = solve(features, targets, seed=seed + 1000 * repeat, strengths=[first.strength], **options)
        total += np.asarray(again.held_out)
    if advance is not None:
        advance(1)
    return (total / repeats).astype(np.float32)


def crossable(targets: Array, groups: Array | None = None) -> Array:
    """Rows of the pictures whose class can be cross-validated: there are two of it that are no copies of one another.

    Args:
        targets: 0 or 1 (n, classes), one 1 in each row.
        groups: int (n,); pictures of one number are copies or belong together.

    Example:
        >>> import numpy as np
        >>> from greffon.checking.labels import crossable
        >>> crossable(np.eye(3)[[0, 0, 1, 1, 2]], np.array([0, 1, 2, 2, 3])).tolist()
        [0, 1]
    """
    given = targets.argmax(axis=1)
    names = np.arange(len(given)) if groups is None else np.asarray(groups)
    parts = np.array([len(np.unique(names[given == label])) for label in range(targets.shape[1])])
    return np.flatnonzero(parts[given] > 1)


def label_errors(
    probabilities: Array,
    labels: Sequence[Sequence[str]],
    class_names: Sequence[str],
    paths: Sequence[str],
    *,
    several_labels: bool = False,
) -> list[Finding]:
    """Pictures whose label is probably wrong, the surest first.

    Args:
        probabilities: float (n, classes), of heads that have not seen the picture.
        labels: of each picture; one each unless `several_labels`.
        class_names: in the order of the probabilities.
        paths: of the pictures.
        several_labels: whether a picture may have several labels, or none.
    """
    place = {name: number for number, name in enumerate(class_names)}
    given = [sorted({place[name] for name in names}) for names in labels]
    if several_labels:
        rows, doubts = _several(probabilities, given)
    else:
        rows, doubts = _single(probabilities, np.array([numbers[0] for numbers in given], dtype=int))
    found = []
    for row, doubt in zip(rows, doubts, strict=True):
        sentence = _sentence(probabilities[row], given[row], class_names, several_labels=several_labels)
        found.append(Finding("likely label errors", "look", sentence, (paths[row],), score=float(doubt)))
    return sorted(found, key=lambda each: -each.score)


def _single(probabilities: Array, given: Array) -> tuple[Array, Array]:
    """Rows that are probably wrong, and how improbable their label is."""
    counts = np.bincount(given, minlength=probabilities.shape[1])
    enough = np.flatnonzero(counts >= FEWEST)
    usable = np.flatnonzero(np.isin(given, enough))
    if len(enough) < 2:
        return np.array([], int), np.array([])
    rows = usable[_issues(np.searchsorted(enough, given[usable]), probabilities[np.ix_(usable, enough)])]
    return rows, 1 - probabilities[rows, given[rows]]


def _several(probabilities: Array, given: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """The same where each class is a question of its own: has the picture this label, or not?"""
    has = np.zeros_like(probabilities, dtype=int)
    for row, numbers in enumerate(given):
        has[row, list(numbers)] = 1
    wrong = np.zeros(len(has), bool)
    for number in range(has.shape[1]):
        if FEWEST <= has[:, number].sum() <= len(has) - FEWEST:
            yes = probabilities[:, number]
            wrong |= _issues(has[:, number], np.stack([1 - yes, yes], axis=1))
    rows = np.flatnonzero(wrong)
    return rows, np.abs(has - probabilities).max(axis=1)[rows]


def _issues(given: Array, probabilities: Array) -> Array:
    """Which of the labels, 0 to classes - 1 with pictures of each, are probably wrong."""
    from cleanlab.filter import find_label_issues

    chosen = np.clip(probabilities.astype(np.float64), 1e-9, None)
    chosen /= chosen.sum(axis=1, keepdims=True)
    wrong = find_label_issues(given, chosen, filter_by="low_self_confidence", n_jobs=1)
    # The estimate is of how many; a label that is the most probable one all the same is none of them.
    wrong &= chosen.argmax(axis=1) != given
    # Where classes are easy, right labels are so sure that the estimate takes nothing else for sure, and sees no error.
    sure = chosen.max(axis=1) > SURE
    return np.asarray(wrong | (sure & (chosen[np.arange(len(chosen)), given] < CONTRADICTED)))


def _sentence(row: Array, given: Sequence[int], class_names: Sequence[str], *, several_labels: bool) -> str:
    if not several_labels:
        best = int(row.argmax())
        return (
            f"is labelled {class_names[given[0]]}, which a linear head that has not seen it gives {row[given[0]]:.0%}: "
            f"{class_names[best]} {row[best]:.0%}"
        )
    lacking = [number for number in np.argsort(-row) if row[number] > 0.5 and number not in given]
    doubtful = [number for number in given if row[number] < 0.5]
    parts = [f"{class_names[number]} is missing ({row[number]:.0%})" for number in lacking]
    parts += [f"{class_names[number]} is doubtful ({row[number]:.0%})" for number in doubtful]
    return f"has labels that a linear head that has not seen it would not give: {', '.join(parts)}"
