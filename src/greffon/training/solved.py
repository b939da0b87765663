"""A stage that is solved, not trained: a linear head on features that stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.training.balance import balanced_weights
from greffon.training.solver import Solver, answers_of

if TYPE_CHECKING:
    import keras

    from greffon.evaluation.probe import Probe
    from greffon.frozen.activations import Activations
    from greffon.recipe import Recipe
    from greffon.training.samples import PictureRows, Samples

    Array = np.ndarray[Any, Any]

SURE_ENOUGH = 0.8
"""Share of bootstrap resamples in which a stage has to improve the validation loss to be kept."""

_FEW, _SURER = 100, 0.95


def sure_enough(pictures: int) -> float:
    """The share that is asked for: more of few pictures, since they have chosen the stage's best epoch as well.

    On 28 photographs the best of nine epochs that went up and down improved in 84 % of resamples, and was worse on
    others.

    Example:
        >>> from greffon.training.solved import sure_enough
        >>> sure_enough(28), sure_enough(400)
        (0.95, 0.8)
    """
    return SURE_ENOUGH if pictures >= _FEW else _SURER


def solve_head(
    model: keras.Model,
    source: Activations | PictureRows,
    samples: Samples,
    shown: Array,
    recipe: Recipe,
    *,
    seed: int,
    solver: Solver | None = None,
) -> tuple[Probe, dict[str, float]]:
    """Solve the linear head of a grafted model and put the solution into its Dense layer.

    Args:
        model: its last layer is the head's `head_output`.
        source: gives what that layer takes, by row of the samples.
        samples: the pictures; all views of those to learn from are learned from, those of one picture in one fold.
        shown: places in `samples.train` that count, some of them more than once.
        recipe: its head's output and class weights are read.
        seed: of the folds.
        solver: has solved the same problem before, perhaps.

    Returns:
        The probe, and its loss and accuracy on both sides: loss, accuracy, val_loss, val_accuracy.
    """
    several = recipe.head.output == "sigmoid"
    rows = samples.views[shown]
    groups = np.repeat(samples.groups[shown], rows.shape[1])
    targets = samples.targets[rows.reshape(-1)]
    weights = balanced_weights(targets) if recipe.class_weight == "balanced" else None
    solver = solver or Solver()
    probe = solver.solve(
        source, rows.reshape(-1), targets, several_labels=several, groups=groups, weights=weights, seed=seed,
        strength=solver.strength,
    )  # fmt: skip
    layer = model.get_layer("head_output")
    layer.kernel.assign(probe.kernel)
    layer.bias.assign(probe.bias)
    values: dict[str, float] = {}
    for prefix, side in (("", samples.train), ("val_", samples.validation)):
        answers = answers_of(probe, source, side)
        values[f"{prefix}loss"] = mean_loss(picture_losses(answers, samples.targets[side], several_labels=several))
        values[f"{prefix}accuracy"] = float((answers.argmax(1) == samples.targets[side].argmax(1)).mean())
    return probe, values


def picture_losses(probabilities: Array, targets: Array, *, several_labels: bool) -> Array:
    """Cross-entropy of each picture, in nats: float64 (n,); with several labels the mean over them, as in Keras.

    Example:
        >>> import numpy as np
        >>> from greffon.training.solved import picture_losses
        >>> picture_losses(np.array([[0.5, 0.5]]), np.array([[0.0, 1.0]]), several_labels=False).round(3).tolist()
        [0.693]
    """
    likely = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -targets * np.log(likely)
    if several_labels:
        return np.asarray((losses - (1 - targets) * np.log1p(-likely)).mean(axis=1))
    return np.asarray(losses.sum(axis=1))


def mean_loss(losses: Array) -> float:
    """The mean, as a number for a table."""
    return float(losses.mean())


def improvement(before: Array, after: Array, *, seed: int, resamples: int = 2000) -> float:
    """In which share of bootstrap resamples of the pictures the loss went down.

    Args:
        before: loss of each picture.
        after: of the same pictures.
        seed: of the resamples.
        resamples: how many.

    Example:
        >>> import numpy as np
        >>> from greffon.training.solved import improvement
        >>> improvement(np.array([1.0, 1.0, 1.0]), np.array([0.9, 0.8, 0.9]), seed=0)
        1.0
    """
    change = before - after
    random = np.random.default_rng(seed)
    means = [change[random.integers(len(change), size=len(change))].mean() for _ in range(resamples)]
    return float(np.mean(np.array(means) > 0))
