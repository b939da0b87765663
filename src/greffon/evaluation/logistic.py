"""Logistic regression as an optimiser sees it: the columns behind the classes, their losses, and steps of L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, Any]

ABSENT = -30.0
"""Logit of a class without a picture to learn from: a probability that rounds to nothing."""

_STEPS = 300
_REMEMBERED = 10  # steps from which the curvature is guessed


@dataclass(frozen=True)
class Columns:
    """What there is to solve for: a column for each class, or one for the difference of two.

    Attributes:
        labels: (n, columns), what each column should be, 0 or 1.
        softmax: whether the columns are one answer; else each is a yes or no.
        places: int (columns,), the classes of the columns.
        other: where there are two classes, of which the one column is the difference, the other one.
        full: float64 (classes,), bias of every class that has no column.
    """

    labels: Array
    softmax: bool
    places: Array
    other: int | None
    full: Array

    @classmethod
    def of(cls, targets: Array, *, several_labels: bool) -> Columns:
        """For targets 0 or 1 (n, classes); one 1 in each row unless `several_labels`."""
        count = targets.sum(axis=0)
        if several_labels:
            # Where there is nothing to tell apart: as sure as the number of pictures allows.
            full = np.log((count + 0.5) / (len(targets) - count + 0.5))
            places = np.flatnonzero((count > 0) & (count < len(targets)))
            return cls(targets[:, places], False, places, None, full)
        full, places = np.full(targets.shape[1], ABSENT), np.flatnonzero(count)
        if len(places) == 1:
            full[places] = 0.0
            return cls(targets[:, :0], True, places[:0], None, full)
        if len(places) > 2:
            return cls(targets[:, places], True, places, None, full)
        return cls(targets[:, places[1:]], False, places[1:], int(places[0]), full)

    def from_classes(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """Kernel (d, columns) and bias (columns,) of those of all classes."""
        if self.other is None:
            return kernel[:, self.places], bias[self.places]
        return kernel[:, self.places] - kernel[:, [self.other]], bias[self.places] - bias[[self.other]]

    def to_classes(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """Kernel (d, classes) and bias (classes,) of those of the columns."""
        whole, biases = np.zeros((len(kernel), len(self.full))), self.full.copy()
        share = 1 if self.other is None else 0.5
        whole[:, self.places], biases[self.places] = share * kernel, share * bias
        if self.other is not None:
            whole[:, self.other], biases[self.other] = -share * kernel[:, 0], -share * bias[0]
        return whole, biases

    def losses(self, logits: Array, part: slice = slice(None)) -> tuple[Array, Array]:
        """Loss of every picture (n,), and by how much each probability is too large (n, columns).

        Args:
            logits: float64 (n, columns).
            part: the pictures that these are.
        """
        labels = self.labels[part]
        if not self.softmax:
            losses = np.logaddexp(0, logits) - labels * logits
            return losses.sum(axis=1), 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - labels
        logits = logits - logits.max(axis=1, keepdims=True)
        exponents = np.exp(logits)
        sums = exponents.sum(axis=1)
        return np.log(sums) - (labels * logits).sum(axis=1), exponents / sums[:, None] - labels


def minimised(value: Callable[[Array], tuple[float, Array]], start: Array, *, close: float, least_gain: float) -> Array:
    """Where a smooth function is least, by L-BFGS.

    Coordinates in which it is about as steep in every direction take few steps.

    Args:
        value: gives the function and its slope, of the shape of `start`.
        start: where to begin.
        close: largest part of the slope at which it ends.
        least_gain: of a step, as a share of the function; less ends it.
    """
    from scipy.optimize import minimize

    def flat(moved: Array) -> tuple[float, Array]:
        found, slope = value(moved.reshape(start.shape))
        return found, slope.ravel()

    options = {"maxiter": _STEPS, "gtol": close, "ftol": least_gain, "maxcor": _REMEMBERED}
    return np.asarray(
        minimize(flat, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(start.shape)
    )
