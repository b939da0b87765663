"""Labels that do not go with the pictures: shuffled, constant, or off by a row of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.diagnosing.compare import compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.pictures.layout import natural_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

CAUSE = "labels shuffled or constant"
SHIFTED = "labels off by some rows"
_PERMUTATIONS = 999
_CHANCE = 0.05  # share of permutations that may be as good before the labels are said to tell nothing
_CONSTANT = 0.995
_GOOD_ENOUGH = 0.97  # accuracy from which no other order of the labels can be much better
_SHIFTS = (1, -1, 2, -2)


def try_labels(subject: Subject) -> Finding:
    """Whether a head that is solved on the features knows more of the labels than chance does."""
    if not subject.several and (found := _constant(subject)):
        return found
    sides = {"learned from": subject.train, "held out": subject.val}
    tests = {name: _tested(subject, rows) for name, rows in sides.items()}
    whole = _tested(subject, np.arange(len(subject.frame)))
    if whole is None:
        return not_tested(CAUSE, "a class has fewer than two pictures, so that nothing can be cross-validated")
    accuracy, chance, value = whole
    details: dict[str, Any] = {"accuracy": accuracy, "chance": chance, "p": value}
    details |= {
        name: None if it is None else dict(zip(("accuracy", "chance", "p"), it, strict=True))
        for name, it in tests.items()
    }
    said = (
        f"a head cross-validated on all {len(subject.frame)} pictures is right in {accuracy:.3f}, chance in "
        f"{chance:.3f} (permutation test: p = {value:.3f})"
    )
    train, val = tests["learned from"], tests["held out"]
    if train is not None and train[2] > _CHANCE and (val is None or val[2] > _CHANCE) and value > _CHANCE:
        subject.labels_tell = False
        advice = "Look whether labels and pictures were brought together in the same order."
        said += ": the labels have nothing to do with what the network sees"
        return Finding(CAUSE, "found", f"{said}.", None, advice, decides=True, details=details)
    if train is not None and val is not None and train[2] > _CHANCE >= val[2]:
        subject.labels_tell = False
        said = (
            f"of the pictures to learn from a cross-validated head is right in {train[0]:.3f}, which chance is as well "
            f"(p = {train[2]:.3f}); of those held out in {val[0]:.3f} (p = {val[2]:.3f}): another matter"
        )
        return Finding(CAUSE, "found", f"{said}.", None, "Look at the labels of train/.", decides=True, details=details)
    return Finding(CAUSE, "not found", f"{said}.", details=details)


def try_shifts(subject: Subject) -> Finding:
    """Whether the labels fit better when the label column is moved, or turned around.

    Where they do, the subject's labels become those.
    """
    if subject.several:
        return not_tested(SHIFTED, "pictures may have several labels")
    now = subject.held_out
    if now is None:
        return not_tested(SHIFTED, "a class has fewer than two pictures, so that nothing can be cross-validated")
    right = subject.rightness(now, subject.targets)
    if right.mean() >= _GOOD_ENOUGH:
        return Finding(
            SHIFTED,
            "not found",
            f"as they are, a cross-validated head is right in {right.mean():.3f}.",
            details={"accuracy": float(right.mean())},
        )
    best, kept = None, None
    for what, targets in _moved(subject):
        answers = subject.named(subject.features, targets)
        if answers is None:
            continue
        change = compared(right, subject.rightness(answers, targets))
        if best is None or change.gain > best[1].gain:
            best, kept = (what, change), targets
    if best is None or kept is None:
        return not_tested(SHIFTED, "moved labels cannot be cross-validated")
    what, change = best
    said = f"a cross-validated head is right in {change.now:.3f} as the labels are, in {change.without:.3f} {what}"
    if not change.helps:
        return Finding(SHIFTED, "not found", f"{said}, the best of several orders.", change)
    subject.targets, subject.labels_tell, subject.labels_moved = kept, True, True
    advice = "The label column and the pictures are not in the same order: put them right and train again."
    return Finding(SHIFTED, "found", f"{said}.", change, advice, details={"order": what})


def _constant(subject: Subject) -> Finding | None:
    labels = subject.bundle.split.filter(pl.col("split") == "train")["label"]
    counts = labels.value_counts(sort=True)
    share = counts["count"][0] / len(labels)
    if share < _CONSTANT and len(counts) > 1:
        return None
    subject.labels_tell = False
    said = f"{share:.1%} of the {len(labels):,} pictures to learn from are labelled {counts['label'][0]!r}."
    advice = "There is nothing to tell apart: look at the label column and at the folders."
    return Finding(CAUSE, "found", said, None, advice, decides=True, details={"share": share})


def _tested(subject: Subject, rows: Array) -> tuple[float, float, float] | None:
    """Accuracy of heads on pictures that they have not seen, that of chance, and the p-value of a permutation test.

    The answers stay, the labels are dealt out anew: answers that have nothing to do with the labels are as good then.
    """
    targets = subject.targets[rows]
    whole = len(rows) == len(subject.frame)
    answers = subject.held_out if whole else subject.named(subject.features[rows], targets, rows)
    if answers is None:
        return None
    found = float(subject.rightness(answers, targets).mean())
    random = np.random.default_rng(0)
    others = np.array(
        [subject.rightness(answers, targets[random.permutation(len(rows))]).mean() for _ in range(_PERMUTATIONS)]
    )
    return found, float(others.mean()), float((1 + (others >= found - 1e-12).sum()) / (1 + _PERMUTATIONS))


def _moved(subject: Subject) -> list[tuple[str, Array]]:
    """Other orders of the whole label column, for the pictures that are looked at."""
    labels = np.array([subject.class_names.index(label) for label in subject.bundle.split["label"].to_list()])
    paths = subject.bundle.split["path"].to_list()
    place = subject.frame["place"].to_numpy()
    eye = np.eye(len(subject.class_names), dtype=np.float32)
    orders = {f"moved by {shift:+d} row{'s' if abs(shift) > 1 else ''}": np.roll(labels, shift) for shift in _SHIFTS}
    orders["in reverse"] = labels[::-1]
    natural, as_text = _ranks(paths, natural_order(paths)), _ranks(paths, sorted(paths))
    if not np.array_equal(natural, as_text):
        # Labels were listed for files in one order (10 behind 9, or 10 behind 1), and given to them in the other.
        for name, given, listed in (("as text", natural, as_text), ("by number", as_text, natural)):
            orders[f"listed in the order of the names {name}"] = labels[np.argsort(given)][listed]
    return [(name, eye[moved[place]]) for name, moved in orders.items()]


def _ranks(paths: Sequence[str], ordered: Sequence[str]) -> Array:
    ranks = {path: rank for rank, path in enumerate(ordered)}
    return np.array([ranks[path] for path in paths])
