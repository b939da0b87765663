"""Class imbalance: a head that counts all classes alike, beside one that counts all pictures alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.diagnosing.compare import compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.evaluation.folds import DECADES
from greffon.evaluation.probe import solve
from greffon.training.balance import balanced_weights

if TYPE_CHECKING:
    import numpy as np

    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

CAUSE = "class imbalance"
_UNEVEN = 3.0  # times as many pictures in the largest class as in the smallest


def try_balance(subject: Subject) -> Finding:
    """Whether a head whose loss counts rare classes more is better in the mean over the classes."""
    if subject.several:
        return not_tested(CAUSE, "pictures may have several labels")
    if not subject.labels_tell:
        return not_tested(CAUSE, "the labels tell nothing")
    labels = subject.bundle.split.filter(pl.col("split") == "train")["label"]
    counts = {name: int((labels == name).sum()) for name in subject.class_names}
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    told = f"{counts[most]:,} pictures of {most!r} and {counts[least]:,} of {least!r} to learn from"
    details: dict[str, Any] = {"counts": counts}
    if counts[most] < _UNEVEN * counts[least]:
        return Finding(
            CAUSE, "not found", f"{told}: no class has {_UNEVEN:g} times as many as another.", details=details
        )
    balanced = balanced_weights(subject.targets)
    plain, even = (_named(subject, weights) for weights in (None, balanced))
    if plain is None or even is None:
        return not_tested(CAUSE, f"{told}; too few of these to be cross-validated")
    right = [subject.rightness(it, subject.targets) for it in (plain, even)]
    support = subject.targets.sum(axis=0)
    weights = 1.0 / support[subject.targets.argmax(axis=1)]
    change = compared(right[0], right[1], groups=subject.groups, weights=weights, measure="balanced accuracy")
    said = (
        f"{told}; heads cross-validated: balanced accuracy {change.now:.3f} where each picture counts alike, "
        f"{change.without:.3f} where each class does."
    )
    recipe = subject.bundle.recipe
    if not change.helps or recipe.class_weight == "balanced" or recipe.sampling == "balanced":
        return Finding(CAUSE, "not found", said, change, details=details)
    advice = "Train with --class-weight balanced, or give more pictures of the rare classes."
    return Finding(CAUSE, "found", said, change, advice, details=details)


def _named(subject: Subject, weights: Array | None) -> Array | None:
    # Each has the penalty that is best by its own count.
    found = solve(subject.features, subject.targets, groups=subject.groups, weights=weights, strengths=DECADES)
    return found.held_out
