"""Which pooling suits a solved head: by cross-validation on the pictures to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from greffon.evaluation.probe import solve
from greffon.pictures.split import group_numbers, to_split
from greffon.training.balance import balanced_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.frozen.activations import Activations
    from greffon.pictures.catalog import Catalog
    from greffon.recipe import Pool, Recipe

# From few numbers to many: where two are as good, the smaller head is taken.
COMPARED: tuple[Pool, ...] = ("avg", "grid2", "grid3")


def to_compare(recipe: Recipe, sides: tuple[int, int]) -> tuple[Pool, ...]:
    """The poolings that a recipe leaves open and that a feature map is large enough for; the average where none is.

    Args:
        recipe: with a pool and stages.
        sides: height and width of the feature map.
    """
    if recipe.head.pool != "auto" or not recipe.solves(recipe.stages[0]):
        return ("avg",)
    return tuple(pool for pool in COMPARED if pool == "avg" or min(sides) >= int(pool[-1]))


def choose_pool(
    features: Mapping[Pool, Activations], catalog: Catalog, together: Sequence[Sequence[str]], recipe: Recipe
) -> tuple[Pool, dict[str, float]]:
    """The pooling whose solved head has the least loss on pictures that it has not learned from.

    Args:
        features: pooled features of all pictures that were split, in the catalog's order.
        catalog: split; only its pictures to learn from are looked at.
        together: content hashes of near-copies, which stay in one fold.
        recipe: its head's output, class weights and seed are read.

    Returns:
        The pooling, and the loss of each in nats.
    """
    frame = to_split(catalog)
    rows = np.flatnonzero((frame["split"] == "train").to_numpy())
    train = frame.filter(pl.col("split") == "train")
    targets, groups = catalog.targets(train), group_numbers(train, together)
    weights = balanced_weights(targets) if recipe.class_weight == "balanced" else None
    losses = {}
    for pool, source in features.items():
        values = np.asarray(source.gather(rows)[0], dtype=np.float32)
        probe = solve(
            values,
            targets,
            several_labels=recipe.head.output == "sigmoid",
            groups=groups,
            weights=weights,
            seed=recipe.seed,
        )
        losses[pool] = probe.log_loss if np.isfinite(probe.log_loss) else np.inf
    return min(losses, key=losses.__getitem__), {pool: round(float(loss), 4) for pool, loss in losses.items()}
