"""The convex problem behind a solved head: its coordinates, its folds, and its path through penalties."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.evaluation.logistic import Columns, minimised
from greffon.frozen.hardware import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor

    Array = np.ndarray[Any, Any]

FLAT = 1e-6
"""Standard deviation, as a share of the largest, below which a feature says nothing."""

ROUGHLY = (5e-4, 3e-6)
"""When a solution is near enough to tell penalties apart (slope, gain of a step): held-out losses are right to 2e-4."""

CLOSELY = (1e-5, 1e-8)
"""The same for a head that answers: probabilities agree with the exact solution to 1e-3 and better."""

_FLATTEST = 1e-4  # curvature of a loss by its logit that is counted on, where all answers are sure
_AT_ONCE = 512  # pictures whose squares are in memory


@dataclass(frozen=True)
class Basis:
    """Standardised features in no more coordinates than there are pictures.

    The penalty sees lengths alone, so the solution lies in the span of the pictures: a rotation changes nothing.

    Its coordinates are the pictures' principal components: uncorrelated, so that the curvature of a problem is nearly
    that of each coordinate alone, by which `Problem` scales them.

    Attributes:
        mean: of each feature.
        scale: what each is divided by; infinite for one that says nothing.
        pictures: standardised features (n, d) of which the coordinates are sums; None where `turn` is of the features.
        turn: (n, coordinates), what of each picture goes into each coordinate; or (d, coordinates), of each feature.
    """

    mean: Array
    scale: Array
    pictures: Array | None
    turn: Array

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
        wide = features.shape[1] > len(features)
        values, vectors = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
        keep = values > 1e-9 * max(float(values[-1]), 1e-30)
        values, vectors = values[keep], vectors[:, keep]
        if not wide:
            return cls(mean, scale, None, vectors), standard @ vectors
        roots = np.sqrt(values)
        # The product of the features and their directions, without computing either: that is most of the work.
        return cls(mean, scale, standard, vectors / roots), vectors * roots

    @cached_property
    def directions(self) -> Array:
        """The coordinates' axes (d, coordinates) among the standardised features."""
        return self.turn if self.pictures is None else self.pictures.T @ self.turn

    def project(self, features: Array) -> Array:
        """Coordinates of other features (n, d)."""
        return ((features - self.mean) / self.scale) @ self.directions

    def spread(self, kernel: Array) -> Array:
        """Weights of the standardised features (d, classes) behind those of the coordinates."""
        turned = self.turn @ kernel
        return turned if self.pictures is None else self.pictures.T @ turned

    def unproject(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """The same function of the features as they were."""
        kernel = self.spread(kernel) / self.scale[:, None]
        return kernel.astype(np.float32), (bias - self.mean @ kernel).astype(np.float32)


@dataclass(frozen=True)
class Problem:
    """Coordinates and targets, solved for some of the pictures along a path of strengths.

    Attributes:
        features: float32 (n, d), uncorrelated as those of a `Basis` are; others are solved as well, in more steps.
        targets: 0 or 1 (n, classes).
        weights: float (n,), how much each picture counts.
        several_labels: one independent problem for each class.
    """

    features: Array
    targets: Array
    weights: Array
    several_labels: bool

    def path(
        self, rows: Array, strengths: Iterable[float], end: tuple[float, float] = ROUGHLY
    ) -> Iterator[tuple[Array, Array]]:
        """Kernel (d, classes) and bias (classes,) for each strength, each started from the one before.

        A strength is scikit-learn's C, and the solution is that of its `LogisticRegression`, in a third of its steps.

        Args:
            rows: of the pictures to learn from.
            strengths: best from small to large, so that each start is near.
            end: when a solution is near enough, `ROUGHLY` or `CLOSELY`.
        """
        columns = Columns.of(self.targets[rows], several_labels=self.several_labels)
        weights = self.weights[rows]
        task = _Task(columns, weights / weights.sum(), end)
        start = np.zeros((self.features.shape[1] + 1, len(columns.places)))
        for strength in strengths:
            if len(columns.places):
                # Taken anew each time: the paths of all folds are under way together.
                start = task.solved(self.features[rows], 1 / (strength * float(weights.sum())), start)
            yield columns.to_classes(start[:-1], start[-1])


@dataclass(frozen=True)
class _Task:
    columns: Columns
    shares: Array
    end: tuple[float, float]

    def solved(self, features: Array, penalty: float, start: Array) -> Array:
        """Weights and, in the last row, biases for one penalty."""
        scale = self._steepness(features, penalty, start)

        def value(moved: Array) -> tuple[float, Array]:
            moved = moved / scale
            losses, wrong = self._judged(features, moved)
            wrong = wrong * self.shares[:, None]
            # Scaled, as float32 knows no numbers below 1e-38.
            slope = (features.T @ (wrong * len(wrong)).astype(np.float32)).astype(np.float64) / len(wrong)
            slope = np.vstack([slope + penalty * moved[:-1], wrong.sum(axis=0)])
            return float(losses @ self.shares) + 0.5 * penalty * float(np.square(moved[:-1]).sum()), slope / scale

        close, least_gain = self.end
        return minimised(value, start * scale, close=close, least_gain=least_gain) / scale

    def _judged(self, features: Array, moved: Array) -> tuple[Array, Array]:
        """Losses, and by how much each probability is too large."""
        logits = (features @ moved[:-1].astype(np.float32)).astype(np.float64) + moved[-1]
        return self.columns.losses(logits)

    def _steepness(self, features: Array, penalty: float, start: Array) -> Array:
        """Root of the curvature along each weight: in coordinates divided by it, all directions are about as steep."""
        _, wrong = self._judged(features, start)
        chances = wrong + self.columns.labels
        curvature = chances * (1 - chances) * self.shares[:, None] * len(features)
        along = np.zeros(start[:-1].shape)
        for begin in range(0, len(features), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            along += np.square(features[part]).T @ curvature[part].astype(np.float32)
        of_bias = np.maximum(curvature.mean(axis=0), _FLATTEST)
        return np.sqrt(np.vstack([along / len(features) + penalty, of_bias]))


@contextmanager
def solving() -> Iterator[Executor]:
    """Threads that solve problems side by side, one thread in each product; for `Problem.path`.

    The products are small: threads that wait for each other within one cost ten times more than they gain, and what
    comes out would depend on how many there are.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(usable_cores()) as threads:
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
