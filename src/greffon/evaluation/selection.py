"""Which of many features a solved head needs: those it leans on most, and how many, by cross-validation.

As in Evci et al. 2022, "Head2Toe": a head is solved on all features under a penalty that favours few of them (the
group lasso: one group for each feature, its weights for all classes), and the features are ranked by the length of
their weights. The group lasso is approached by ridge regressions, each of which penalises a feature by what the one
before made of it (Grandvalet 1998, "Least Absolute Shrinkage is Equivalent to Quadratic Penalization").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.evaluation.linear import (
    Basis,
    Problem,
    checked_features,
    class_probabilities,
    fold_rows,
    sample,
    solving,
)
from greffon.evaluation.scores import Answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the features that are tried."""

FOLDS = 3
STRENGTHS = tuple(float(value) for value in np.logspace(-4, -1, 7))
"""Penalties (scikit-learn's C) for all features; of fewer ones each may weigh more, by as much as they are fewer."""

_NO_MORE = 0.01  # by which a smaller share may be worse, as a share of the loss
_ROUNDS = 1  # ridge regressions after the first
_MOST = 2**26  # numbers that are looked at, at once: more pictures than that allows are left out by the seed


@dataclass(frozen=True)
class Selection:
    """Features that are kept.

    Attributes:
        kept: int64 (k,), their numbers, ascending.
        share: of all features, 0..1.
        strength: scikit-learn's C with the least loss on held-out pictures for so many features. A search on the kept
            features would find too large a one: they were chosen by the pictures that it would hold out.
        losses: for every share that was tried, in nats on held-out pictures; empty where there are too few to hold out.
        count: pictures that were looked at.
    """

    kept: Array
    share: float
    strength: float
    losses: dict[float, float]
    count: int


def select(
    features: Array,
    targets: Array,
    *,
    shares: Sequence[float] = SHARES,
    several_labels: bool = False,
    groups: Array | None = None,
    weights: Array | None = None,
    seed: int = 0,
) -> Selection:
    """Choose features for a solved head: as few as are no worse.

    Pictures that are held out have no part in the ranking by which features are chosen for them. The smallest share is
    taken whose loss is above the least by no more than one standard error of the difference (Breiman et al. 1984) and
    no more than a hundredth of it: of few pictures the standard error alone would allow too much.

    Args:
        features: floating point (n, d), finite.
        targets: 0 or 1 (n, classes); one 1 in each row unless `several_labels`.
        shares: of the features, each above 0 and at most 1; with one there is no search.
        several_labels: whether a picture may have several labels.
        groups: int (n,); pictures with one number are in one fold, as near-copies have to be.
        weights: float (n,), how much each picture counts.
        seed: of the folds.

    Raises:
        InputError: shapes do not go together, a number is not finite, or a share is out of its range.
        DataError: fewer than two classes have pictures.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.selection import select
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(60) % 2]
        >>> features = random.normal(size=(60, 40))
        >>> features[:, 7] += 4 * targets[:, 0]
        >>> select(features, targets, shares=[0.025]).kept.tolist()
        [7]
    """
    shares = sorted(shares)
    if not shares or not 0 < shares[0] <= shares[-1] <= 1:
        raise InputError(f"shares must be above 0 and at most 1, at least one, got {shares}")
    rows = sample(np.asarray(targets), _MOST // max(1, np.shape(features)[-1]), seed)
    features, targets = checked_features(features[rows], targets[rows], several_labels=several_labels)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, float)[rows]
    task = _Task(features, targets, weights, several_labels)
    splits = fold_rows(targets, FOLDS, None if groups is None else groups[rows], seed, several_labels=several_labels)
    with solving():
        strength, fold_kernels = task.strength(splits)
        tried = task.tried(splits, fold_kernels, shares, strength) if splits else {}
        share, best = _fewest(tried, weights) if tried else (shares[-1], strength / shares[-1])
        everything = np.arange(len(rows))
        order = task.ranked(everything, task.solved(everything, [strength])[-1], strength) if share < 1 else None
    count = _count(share, features.shape[1])
    kept = np.arange(features.shape[1]) if order is None else np.sort(order[:count])
    losses = {one: float(np.average(found[1], weights=weights)) for one, found in tried.items()}
    return Selection(kept, share, best, losses, len(rows))


def _fewest(tried: dict[float, tuple[float, Array]], weights: Array) -> tuple[float, float]:
    """The smallest share that is no worse than the best, and its penalty."""
    least = min((found for _, found in tried.values()), key=lambda found: float(np.average(found, weights=weights)))
    for share, (strength, found) in tried.items():
        more = (found - least) * weights / weights.mean()
        allowed = min(more.std() / np.sqrt(len(more)), _NO_MORE * float(np.average(least, weights=weights)))
        if more.mean() <= allowed:
            return share, strength
    return share, strength


@dataclass(frozen=True)
class _Task:
    features: Array
    targets: Array
    weights: Array
    several_labels: bool

    def strength(self, splits: list[tuple[Array, Array]]) -> tuple[float, list[Array]]:
        """The best penalty for all features, and for every fold the standardised weights that it gave."""
        if not splits:
            return STRENGTHS[len(STRENGTHS) // 2], []
        losses = np.zeros(len(STRENGTHS))
        paths = []
        for train, test in splits:
            basis, solved = self._path(train, STRENGTHS, None, None)
            losses += [self._losses(basis, it, test, None) @ self.weights[test] for it in solved]
            paths.append((basis, solved))
        best = int(losses.argmin())
        return STRENGTHS[best], [basis.spread(solved[best][0]) for basis, solved in paths]

    def tried(
        self, splits: list[tuple[Array, Array]], kernels: list[Array], shares: Sequence[float], strength: float
    ) -> dict[float, tuple[float, Array]]:
        """For every share, from few to many, the best penalty and every picture's loss while it was held out."""
        factors = (0.1, 0.3, 1.0)
        losses = {share: np.zeros((len(factors), len(self.features))) for share in shares}
        for (train, test), kernel in zip(splits, kernels, strict=True):
            order = self.ranked(train, kernel, strength) if shares[0] < 1 else np.arange(self.features.shape[1])
            for share in shares:
                kept = np.sort(order[: _count(share, len(order))])
                strengths = [strength / share * factor for factor in factors]
                basis, solved = self._path(train, strengths, kept, None)
                for place, solution in enumerate(solved):
                    losses[share][place, test] = self._losses(basis, solution, test, kept)
        best = {share: int(np.average(found, axis=1, weights=self.weights).argmin()) for share, found in losses.items()}
        return {share: (strength / share * factors[at], losses[share][at]) for share, at in best.items()}

    def solved(self, rows: Array, strengths: Sequence[float]) -> list[Array]:
        """Standardised weights (d, classes) for each penalty."""
        basis, solved = self._path(rows, strengths, None, None)
        return [basis.spread(kernel) for kernel, _ in solved]

    def ranked(self, rows: Array, kernel: Array, strength: float) -> Array:
        """Features from the most important on; of equal ones the first comes first."""
        lengths = np.linalg.norm(kernel, axis=1)
        for _ in range(_ROUNDS):
            relative = np.sqrt(lengths / max(float(lengths.max()), 1e-30))
            one_as_before = [strength / max(float((relative**2).mean()), 1e-30)]
            basis, [(rotated, _)] = self._path(rows, one_as_before, None, relative)
            lengths = np.linalg.norm(basis.spread(rotated) * relative[:, None], axis=1)
        return np.argsort(-lengths, kind="stable")

    def _path(
        self, rows: Array, strengths: Sequence[float], kept: Array | None, lengths: Array | None
    ) -> tuple[Basis, list[tuple[Array, Array]]]:
        features = self.features[rows] if kept is None else self.features[np.ix_(rows, kept)]
        basis, coordinates = Basis.of(features, lengths)
        problem = Problem(coordinates.astype(np.float32), self.targets[rows], self.weights[rows], self.several_labels)
        return basis, list(problem.path(np.arange(len(rows)), strengths))

    def _losses(self, basis: Basis, solution: tuple[Array, Array], rows: Array, kept: Array | None) -> Array:
        features = self.features[rows] if kept is None else self.features[np.ix_(rows, kept)]
        logits = basis.project(features) @ solution[0] + solution[1]
        answers = class_probabilities(logits, several_labels=self.several_labels)
        return Answers.of(answers, self.targets[rows], several_labels=self.several_labels).losses


def _count(share: float, features: int) -> int:
    return max(1, round(share * features))
