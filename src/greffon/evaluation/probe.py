"""The solved head: multinomial logistic regression on fixed features, its penalty chosen by cross-validation.

A linear head on features that stand still is a convex problem: L-BFGS solves it, with no learning rate and no epochs
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features", calls it the linear probe). It is the baseline of
everything else, and its answers for pictures that it has not learned from show which labels are doubtful.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.evaluation.linear import (
    CLOSELY,
    Basis,
    Problem,
    checked_features,
    class_probabilities,
    fold_rows,
    solving,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    Array = np.ndarray[Any, Any]
    Splits = list[tuple[Array, Array]]

# scikit-learn's C: the weight of the data against the penalty. From strong to weak, so that each start is near.
STRENGTHS = tuple(float(value) for value in np.logspace(-5, 1, 13))
FOLDS = 5
_PATIENCE = 2  # strengths that may be worse before the path ends


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features as they are: standardising is part of its weights.

    Attributes:
        kernel: float32 (features, classes).
        bias: float32 (classes,).
        strength: scikit-learn's C that was chosen.
        log_loss: mean over pictures that were held out in cross-validation, in nats; NaN where there was none.
        held_out: float32 (pictures, classes), for every picture the probabilities of a probe that has not seen it;
            None where there was no cross-validation.
        several_labels: whether each class has a probability of its own.
    """

    kernel: Array
    bias: Array
    strength: float
    log_loss: float
    held_out: Array | None
    several_labels: bool

    def logits(self, features: Array) -> Array:
        """float32 (pictures, classes) for features (pictures, features)."""
        return np.asarray(features, dtype=np.float32) @ self.kernel + self.bias

    def probabilities(self, features: Array) -> Array:
        """float32 (pictures, classes): softmax of the logits, or the sigmoid of each with several labels."""
        return class_probabilities(self.logits(features), several_labels=self.several_labels)


@dataclass(frozen=True)
class Searched:
    """A problem whose penalty is chosen, and which is not solved on all pictures yet: that takes a fifth of the time.

    Attributes:
        strength: that was chosen.
        log_loss: mean over held-out pictures, in nats; NaN where there was no cross-validation.
        held_out: float32 (pictures, classes), as in `Probe`.
        probe: solves it.
    """

    strength: float
    log_loss: float
    held_out: Array | None
    probe: Callable[[], Probe]

    @classmethod
    def of(cls, probe: Probe) -> Searched:
        """One that is solved already."""
        return cls(probe.strength, probe.log_loss, probe.held_out, lambda: probe)


def solve(features: Array, targets: Array, **options: Any) -> Probe:
    """Solve a linear head; see `search` for the arguments.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.probe import solve
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(40) % 2]
        >>> features = random.normal(size=(40, 3)) + 4 * targets[:, :1]
        >>> probe = solve(features, targets)
        >>> float((probe.probabilities(features).argmax(1) == targets.argmax(1)).mean()) > 0.9
        True
    """
    return search(features, targets, **options).probe()


def search(  # noqa: PLR0913  # all but two are options, by keyword only
    features: Array,
    targets: Array,
    *,
    several_labels: bool = False,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = FOLDS,
    groups: Array | None = None,
    weights: Array | None = None,
    seed: int = 0,
    splits: Splits | None = None,
) -> Searched:
    """Choose the penalty of a linear head by cross-validation.

    Args:
        features: floating point (n, d), finite.
        targets: 0 or 1 (n, classes); one 1 in each row unless `several_labels`.
        several_labels: one independent problem for each class.
        strengths: of the data against the penalty (scikit-learn's C), from small to large. The best in
            cross-validation is taken; with one, there is no search.
        folds: of the cross-validation, stratified; fewer where a class has fewer pictures.
        groups: int (n,); pictures with one number are in one fold, as near-copies have to be.
        weights: float (n,), how much each picture counts.
        seed: of the folds.
        splits: the folds themselves, as `fold_rows` deals them, where several searches share them.

    Raises:
        InputError: shapes do not go together, or a number is not finite.
        DataError: fewer than two classes have pictures.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.probe import search
        >>> random = np.random.default_rng(0)
        >>> targets = np.eye(2)[np.arange(40) % 2]
        >>> found = search(random.normal(size=(40, 3)) + 4 * targets[:, :1], targets)
        >>> found.log_loss < np.log(2) and found.probe().strength > 0
        True
    """
    features, targets = checked_features(features, targets, several_labels=several_labels)
    basis, coordinates = Basis.of(features)
    weights = np.ones(len(features)) if weights is None else np.asarray(weights, dtype=float)
    problem = Problem(coordinates.astype(np.float32), targets, weights, several_labels)
    strengths, count = sorted(strengths), len(features)
    loss, held_out, best = float("nan"), None, strengths[-1]
    if splits is None:
        splits = fold_rows(targets, folds, groups, seed, several_labels=several_labels)
    if splits:
        with solving() as threads:
            best, loss, held_out = _search(problem, strengths, splits, threads)

    def probe() -> Probe:
        with solving():
            kernel, bias = next(problem.path(np.arange(count), [best], CLOSELY))
        return Probe(*basis.unproject(kernel, bias), best, loss, held_out, several_labels)

    return Searched(best, loss, held_out, probe)


def _search(problem: Problem, strengths: list[float], splits: Splits, threads: Executor) -> tuple[float, float, Array]:
    """The strength with the least loss on held-out pictures, that loss, and the probabilities behind it."""
    paths = [problem.path(train, strengths) for train, _ in splits]
    best, least, kept, worse = strengths[0], float("inf"), None, 0

    def answers(fold: int) -> Array:
        kernel, bias = next(paths[fold])
        logits = problem.features[splits[fold][1]] @ kernel + bias
        return class_probabilities(logits, several_labels=problem.several_labels)

    for strength in strengths:
        held_out = np.zeros(problem.targets.shape, dtype=np.float32)
        for (_, test), found in zip(splits, threads.map(answers, range(len(splits))), strict=True):
            held_out[test] = found
        loss = _log_loss(held_out, problem.targets, problem.weights, several_labels=problem.several_labels)
        if loss < least:
            best, least, kept, worse = strength, loss, held_out, 0
        else:
            worse += 1
            if worse > _PATIENCE:
                break
    return best, least, np.asarray(kept)


def _log_loss(probabilities: Array, targets: Array, weights: Array, *, several_labels: bool) -> float:
    likely = np.clip(probabilities.astype(np.float64), 1e-15, 1 - 1e-15)
    losses = -np.sum(targets * np.log(likely), axis=1)
    if several_labels:
        losses = losses - np.sum((1 - targets) * np.log1p(-likely), axis=1)
    return float(np.average(losses, weights=weights))
