"""The solved head for very many pictures: the same convex problem, features read in blocks and never held all at once.

Each step of L-BFGS reads all features once and adds up loss and gradient in float64. So that it takes few steps, it
starts from the solution for a sample of the pictures, on which the penalty is chosen too, and moves in coordinates in
which the problem is about as steep in every direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.evaluation.linear import FLAT, sample
from greffon.evaluation.logistic import Columns, minimised
from greffon.evaluation.probe import STRENGTHS, Probe, solve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Array = np.ndarray[Any, Any]
    Read = Callable[[Array], Array]
    """Gives floating point features (len(rows), d) of some pictures, by number."""

STREAMED_BYTES = 256 * 2**20
"""Features, as float32, from which on a training reads them in blocks: solving in memory takes six times as much."""

_BLOCK_BYTES = 32 * 2**20
_WIDEST_COVARIANCE = 4096  # features; their covariance takes 128 MiB, and as much again
_CLOSE = 1e-7  # of the gradient: probabilities then agree with the exact solution to about 1e-5


def solve_streamed(  # noqa: PLR0913  # all but two are options, by keyword only
    read: Read,
    targets: Array,
    *,
    several_labels: bool = False,
    strengths: Sequence[float] = STRENGTHS,
    groups: Array | None = None,
    weights: Array | None = None,
    seed: int = 0,
    sample_bytes: int = STREAMED_BYTES // 4,
    block_bytes: int = _BLOCK_BYTES,
) -> Probe:
    """Solve a linear head on features that do not fit into memory; see `greffon.evaluation.probe.solve`.

    Args:
        read: gives the features of some pictures, ascending numbers below len(targets); asked about a hundred times
            for all of them.
        targets: 0 or 1 (n, classes); one 1 in each row unless `several_labels`.
        several_labels: one independent problem for each class.
        strengths: penalties (scikit-learn's C) to choose from, on a sample.
        groups: int (n,); pictures with one number are in one fold, as near-copies have to be.
        weights: float (n,), how much each picture counts.
        seed: of sample and folds.
        sample_bytes: features of the sample, as float32.
        block_bytes: features that are read at once, as float32.

    Returns:
        The solution for all pictures. Its log loss is that of the sample's cross-validation, and there are no held-out
        answers.

    Raises:
        InputError: shapes do not go together, or a number is not finite.
        DataError: fewer than two classes have pictures.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.streamed import solve_streamed
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(400) % 2]
        >>> features = random.normal(size=(400, 3)) + 4 * targets[:, :1]
        >>> probe = solve_streamed(lambda rows: features[rows], targets, sample_bytes=1200, block_bytes=600)
        >>> float((probe.probabilities(features).argmax(1) == targets.argmax(1)).mean()) > 0.9
        True
    """
    targets = np.asarray(targets, np.float32)
    weights = np.ones(len(targets)) if weights is None else np.asarray(weights, float)
    blocks = _Blocks.of(read, len(targets), block_bytes)
    _check(targets, weights, several_labels=several_labels)
    mean, scale = _moments(blocks)
    rows = sample(targets, sample_bytes // (4 * blocks.width), seed)
    start = solve(
        blocks.read(rows),
        targets[rows],
        several_labels=several_labels,
        strengths=strengths,
        groups=None if groups is None else np.asarray(groups)[rows],
        weights=weights[rows],
        seed=seed,
    )
    problem = _Streamed.of(blocks, targets, weights, mean, scale, start.strength, several_labels=several_labels)
    standard = np.where(np.isfinite(scale), scale, 0.0)[:, None] * start.kernel
    kernel, bias = problem.solved(standard, start.bias + mean @ start.kernel)
    kernel = kernel / scale[:, None]
    bias = (bias - mean @ kernel).astype(np.float32)
    return Probe(kernel.astype(np.float32), bias, start.strength, start.log_loss, None, several_labels)


@dataclass(frozen=True)
class _Blocks:
    read: Read
    count: int
    width: int
    size: int

    @classmethod
    def of(cls, read: Read, count: int, block_bytes: int) -> _Blocks:
        if not count:
            raise DataError("a head needs pictures of at least two classes to be solved")
        first = np.asarray(read(np.arange(1)))
        if first.ndim != 2 or len(first) != 1:
            raise InputError(f"features (1, d) are expected of one picture, got {first.shape}")
        return cls(read, count, first.shape[1], max(1, block_bytes // (4 * first.shape[1])))

    def __iter__(self) -> Iterator[tuple[slice, Array]]:
        """Every block as float32, with its place."""
        for start in range(0, self.count, self.size):
            rows = np.arange(start, min(start + self.size, self.count))
            block = np.asarray(self.read(rows))
            if block.shape != (len(rows), self.width):
                raise InputError(f"features {(len(rows), self.width)} are expected, got {block.shape}")
            yield slice(start, start + len(rows)), block.astype(np.float32)


@dataclass(frozen=True)
class _Streamed:
    """The problem in preconditioned coordinates.

    Attributes:
        blocks: give the features.
        columns: what there is to solve for.
        weights: of the pictures; they sum to 1.
        mean: of the features.
        scale: of the features; infinite where they say nothing.
        penalty: of half the squared length, in the mean loss of the pictures.
        factor: lower triangle (d, d) that turns weights into coordinates, or its diagonal (d,).
        steepness: of the loss by a logit, about.
    """

    blocks: _Blocks
    columns: Columns
    weights: Array
    mean: Array
    scale: Array
    penalty: float
    factor: Array
    steepness: float

    @classmethod
    def of(
        cls, blocks: _Blocks, targets: Array, weights: Array, mean: Array, scale: Array, strength: float, *,
        several_labels: bool,
    ) -> _Streamed:  # fmt: skip
        columns = Columns.of(targets, several_labels=several_labels)
        penalty = 1 / (strength * weights.sum())
        shares = weights / weights.sum()
        chances = columns.labels.T @ shares
        steepness = float(np.mean(chances * (1 - chances))) if len(chances) else 0.25
        factor = _factor(blocks, mean, scale, penalty, steepness)
        return cls(blocks, columns, shares, mean, scale, penalty, factor, steepness)

    def solved(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """Standardised kernel (d, classes) and bias, from a start that is near."""
        kernel, bias = self.columns.from_classes(kernel, bias)
        moved = np.concatenate([self._into(kernel), bias[None] * np.sqrt(self.steepness)])
        if len(bias):
            moved = minimised(self._value, moved, close=_CLOSE, least_gain=8 * np.finfo(float).eps)
        return self.columns.to_classes(self._back(moved[:-1]), moved[-1] / np.sqrt(self.steepness))

    def _value(self, moved: Array) -> tuple[float, Array]:
        """Loss and gradient, all features read once."""
        kernel, bias = self._back(moved[:-1]), moved[-1] / np.sqrt(self.steepness)
        weights = (kernel / self.scale[:, None]).astype(np.float32)
        loss, slope, of_bias = 0.0, np.zeros_like(kernel), np.zeros_like(bias)
        for part, block in self.blocks:
            np.subtract(block, self.mean.astype(np.float32), out=block)
            logits = (block @ weights).astype(np.float64) + bias
            losses, wrong = self.columns.losses(logits, part)
            loss += float(losses @ self.weights[part])
            wrong *= self.weights[part][:, None]
            # Scaled, as float32 knows no numbers below 1e-38; and never all at once, so that sums are exact enough.
            slope += (block.T @ (wrong * self.blocks.count).astype(np.float32)).astype(np.float64) / self.blocks.count
            of_bias += wrong.sum(axis=0)
        loss += 0.5 * self.penalty * float((kernel**2).sum())
        slope = slope / self.scale[:, None] + self.penalty * kernel
        return loss, np.concatenate([self._pulled(slope), of_bias[None] / np.sqrt(self.steepness)])

    def _into(self, kernel: Array) -> Array:
        return self.factor[:, None] * kernel if self.factor.ndim == 1 else self.factor.T @ kernel

    def _back(self, moved: Array) -> Array:
        from scipy.linalg import solve_triangular

        if self.factor.ndim == 1:
            return moved / self.factor[:, None]
        return np.asarray(solve_triangular(self.factor, moved, lower=True, trans=1, check_finite=False))

    def _pulled(self, slope: Array) -> Array:
        from scipy.linalg import solve_triangular

        if self.factor.ndim == 1:
            return slope / self.factor[:, None]
        return np.asarray(solve_triangular(self.factor, slope, lower=True, check_finite=False))


def _moments(blocks: _Blocks) -> tuple[Array, Array]:
    """Mean and standard deviation of every feature, infinite where it says nothing: float64 (d,) each.

    Blocks are joined as in Chan et al. 1983, which loses no digits where the mean is large.
    """
    count, mean, squares = 0, np.zeros(blocks.width), np.zeros(blocks.width)
    for _, block in blocks:
        if not np.isfinite(block).all():
            raise InputError("features must be finite: some are NaN or infinite")
        more = len(block)
        centre = block.mean(axis=0, dtype=np.float64)
        apart = centre - mean
        squares += ((block - centre.astype(np.float32)) ** 2).sum(axis=0, dtype=np.float64)
        squares += apart**2 * (count * more / (count + more))
        mean += apart * (more / (count + more))
        count += more
    scale = np.sqrt(squares / count)
    return mean, np.where(scale > FLAT * max(float(scale.max(initial=0.0)), 1e-30), scale, np.inf)


def _factor(blocks: _Blocks, mean: Array, scale: Array, penalty: float, steepness: float) -> Array:
    """The root of the loss' curvature, about: a lower triangle, or for very many features its diagonal."""
    if blocks.width > _WIDEST_COVARIANCE:
        return np.sqrt(steepness * np.isfinite(scale) + penalty)
    from scipy.linalg import cholesky

    covariance = np.zeros((blocks.width, blocks.width))
    for _, block in blocks:
        np.subtract(block, mean.astype(np.float32), out=block)
        np.divide(block, scale.astype(np.float32), out=block)
        covariance += block.T @ block
    covariance *= steepness / blocks.count
    covariance[np.diag_indices(len(covariance))] += penalty
    return np.asarray(cholesky(covariance, lower=True, overwrite_a=True, check_finite=False))


def _check(targets: Array, weights: Array, *, several_labels: bool) -> None:
    if targets.ndim != 2 or weights.shape != (len(targets),):
        raise InputError(f"targets (n, classes) and weights (n,) are expected, got {targets.shape}, {weights.shape}")
    if not several_labels and not (targets.sum(axis=1) == 1).all():
        raise InputError("targets must have one 1 in each row, or several_labels=True")
    if (targets.sum(axis=0) > 0).sum() < (1 if several_labels else 2):
        raise DataError("a head needs pictures of at least two classes to be solved")
