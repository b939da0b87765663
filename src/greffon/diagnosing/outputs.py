"""What the run's answers are like: classes in another order, one class for everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.diagnosing.compare import Change, compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import DataError
from greffon.pictures.layout import natural_order

if TYPE_CHECKING:
    from greffon.diagnosing.subject import Subject

    Array = np.ndarray[Any, Any]

ORDER, ONE_CLASS = "class order", "one class predicted"
_SWEPT = 0.3  # share of the answers that one class must have beyond its share of the labels
_STEPS, _STEP = 200, 0.5
_ANSWERS_FEW = 8
_AS_GOOD = 0.8  # of a solved head's accuracy: what an untrained head says fits some other order a little better, too


def try_class_order(subject: Subject) -> Finding:
    """Whether the outputs fit the classes better in another order.

    The order is found on one half of the held-out pictures and measured on the other: of many orders one always fits
    the pictures that it was chosen by.
    """
    reason = _why_not(subject)
    if reason:
        return not_tested(ORDER, reason)
    said_to_be = subject.network.answers[subject.val].argmax(axis=1)
    labels = subject.targets[subject.val].argmax(axis=1)
    count = len(subject.class_names)
    reordered = np.zeros(len(labels))
    for half in (0, 1):
        learn, measure = _halves(labels) != half, _halves(labels) == half
        order = _best_order(said_to_be[learn], labels[learn], count)
        reordered[measure] = order[said_to_be[measure]] == labels[measure]
    change = compared(said_to_be == labels, reordered)
    said = (
        f"with the outputs in the order that fits best, {change.without:.3f} of {len(labels)} held-out pictures are "
        f"right, {change.now:.3f} as they are."
    )
    if not change.helps or change.without < _AS_GOOD * _reachable(subject):
        return Finding(ORDER, "not found", said, change)
    order = _best_order(said_to_be, labels, count)
    names = subject.class_names
    moved = {names[place]: names[to] for place, to in enumerate(order) if place != to}
    which = _known_order(order, names)
    advice = (
        f"The outputs are in another order than the classes{which}: "
        f"{', '.join(f'what is called {one!r} is {other!r}' for one, other in list(moved.items())[:5])}. Take the "
        "names from classes.json of the training, never from a list of folders."
    )
    return Finding(ORDER, "found", said, change, advice, details={"order": [int(place) for place in order]})


def try_one_class(subject: Subject) -> Finding:
    """Whether one class is said for nearly everything, and what another bias of the last layer would make of it."""
    reason = _why_not(subject)
    if reason:
        return not_tested(ONE_CLASS, reason)
    answers, targets = subject.network.answers[subject.val], subject.targets[subject.val]
    shares = np.bincount(answers.argmax(axis=1), minlength=answers.shape[1]) / len(answers)
    largest = int(shares.argmax())
    of_labels = float(targets[:, largest].mean())
    change = _with_other_bias(subject, answers, targets)
    said = (
        f"{subject.class_names[largest]!r} is {shares[largest]:.0%} of the answers and {of_labels:.0%} of the labels; "
        f"with one more number for each class, fitted on other pictures, {change.without:.3f} are right, "
        f"{change.now:.3f} as they are."
    )
    details = {"class": subject.class_names[largest], "share": float(shares[largest]), "of_labels": of_labels}
    if shares[largest] - of_labels < _SWEPT or not change.helps:
        return Finding(ONE_CLASS, "not found", said, change, details=details)
    advice = "Solve the head (stage probe, --optimizer lbfgs), or train it with --sampling balanced."
    return Finding(ONE_CLASS, "found", said, change, advice, details=details)


def _why_not(subject: Subject) -> str:
    if subject.several:
        return "pictures may have several labels"
    if not subject.labels_tell:
        return "the labels tell nothing"
    return f"only {len(subject.val)} pictures were held out" if len(subject.val) < _ANSWERS_FEW else ""


def _reachable(subject: Subject) -> float:
    """Accuracy of a solved head on the same pictures; 0 where none can be had."""
    try:
        return float(subject.rightness(subject.small_head, subject.targets[subject.val]).mean())
    except DataError:
        return 0.0


def _best_order(said_to_be: Array, labels: Array, count: int) -> Array:
    """For each output the class that it stands for, so that most pictures are right (the Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((count, count))
    np.add.at(confusion, (said_to_be, labels), 1)
    confusion[np.arange(count), np.arange(count)] += 0.5  # where nothing speaks for another place, it stays
    return np.asarray(linear_sum_assignment(-confusion)[1])


def _halves(labels: Array) -> Array:
    """0 or 1 (n,): a half of every class."""
    half = np.zeros(len(labels), int)
    random = np.random.default_rng(0)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        half[rows] = (np.arange(len(rows)) + label) % 2
    return half


def _known_order(order: Array, names: tuple[str, ...]) -> str:
    """Which well-known mistake it is."""
    as_text, natural = sorted(names), natural_order(names)
    if as_text == natural:
        return ""
    for listed, right, told in ((as_text, natural, "alphabetical"), (natural, as_text, "natural")):
        if list(names) == right and [names[place] for place in order] == listed:
            return f" ({told} order)"
    return ""


def _with_other_bias(subject: Subject, answers: Array, targets: Array) -> Change:
    """The same outputs with a bias for each class, fitted on one half and measured on the other."""
    logits = np.log(np.clip(answers.astype(np.float64), 1e-30, None))
    halves = _halves(targets.argmax(axis=1))
    after = np.zeros(len(answers))
    for half in (0, 1):
        learn, measure = halves != half, halves == half
        bias = _fitted_bias(logits[learn], targets[learn])
        after[measure] = subject.rightness(logits[measure] + bias, targets[measure])
    return compared(subject.rightness(answers, targets), after)


def _fitted_bias(logits: Array, targets: Array) -> Array:
    """The bias with the least log loss: as many answers of each class as labels, in the sum of probabilities."""
    bias = np.zeros(logits.shape[1])
    wanted = targets.mean(axis=0) + 1e-6
    for _ in range(_STEPS):
        raised = np.exp(logits + bias - (logits + bias).max(axis=1, keepdims=True))
        shares = (raised / raised.sum(axis=1, keepdims=True)).mean(axis=0) + 1e-6
        bias += _STEP * (np.log(wanted) - np.log(shares))
    return bias - bias.mean()
