"""Wrong preprocessing: the same pictures prepared in every other usual way, a head solved on the features of each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from greffon.diagnosing.compare import Change, compared, held_out
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import InputError
from greffon.training.solved import picture_losses
from greffon.weights.sets import PREPROCESSINGS, Preprocessing

if TYPE_CHECKING:
    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

CAUSE = "wrong preprocessing"
LOOKED_AT = 200
"""Pictures that are prepared in other ways: each way is a pass of the whole network."""

_TRIED = ("caffe", "torch", "tf", "none")
_CLEARER = 0.8  # log loss without the fault, as a share of what it is


def try_preprocessing(subject: Subject) -> Finding:
    """Whether another preprocessing gives features that tell the classes apart better.

    Where one does, the subject's features become those.
    """
    rows = _sample(subject)
    network = subject.start
    record = network.record
    now = _named(subject, subject.features[rows], rows)
    if now is None:
        return not_tested(CAUSE, "a class has fewer than two pictures, so that nothing can be cross-validated")
    answers: dict[str, tuple[Preprocessing, Array]] = {}
    try:
        for tried in _others(record):
            _try(subject, answers, tried, rows)
        turned = _turned(_best(subject, answers, rows, record), record)
        if turned is not None and not any(_same(turned, known) for known, _ in answers.values()):
            _try(subject, answers, turned, rows)
    except InputError as error:
        return not_tested(CAUSE, str(error))
    if not answers:
        return not_tested(CAUSE, "prepared in any other way, the features are not finite")
    best = _best(subject, answers, rows, record)
    change = _change(subject, now, answers[best.name][1], rows)
    tried_all = {name: _change(subject, now, it, rows).to_dict() for name, (_, it) in answers.items()}
    details = {"now": record.name, "tried": tried_all}
    wrong = change.helps and change.log_loss is not None and change.log_loss[1] < _CLEARER * change.log_loss[0]
    said = (
        f"a head solved on the features of {len(rows)} pictures, cross-validated: {change.now:.3f} prepared as "
        f"{record.name!r}, as in the run; {change.without:.3f} as {best.name!r}, the best of {len(answers)} other ways"
        f"{'' if wrong else ', which is not surely better'}."
    )
    if not wrong:
        return Finding(CAUSE, "not found", said, change, details=details)
    subject.features = network.features_as(best, np.arange(len(subject.frame)))
    return Finding(CAUSE, "found", said, change, _advice(best), details=details)


def _try(subject: Subject, answers: dict[str, tuple[Preprocessing, Array]], other: Preprocessing, rows: Array) -> None:
    found = _named(subject, subject.start.features_as(other, rows), rows)
    if found is not None:
        answers[other.name] = other, found


def _advice(best: Preprocessing) -> str:
    if best.name in _TRIED:
        return f"Train again with --preprocessing {best.name}."
    return (
        f"The channels seem to be in the other order than the weights were trained with ({best.channel_order}): give "
        "the weights a record that says so (greffon weights add)."
    )


def _sample(subject: Subject) -> Array:
    count = len(subject.frame)
    if count <= LOOKED_AT:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, LOOKED_AT, replace=False))


def _named(subject: Subject, features: Array, rows: Array) -> Array | None:
    if not np.isfinite(features).all():
        return None
    return held_out(features, subject.targets[rows], subject.groups[rows], several_labels=subject.several)


def _change(subject: Subject, before: Array, after: Array, rows: Array) -> Change:
    targets = subject.targets[rows]
    losses = [picture_losses(it, targets, several_labels=subject.several) for it in (before, after)]
    right = [subject.rightness(it, targets) for it in (before, after)]
    return compared(right[0], right[1], groups=subject.groups[rows], losses=(losses[0], losses[1]))


def _others(record: Preprocessing) -> list[Preprocessing]:
    """The usual ways that are other than the one of now, and that one with its channels turned around."""
    usual = [PREPROCESSINGS[name] for name in _TRIED]
    turned = _turned(record, record)
    return [it for it in [*usual, *([turned] if turned else [])] if not _same(it, record)]


def _turned(best: Preprocessing, record: Preprocessing) -> Preprocessing | None:
    """The same with the channels in the other order."""
    order: Literal["RGB", "BGR"] = "RGB" if best.channel_order == "BGR" else "BGR"
    turned = replace(best, name=f"{best.name}, {order}", channel_order=order)
    return None if _same(turned, record) else turned


def _same(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two records do the same but for a grey level or so."""
    if one.channel_order != other.channel_order:
        return False
    black, white = (
        [(value * it.scale - np.array(it.mean)) / np.array(it.std) for it in (one, other)] for value in (0.0, 255.0)
    )
    span = np.abs(white[0] - black[0]).max()
    return bool(max(np.abs(black[0] - black[1]).max(), np.abs(white[0] - white[1]).max()) < 0.02 * span)


def _best(
    subject: Subject, answers: dict[str, tuple[Preprocessing, Array]], rows: Array, record: Preprocessing
) -> Preprocessing:
    """The one with the least log loss on pictures that were held out."""
    if not answers:
        return record
    targets = subject.targets[rows]
    losses = {
        name: picture_losses(it, targets, several_labels=subject.several).mean() for name, (_, it) in answers.items()
    }
    return answers[min(losses, key=lambda name: float(losses[name]))][0]
