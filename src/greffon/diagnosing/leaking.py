"""Leak: pictures that are held out although a copy of them was learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.diagnosing.compare import compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import DataError
from greffon.evaluation.folds import DECADES
from greffon.evaluation.probe import solve

if TYPE_CHECKING:
    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

CAUSE = "leak"
_LEAST = 0.02  # share of the held-out pictures that must have a copy among those to learn from
_MATTERS = 0.01  # accuracy that near-copies must pretend before they count; exact copies always do
_SHOWN = 3


def try_leak(subject: Subject) -> Finding:
    """How much worse a head is on the held-out pictures when their copies are not among those that it learns from."""
    groups, train, val = subject.groups, subject.train, subject.val
    torn = np.isin(groups[val], groups[train])
    count, share = int(torn.sum()), float(torn.mean())
    details: dict[str, Any] = {"held_out_with_copies": count, "share": share}
    if count < 2 or share < _LEAST:
        said = f"{count} of {len(val)} held-out pictures have a copy, near-copy or picture of their group in training."
        return Finding(CAUSE, "not found", said, details=details)
    apart = train[~np.isin(groups[train], groups[val])]
    details |= {"examples": _examples(subject, train, val[torn])}
    right = subject.right
    alone = f", {right[~torn].mean():.3f} on the others" if not torn.all() else ""
    said = (
        f"{count} of {len(val)} held-out pictures ({share:.0%}) have a copy, near-copy or picture of their group among "
        f"those that were learned from, such as {details['examples'][0]}. The run is right in "
        f"{right[torn].mean():.3f} of them{alone}."
    )
    advice = "The score is too good: split anew with --near-copies together, or give whole groups to one side."
    try:
        answers = [_answers(subject, rows) for rows in (train, apart)]
    except DataError:
        if torn.all():
            return not_tested(CAUSE, f"{said} Without these there are too few pictures to learn from")
        clean = np.where(torn, right[~torn].mean(), right)
        return Finding(CAUSE, "found", said, compared(right, clean, groups=groups[val]), advice, details=details)
    targets = subject.targets[val]
    before, after = (subject.rightness(it, targets) for it in answers)
    change = compared(before, after, groups=groups[val])
    exact = np.isin(subject.frame["hash"].to_numpy()[val], subject.frame["hash"].to_numpy()[train]).mean()
    details["share_of_exact_copies"] = float(exact)
    said += (
        f" A head solved on all of them is right in {change.now:.3f} of those held out, one without the copies in "
        f"{change.without:.3f}."
    )
    if exact < _LEAST and change.gain > -_MATTERS:
        return Finding(CAUSE, "not found", f"{said} It makes no difference.", change, details=details)
    return Finding(CAUSE, "found", said, change, advice, details=details)


def _answers(subject: Subject, rows: Array) -> Array:
    probe = solve(
        subject.features[rows], subject.targets[rows], several_labels=subject.several, strengths=DECADES,
        groups=subject.groups[rows],
    )  # fmt: skip
    return probe.probabilities(subject.features[subject.val])


def _examples(subject: Subject, train: Array, torn: Array) -> list[str]:
    from pathlib import PurePath

    paths = subject.frame["path"].to_list()
    first = dict(zip(subject.groups[train][::-1], train[::-1], strict=True))

    def name(row: int) -> str:
        return "/".join(PurePath(paths[row]).parts[-2:])

    return [f"{name(row)} = {name(first[subject.groups[row]])}" for row in torn[:_SHOWN]]
