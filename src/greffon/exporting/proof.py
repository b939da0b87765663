"""An export has to answer as the run does: probe pictures replayed through it, and what lower precision costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import CheckFailedError
from greffon.evaluation.table import THRESHOLD

if TYPE_CHECKING:
    from greffon.exporting.formats import Answer
    from greffon.exporting.pictures import Labelled

    Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4
"""By how much a probability may differ in float32."""

BATCHES = (1, 8)
"""The probe pictures are replayed in batches of these sizes."""

_BATCH = 32


@dataclass(frozen=True)
class Proof:
    """How an export answered the probe pictures.

    Attributes:
        probes: how many there are.
        batches: in batches of which sizes they were replayed.
        difference: the largest difference of a probability from the run's own.
        changed: how many have another label, in the worst of the replays.
    """

    probes: int
    batches: tuple[int, ...]
    difference: float
    changed: int

    def __str__(self) -> str:
        labels = "the same labels" if not self.changed else f"another label for {self.changed}"
        sizes = " and ".join(map(str, self.batches))
        return (
            f"{self.probes} probe pictures in batches of {sizes}: probabilities differ by at most "
            f"{self.difference:.1e}, {labels}"
        )


@dataclass(frozen=True)
class Drop:
    """What lower precision costs.

    Attributes:
        measured_on: `validation`, or `probes` where the validation pictures cannot be read any more.
        pictures: how many.
        before: share of them that the run names right, 0..1; on probes, whose labels are the run's own, 1.
        after: likewise, the export.
        changed: how many have another label than the run gives them.
    """

    measured_on: str
    pictures: int
    before: float
    after: float
    changed: int

    @property
    def drop(self) -> float:
        """What is lost of the share; below zero where something was gained."""
        return self.before - self.after

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "drop": self.drop}

    def __str__(self) -> str:
        if self.measured_on == "probes":
            return (
                f"{self.changed} of {self.pictures} probe pictures have another label (no validation picture is there)"
            )
        return (
            f"accuracy on {self.pictures:,} validation pictures {self.before:.4f} -> {self.after:.4f} "
            f"(drop {self.drop:.4f}), {self.changed} with another label"
        )


def replay(answer: Answer, probes: Array, expected: Array, *, several_labels: bool) -> Proof:
    """Let an export answer the probe pictures, at two batch sizes.

    Args:
        answer: the export, opened.
        probes: uint8 (n, size, size, 3).
        expected: the run's own answers, (n, classes).
        several_labels: whether a label is every class of at least 0.5, or else the one with the most.

    Raises:
        CheckFailedError: it fails, or gives something else than finite probabilities.

    Example:
        >>> import numpy as np
        >>> from greffon.exporting.proof import replay
        >>> pictures, answers = np.zeros((8, 4, 4, 3), np.uint8), np.full((8, 2), 0.5, np.float32)
        >>> replay(lambda given: answers[: len(given)], pictures, answers, several_labels=False).difference
        0.0
    """
    worst, changed = 0.0, 0
    for size in BATCHES:
        given = answered(answer, probes, expected.shape[1], batch=size)
        worst = max(worst, float(np.abs(given.astype(np.float64) - expected).max()))
        changed = max(
            changed, int((labels(given, several_labels) != labels(expected, several_labels)).any(axis=1).sum())
        )
    return Proof(len(probes), BATCHES, worst, changed)


def check(proof: Proof) -> None:
    """Refuse what does not answer as the run does, in float32.

    Raises:
        CheckFailedError: a probability differs by more than 1e-4, or a label is another.
    """
    if proof.difference > TOLERANCE or proof.changed:
        raise CheckFailedError(
            f"the export does not answer as the run does: {proof}; {TOLERANCE:.0e} and no label are allowed. Nothing "
            "was written. Another version of the format's runtime may compute otherwise"
        )


def measure_drop(
    answer: Answer, labelled: Labelled | None, proof: Proof, *, several_labels: bool, classes: int
) -> Drop:
    """What an export gets wrong that the run gets right.

    Args:
        answer: the export, opened.
        labelled: the validation pictures that can be read, with the run's answers; None where there is none.
        proof: of the probes, which stand in for them.
        several_labels: as in `replay`.
        classes: how many there are.
    """
    if labelled is None:
        return Drop("probes", proof.probes, 1.0, 1 - proof.changed / proof.probes, proof.changed)
    count, right, was_right, changed = 0, 0, 0, 0
    for pixels, has, expected in labelled.batches(_BATCH):
        ours = labels(answered(answer, pixels, classes, batch=_BATCH), several_labels)
        theirs = labels(expected, several_labels)
        count += len(pixels)
        right += int((ours == has).all(axis=1).sum())
        was_right += int((theirs == has).all(axis=1).sum())
        changed += int((ours != theirs).any(axis=1).sum())
    if not count:
        return measure_drop(answer, None, proof, several_labels=several_labels, classes=classes)
    return Drop("validation", count, was_right / count, right / count, changed)


def check_drop(drop: Drop, most: float) -> None:
    """Refuse an export that loses too much.

    Raises:
        CheckFailedError: the drop is above the bound.
    """
    if drop.drop > most:
        raise CheckFailedError(
            f"the export loses too much: {drop}; at most {most:g} is allowed (--max-drop). Nothing was written. Export "
            "it in a higher precision, or allow more"
        )


def answered(answer: Answer, pictures: Array, classes: int, *, batch: int) -> Array:
    """Answers batch by batch: float32 (n, classes).

    Raises:
        CheckFailedError: the runtime fails, or the answers are no finite numbers of that shape.
    """
    parts = []
    for start in range(0, len(pictures), batch):
        some = np.ascontiguousarray(pictures[start : start + batch])
        try:
            given = np.asarray(answer(some))
        except Exception as error:  # each runtime has its own kinds
            raise CheckFailedError(
                f"the export cannot be run on {len(some)} pictures: {' '.join(str(error).split())[:500]}"
            ) from error
        if given.shape != (len(some), classes) or not np.isfinite(given).all():
            what = f"an array {given.shape}" if given.shape != (len(some), classes) else "values that are not numbers"
            raise CheckFailedError(f"the export must give {classes} probabilities for each picture, it gave {what}")
        parts.append(given.astype(np.float32))
    return np.concatenate(parts)


def labels(probabilities: Array, several_labels: bool) -> Array:
    """Which classes are said to be there: bool (n, classes)."""
    if several_labels:
        return np.asarray(probabilities >= THRESHOLD)
    said = np.zeros(probabilities.shape, bool)
    said[np.arange(len(said)), probabilities.argmax(axis=1)] = True
    return said
