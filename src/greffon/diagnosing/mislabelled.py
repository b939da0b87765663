"""Label noise: how many labels are wrong, and what a head is without them.

That labels are contradicted says little where classes are hard to tell apart. But of the answers that are the surest
of their class nearly all are right then, however hard the others are; where labels are wrong by chance, as many of
these are contradicted as of any others. So that share is the estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.checking.labels import crossable, held_out_probabilities, label_errors
from greffon.diagnosing.compare import compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import DataError
from greffon.evaluation.intervals import wilson_interval
from greffon.training.solved import picture_losses

if TYPE_CHECKING:
    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

CAUSE = "label noise"
_SUREST = 0.4  # share of each class's answers that are looked at
_LEAST = 0.03  # of wrong labels among these, with 97.5 % certainty
_AS_OFTEN = 0.75  # of the share of all answers: where classes are hard to tell apart, the surest are wrong less often
_SHOWN = 5
_FEWEST = 10  # pictures among the surest


def try_label_noise(subject: Subject) -> Finding:
    """How many labels are wrong, and how right a head is without those that probably are."""
    if subject.several:
        return not_tested(CAUSE, "pictures may have several labels")
    if not subject.labels_tell:
        return not_tested(CAUSE, "the labels tell nothing, right or wrong")
    rows = crossable(subject.targets, subject.groups)
    targets = subject.targets[rows]
    answers = _answers(subject, rows)
    if answers is None:
        return not_tested(CAUSE, "fewer than two classes have two pictures, so that nothing can be cross-validated")
    right = subject.rightness(answers, targets)
    surest = _surest(answers)
    if len(surest) < _FEWEST:
        return not_tested(CAUSE, f"{len(answers)} pictures are too few to estimate it")
    wrong = int((1 - right[surest]).sum())
    share = wrong / len(surest)
    interval = wilson_interval(wrong, len(surest))
    paths = [subject.frame["path"][int(row)] for row in rows]
    given = [[subject.class_names[place]] for place in targets.argmax(axis=1)]
    errors = label_errors(answers, given, subject.class_names, paths)
    details = {
        "estimated_share": share,
        "estimated_share_interval_95": list(interval),
        "likely_errors": len(errors),
        "examples": [f"{it.paths[0]} {it.sentence}" for it in errors[:_SHOWN]],
    }
    said = (
        f"of the {len(surest)} answers that are the surest of their class, by heads that had not seen the picture, "
        f"{share:.1%} (95 % interval {interval[0]:.1%} to {interval[1]:.1%}) contradict the label; {len(errors)} of "
        f"{len(answers)} labels are probably wrong"
    )
    if len(rows) < len(subject.targets):
        said += f"; {len(subject.targets) - len(rows)} pictures that are alone in their class are not judged"
    found = interval[0] > _LEAST and errors and share >= _AS_OFTEN * (1 - right.mean())
    doubted = {path for it in errors for path in it.paths}
    kept = np.array([path not in doubted for path in paths])
    change = _without(subject, rows, kept, right, answers) if found else None
    if not found:
        return Finding(CAUSE, "not found", f"{said}.", change, details=details)
    if change is not None:
        said += (
            f"; heads that learn without these are right in {change.without:.3f} of the others, {change.now:.3f} before"
        )
    look = f"{subject.check_command} -o checked"
    advice = f"Look at them ({look}), correct them, and train with --manifest checked/manifest.csv."
    return Finding(CAUSE, "found", f"{said}.", change, advice, details=details)


def _answers(subject: Subject, rows: Array) -> Array | None:
    """For these pictures the probabilities of heads that have not seen them; None where there are too few."""
    if (subject.targets[rows].sum(axis=0) > 0).sum() < 2:
        return None
    with subject.progress.bar("label errors", total=None):
        return held_out_probabilities(
            subject.features[rows], subject.targets[rows], groups=subject.groups[rows], repeats=2
        )


def _surest(answers: Array) -> Array:
    """Rows of the surest answers of each class: a class that is always confused with another has none that are sure."""
    called, confidence = answers.argmax(axis=1), answers.max(axis=1)
    parts = []
    for label in np.unique(called):
        rows = np.flatnonzero(called == label)
        parts.append(rows[np.argsort(-confidence[rows], kind="stable")][: int(_SUREST * len(rows))])
    return np.concatenate(parts)


def _without(subject: Subject, rows: Array, kept: Array, right: Array, answers: Array) -> Any:
    """All judged pictures, beside those whose labels are not doubted, by heads that learned without the doubted ones.

    The latter stand for all: the doubted ones would be named as well as the others if their labels were right.
    """
    some = rows[kept]
    try:
        named = subject.named(subject.features[some], subject.targets[some], some)
    except DataError:
        named = None
    if named is None:
        return None
    after = np.full(len(right), np.nan)
    after[kept] = subject.rightness(named, subject.targets[some])
    after[~kept] = np.nanmean(after)
    losses = (
        picture_losses(answers, subject.targets[rows], several_labels=False),
        picture_losses(named, subject.targets[some], several_labels=False),
    )
    return compared(right, after, groups=subject.groups[rows], losses=losses)
