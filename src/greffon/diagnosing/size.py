"""Head too large: the small head on the same pictures, beside the run's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.diagnosing.compare import compared
from greffon.diagnosing.network import numbers_of
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import DataError
from greffon.training.solved import picture_losses

if TYPE_CHECKING:
    from greffon.diagnosing.subject import Subject

CAUSE = "head too large"
_LARGER = 3.0  # times the parameters of the small head
_LEARNED = 0.1  # accuracy by which the pictures that were learned from are named better than those held out


def try_head_size(subject: Subject) -> Finding:
    """Whether averaged features and a linear head that is solved on them do better than the run's head."""
    pictures = len(subject.bundle.split.filter(pl.col("split") == "train"))
    parameters = numbers_of(subject.network.model)
    small = (subject.features.shape[1] + 1) * len(subject.class_names)
    told = f"the head has {parameters:,} parameters for {pictures:,} pictures"
    details: dict[str, Any] = {"parameters": parameters, "small": small, "pictures": pictures}
    if parameters < _LARGER * small:
        return Finding(CAUSE, "not found", f"{told}, the smallest possible one {small:,}.", details=details)
    if not subject.labels_tell:
        return not_tested(CAUSE, "the labels tell nothing")
    try:
        answers = subject.small_head
    except DataError as error:
        return not_tested(CAUSE, str(error))
    targets = subject.targets[subject.val]
    ours = subject.network.answers
    learned = float(subject.rightness(ours[subject.train], subject.targets[subject.train]).mean())
    losses = tuple(picture_losses(it, targets, several_labels=subject.several) for it in (ours[subject.val], answers))
    change = compared(subject.right, subject.rightness(answers, targets), losses=(losses[0], losses[1]))
    details["accuracy_on_training_pictures"] = learned
    said = (
        f"{told}; it is right in {learned:.3f} of those and in {change.now:.3f} of the held-out ones. A head of "
        f"{small:,} parameters, solved on the averaged features of the same pictures: {change.without:.3f}."
    )
    if not change.helps or learned - change.now < _LEARNED:
        return Finding(CAUSE, "not found", said, change, details=details)
    pool = "avg" if subject.bundle.recipe.head.pool == "auto" else "avg (or auto)"
    advice = f"Train with --pool {pool}, --hidden 0 and a stage that solves the head (--optimizer lbfgs)."
    return Finding(CAUSE, "found", said, change, advice, details=details)
