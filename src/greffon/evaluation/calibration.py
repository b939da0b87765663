"""Probabilities that mean what they say: temperature scaling, and the diagram that shows whether they do.

A network that was trained until it knows its pictures is surer than it is right. Dividing its logits by one number
mends most of that and changes no answer (Guo et al. 2017, "On Calibration of Modern Neural Networks"). The number is
the one with the least log loss on pictures that were not learned from; the loss is convex in its inverse.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.evaluation.scores import BINS, Answers, calibration_bins, calibration_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = np.ndarray[Any, Any]

FEWEST = 100
"""Validation pictures below which they alone do not say how sure answers may be."""

_SHARPEST, _SOFTEST = 0.1, 20.0  # temperatures that are looked at
_TINY = float(np.finfo(np.float32).tiny)
_STEPS = 60  # halvings of the range: more than a float64 can tell


@dataclass(frozen=True)
class Bin:
    """Answers that are about as sure as one another.

    Attributes:
        low: they are surer than this, 0..1.
        high: and at most as sure as this.
        count: how many there are.
        said: their mean probability; None where there are none.
        true: share of them that is so; None likewise.
    """

    low: float
    high: float
    count: int
    said: float | None
    true: float | None


@dataclass(frozen=True)
class Calibration:
    """By what a model's logits are divided, and what that does; a run keeps it as `calibration.json`.

    Attributes:
        temperature: the logits are divided by it; above 1 answers become less sure, 1 leaves them as they are.
        fitted_on: `validation`, `out-of-fold` (the training pictures, each named by a head that has not seen it), or
            `nothing`.
        count: pictures that it was fitted on.
        reason: why it is 1, or why it was not fitted on the validation pictures; "" where nothing is to be said.
        several_labels: whether every class has a probability of its own.
        log_loss_before: on the validation pictures, in nats; None where there are none.
        log_loss_after: likewise, with the temperature; never above the one before.
        ece_before: expected calibration error on the validation pictures, 0..1; None where there are none.
        ece_after: likewise, with the temperature. Fitted on the same pictures, which flatters it a little.
        bins_before: the reliability diagram of the validation pictures.
        bins_after: likewise, with the temperature.
    """

    temperature: float = 1.0
    fitted_on: str = "nothing"
    count: int = 0
    reason: str = ""
    several_labels: bool = False
    log_loss_before: float | None = None
    log_loss_after: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None
    bins_before: tuple[Bin, ...] = field(default=(), repr=False)
    bins_after: tuple[Bin, ...] = field(default=(), repr=False)

    def apply(self, probabilities: Array) -> Array:
        """Probabilities with the logits behind them divided by the temperature.

        Args:
            probabilities: floats (n, classes) in 0..1; a row may be NaN, and stays so.

        Returns:
            float32 (n, classes); the order of the classes of a picture stays.

        Example:
            >>> import numpy as np
            >>> from greffon.evaluation.calibration import Calibration
            >>> Calibration(temperature=2.0).apply(np.array([[0.9, 0.1]])).round(3).tolist()
            [[0.75, 0.25]]
        """
        values = np.asarray(probabilities)
        if self.temperature == 1.0:
            return values.astype(np.float32)
        return tempered(values, self.temperature, several_labels=self.several_labels).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """What `to_dict` gave, read again.

        Raises:
            InputError: it is something else, or the temperature is no positive number.
        """
        try:
            bins = {name: tuple(Bin(**one) for one in values.get(name, ())) for name in ("bins_before", "bins_after")}
            found = cls(**{**values, **bins})
            if not (np.isfinite(found.temperature) and found.temperature > 0):
                raise ValueError(f"the temperature must be a positive number, got {found.temperature!r}")
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"this is no calibration of greffon: {error}") from None
        return found

    def __str__(self) -> str:
        if self.temperature == 1.0:
            text = "probabilities as the model gives them"
        else:
            where = "validation pictures" if self.fitted_on == "validation" else "training pictures, out of fold"
            text = f"temperature {self.temperature:.3f}, fitted on {self.count:,} {where}"
        if self.ece_before is not None and self.log_loss_before is not None:
            text += f"; on validation ECE {self.ece_before:.3f}"
            if self.temperature != 1.0:
                text += f" -> {self.ece_after:.3f}, log loss {self.log_loss_before:.3f} -> {self.log_loss_after:.3f}"
        return f"{text} ({self.reason})" if self.reason else text


def calibrate(
    probabilities: Array,
    targets: Array,
    *,
    several_labels: bool = False,
    out_of_fold: tuple[Array, Array] | None = None,
    fewest: int = FEWEST,
) -> Calibration:
    """Find the temperature of a model.

    Args:
        probabilities: the model's answers for the validation pictures, floats (n, classes), 0..1.
        targets: 0 or 1, (n, classes).
        several_labels: whether a picture may have several labels.
        out_of_fold: where the model's head was solved (`greffon.evaluation.probe.solve`): the probabilities of its
            training pictures by heads that had not seen them (`Probe.held_out`), and their targets. Taken where
            there are fewer than `fewest` validation pictures. None where the model was trained further than that: a
            temperature of another head says nothing about this one.
        fewest: validation pictures from which on they are taken.

    Raises:
        InputError: shapes do not go together.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.calibration import calibrate
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[random.integers(0, 2, 400)]
        >>> logits = targets + random.normal(size=(400, 2))  # as sure as it should be
        >>> sure = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)  # three times as sure
        >>> 2 < calibrate(sure, targets).temperature < 4
        True
    """
    answers = Answers.of(probabilities, targets, several_labels=several_labels)
    count = len(answers.has)
    if count >= fewest:
        temperature, reason, where, used = *_fitted(answers), "validation", count
    elif out_of_fold is not None and len(out_of_fold[0]) >= fewest:
        other = Answers.of(*out_of_fold, several_labels=several_labels)
        temperature, reason, where, used = *_fitted(other), "out-of-fold", len(other.has)
        reason = reason or f"{count} validation pictures are fewer than {fewest}"
    else:
        known = max(count, 0 if out_of_fold is None else len(out_of_fold[0]))
        temperature, where, used = 1.0, "nothing", 0
        reason = f"{known} pictures that were not learned from are too few to say how sure it may be: {fewest} are"
        reason += " needed"
    if not count:
        return Calibration(temperature, where, used, reason, several_labels)
    after = _with_temperature(answers, temperature)
    if temperature != 1.0 and after.losses.mean() > answers.losses.mean():
        temperature, after = 1.0, answers
        reason = f"a temperature fitted on {used:,} pictures ({where}) made the validation loss no better"
    return Calibration(
        temperature,
        where if temperature != 1.0 else "nothing",
        used if temperature != 1.0 else 0,
        reason,
        several_labels,
        float(answers.losses.mean()),
        float(after.losses.mean()),
        calibration_error(answers),
        calibration_error(after),
        reliability(answers),
        reliability(after),
    )


def tempered(probabilities: Array, temperature: float, *, several_labels: bool = False) -> Array:
    """Softmax, or sigmoid with several labels, of the logits divided by a temperature: float64 (n, classes)."""
    logits = _logits(probabilities, several_labels=several_labels) / temperature
    if several_labels:
        return np.asarray(1 / (1 + np.exp(-logits)))
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def fit_temperature(probabilities: Array, targets: Array, *, several_labels: bool = False) -> float:
    """The temperature with the least log loss, between 0.1 and 20.

    Args:
        probabilities: floats (n, classes), 0..1, of at least one picture.
        targets: 0 or 1, (n, classes).
        several_labels: whether a picture may have several labels.
    """
    logits, targets = _logits(probabilities, several_labels=several_labels), np.asarray(targets, np.float64)

    def slope(inverse: float) -> float:
        """Of the loss over the inverse temperature; it never falls, as the loss is convex in that."""
        if several_labels:
            return float(((1 / (1 + np.exp(-inverse * logits)) - targets) * logits).mean())
        exponents = np.exp(inverse * (logits - logits.max(axis=1, keepdims=True)))
        expected = (exponents * logits).sum(axis=1) / exponents.sum(axis=1)
        return float((expected - (targets * logits).sum(axis=1)).mean())

    low, high = 1 / _SOFTEST, 1 / _SHARPEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def reliability(answers: Answers, bins: int = BINS) -> tuple[Bin, ...]:
    """The reliability diagram: what is said beside what is so, in bins of one width."""
    found = zip(*calibration_bins(answers, bins), strict=True)
    return tuple(
        Bin(n / bins, (n + 1) / bins, int(count), *((float(said), float(true)) if count else (None, None)))
        for n, (count, said, true) in enumerate(found)
    )


def _fitted(answers: Answers) -> tuple[float, str]:
    """The temperature, and why it is 1 where it has to be."""
    if answers.correct.all():
        # The loss would fall for ever as answers get surer; that they are all right says nothing of how sure.
        return 1.0, f"all of {len(answers.has):,} pictures are named right, which does not say how sure it may be"
    return fit_temperature(answers.probabilities, answers.has, several_labels=answers.several_labels), ""


def _with_temperature(answers: Answers, temperature: float) -> Answers:
    if temperature == 1.0:
        return answers
    values = tempered(answers.probabilities, temperature, several_labels=answers.several_labels)
    return Answers.of(values, answers.has, several_labels=answers.several_labels)


def _logits(probabilities: Array, *, several_labels: bool) -> Array:
    values = np.asarray(probabilities, np.float64)
    if several_labels:
        # float32 cannot be nearer to 1 than this.
        values = values.clip(_TINY, 1 - 2.0**-25)
        return np.asarray(np.log(values) - np.log1p(-values))
    return np.asarray(np.log(values.clip(_TINY, 1.0)))
