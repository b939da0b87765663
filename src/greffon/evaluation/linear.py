"""The convex problem behind a solved head: its coordinates, its folds, and its path through penalties."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.frozen.hardware import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor

    Array = np.ndarray[Any, Any]

ABSENT = -30.0
"""Logit of a class without a picture to learn from: a probability that rounds to nothing."""

_STEPS = 300  # of L-BFGS
FLAT = 1e-6
"""Standard deviation, as a share of the largest, below which a feature says nothing."""


@dataclass(frozen=True)
class Basis:
    """Standardised features in no more coordinates than there are pictures.

    The penalty sees lengths alone, so the solution lies in the span of the pictures: a rotation changes nothing.

    Attributes:
        mean: of each feature.
        scale: what each is divided by; infinite for one that says nothing.
        pictures: standardised features (n, d) that span the coordinates; None where these are the features themselves.
        turn: (n, coordinates), what of each picture goes into each coordinate; None as well.
    """

    mean: Array
    scale: Array
    pictures: Array | None
    turn: Array | None

    @classmethod
    def of(cls, features: Array, lengths: Array | None = None) -> tuple[Basis, Array]:
        """Of floating point features (n, d), and the coordinates (n, at most d) that these have in it.

        Args:
            features: what is learned from.
            lengths: that standardised features get, (d,), at least 0, instead of 1.
        """
        mean = features.mean(axis=0, dtype=np.float64)
        scale = features.std(axis=0, dtype=np.float64)
        scale = np.where(scale > FLAT * max(float(scale.max(initial=0.0)), 1e-30), scale, np.inf)
        if lengths is not None:
            scale = np.divide(scale, lengths, out=np.full_like(scale, np.inf), where=lengths > 0)
        standard = (features - mean) / scale
        if features.shape[1] <= len(features):
            return cls(mean, scale, None, None), standard
        values, vectors = np.linalg.eigh(standard @ standard.T)
        keep = values > 1e-9 * max(float(values[-1]), 1e-30)
        roots, vectors = np.sqrt(values[keep]), vectors[:, keep]
        # The product of the features and their directions, without computing either: that is most of the work.
        return cls(mean, scale, standard, vectors / roots), vectors * roots

    @cached_property
    def directions(self) -> Array | None:
        """The coordinates' axes (d, coordinates) among the standardised features; None: those themselves."""
        if self.pictures is None or self.turn is None:
            return None
        return self.pictures.T @ self.turn

    def project(self, features: Array) -> Array:
        """Coordinates of other features (n, d)."""
        standard = (features - self.mean) / self.scale
        return standard if self.directions is None else standard @ self.directions

    def spread(self, kernel: Array) -> Array:
        """Weights of the standardised features (d, classes) behind those of the coordinates."""
        if self.pictures is None or self.turn is None:
            return kernel
        return self.pictures.T @ (self.turn @ kernel)

    def unproject(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """The same function of the features as they were."""
        kernel = self.spread(kernel) / self.scale[:, None]
        return kernel.astype(np.float32), (bias - self.mean @ kernel).astype(np.float32)


@dataclass(frozen=True)
class Problem:
    """Coordinates and targets, solved for some of the pictures along a path of strengths."""

    features: Array
    targets: Array
    weights: Array
    several_labels: bool

    def path(self, rows: Array, strengths: Iterable[float]) -> Iterable[tuple[Array, Array]]:
        """Kernel and bias (classes of all targets) for each strength, each started from the one before."""
        if self.several_labels:
            columns = [self._binary(rows, column, list(strengths)) for column in range(self.targets.shape[1])]
            for solved in zip(*columns, strict=True):
                yield np.stack([kernel for kernel, _ in solved], axis=1), np.array([bias for _, bias in solved])
            return
        labels = self.targets[rows].argmax(axis=1)
        present = np.unique(labels)
        for model in self._models(rows, labels, strengths):
            yield self._widened(model, present)

    def _models(self, rows: Array, labels: Array, strengths: Iterable[float]) -> Iterable[Any]:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(warm_start=True, max_iter=_STEPS, tol=1e-4)
        for strength in strengths:
            model.set_params(C=strength)
            model.fit(self.features[rows], labels, sample_weight=self.weights[rows])
            yield model

    def _widened(self, model: Any, present: Array) -> tuple[Array, Array]:
        """Coefficients for every class; of two classes scikit-learn gives one column, their difference."""
        classes = self.targets.shape[1]
        kernel = np.zeros((self.features.shape[1], classes))
        bias = np.full(classes, ABSENT)
        coefficients, intercepts = model.coef_.T, model.intercept_
        if len(present) == 2:
            coefficients = np.concatenate([-coefficients, coefficients], axis=1) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        kernel[:, present], bias[present] = coefficients, intercepts
        return kernel, bias

    def _binary(self, rows: Array, column: int, strengths: list[float]) -> list[tuple[Array, float]]:
        labels = self.targets[rows, column]
        if labels.min() == labels.max():
            # Nothing to tell apart: as sure as the number of pictures allows.
            odds = float(np.log((labels.sum() + 0.5) / (len(labels) - labels.sum() + 0.5)))
            return [(np.zeros(self.features.shape[1]), odds)] * len(strengths)
        return [(model.coef_[0].copy(), float(model.intercept_[0])) for model in self._models(rows, labels, strengths)]


@contextmanager
def solving() -> Iterator[Executor]:
    """Threads that solve problems side by side, one thread in each product; for `Problem.path`.

    The products are small: threads that wait for each other within one cost ten times more than they gain, and what
    comes out would depend on how many there are.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as threads:
        # Weak penalties on separable classes never end; the path stops where held-out pictures get worse. Here and not
        # around each problem, since filters belong to all threads together.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield threads


def fold_rows(
    targets: Array, folds: int, groups: Array | None, seed: int, *, several_labels: bool
) -> list[tuple[Array, Array]]:
    """Rows to learn from and rows held out; none where the pictures are too few."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if several_labels:
        alone = np.arange(len(targets))
        splits = _deal_groups(alone if groups is None else np.asarray(groups), folds, seed)
        # Where one group holds a label alone, its folds would ask a head that has never seen that label.
        known = targets.any(axis=0)
        if all((targets[train].any(axis=0) >= known).all() for train, _ in splits):
            return splits
        return _deal_groups(alone, folds, seed)
    labels = targets.argmax(axis=1)
    counts = np.unique(labels, return_counts=True)[1]
    if groups is not None and len(np.unique(groups)) < len(groups):
        parts = min(len(np.unique(np.asarray(groups)[labels == label])) for label in np.unique(labels))
        folds = min(folds, parts)
        if folds < 2:
            return []
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
    folds = min(folds, int(counts.min()))
    if folds < 2:
        return []
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))


def _deal_groups(groups: Array, folds: int, seed: int) -> list[tuple[Array, Array]]:
    names = np.unique(groups)
    folds = min(folds, len(names))
    if folds < 2:
        return []
    part = np.random.default_rng(seed).permutation(len(names)) % folds
    of = part[np.searchsorted(names, groups)]
    return [(np.flatnonzero(of != fold), np.flatnonzero(of == fold)) for fold in range(folds)]


def class_probabilities(logits: Array, *, several_labels: bool) -> Array:
    """float32 (n, classes): softmax of logits, or the sigmoid of each with several labels."""
    logits = np.asarray(logits, dtype=np.float64)
    if several_labels:
        return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def checked_features(features: Array, targets: Array, *, several_labels: bool) -> tuple[Array, Array]:
    """Both as float64 arrays.

    Raises:
        InputError: shapes do not go together, or a number is not finite.
        DataError: fewer than two classes have pictures.
    """
    features, targets = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise InputError(
            f"features (n, d) and targets (n, classes) are expected, got {features.shape} and {targets.shape}"
        )
    if not np.isfinite(features).all():
        raise InputError("features must be finite: some are NaN or infinite")
    if not several_labels and not (targets.sum(axis=1) == 1).all():
        raise InputError("targets must have one 1 in each row, or several_labels=True")
    if (targets.sum(axis=0) > 0).sum() < (1 if several_labels else 2):
        raise DataError("a head needs pictures of at least two classes to be solved")
    return features, targets


def sample(targets: Array, count: int, seed: int) -> Array:
    """Some pictures, ascending: of every class as large a share, at least two where there are so many."""
    if count >= len(targets):
        return np.arange(len(targets))
    order = np.random.default_rng(seed).permutation(len(targets))
    labels = np.where(targets[order].any(axis=1), targets[order].argmax(axis=1), -1)
    chosen = [order[labels == label] for label in np.unique(labels)]
    return np.sort(np.concatenate([some[: max(2, round(len(some) * count / len(targets)))] for some in chosen]))
