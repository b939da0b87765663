"""Which features a head gets, where the recipe leaves it open: by cross-validation on the pictures to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.backbone.blocks import EACH_BLOCK
from greffon.backbone.parts import output_shape, split_parts
from greffon.evaluation.selection import SHARES, select
from greffon.pictures.split import group_numbers, to_split
from greffon.training.balance import balanced_weights
from greffon.training.solver import Solver, features_of, width_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import keras

    from greffon.frozen.activations import Activations
    from greffon.pictures.catalog import Catalog
    from greffon.recipe import Head, Pool, Recipe

    Array = np.ndarray[Any, Any]

# From few numbers to many: where two are as good, the smaller head is taken.
COMPARED: tuple[Pool, ...] = ("avg", "grid2", "grid3", "blocks2")


@dataclass(frozen=True)
class HeadChoice:
    """What was left open of a head, chosen.

    Attributes:
        head: with its pooling and channels; None where it is what the model has already, the average.
        said: for the user.
        record: for the run's record.
    """

    head: Head | None
    said: str
    record: dict[str, Any]


MOST_OF_BLOCKS = 5000
"""Pictures up to which features of all blocks are compared, too: they take 115 kB for a picture behind a `v1`, 57 kB
behind `thin`."""


def to_compare(recipe: Recipe, sides: tuple[int, int], pictures: int) -> tuple[Pool, ...]:
    """The poolings that a recipe leaves open and that a feature map is large enough for; the average in any case.

    Args:
        recipe: with a pool and stages.
        sides: height and width of the feature map.
        pictures: how many are learned from or held out.
    """
    if recipe.head.pool in EACH_BLOCK:
        return ("avg",) if recipe.head.channels else ("avg", recipe.head.pool)
    if recipe.head.pool != "auto" or not recipe.solves(recipe.stages[0]):
        return ("avg",)
    fit = [pool for pool in COMPARED if pool == "avg" or min(sides) >= int(pool[-1])]
    return tuple(pool for pool in fit if pool not in EACH_BLOCK or pictures <= MOST_OF_BLOCKS)


def compared_pools(model: keras.Model, recipe: Recipe, pictures: int) -> tuple[Pool, ...]:
    """The poolings among which a training of this recipe chooses, as `to_compare` says, for the map of its network.

    Args:
        model: grafted.
        recipe: of the training.
        pictures: how many are learned from or held out.
    """
    _, height, width, _ = output_shape(split_parts(model).backbone[-1]) or (None, 1, 1, None)
    return to_compare(recipe, (height or 1, width or 1), pictures)


def choose_head(
    features: Mapping[Pool, Activations],
    catalog: Catalog,
    together: Sequence[Sequence[str]],
    recipe: Recipe,
    solver: Solver,
) -> HeadChoice | None:
    """Choose the pooling, or the channels of all blocks; None where there is nothing to choose.

    Args:
        features: pooled features of all pictures that were split, in the catalog's order, for what `to_compare` names.
        catalog: split; only its pictures to learn from are looked at.
        together: content hashes of near-copies, which stay in one fold.
        recipe: its head, class weights and seed are read.
        solver: remembers what it solved; told the penalty of a head on chosen channels.
    """
    if len(features) == 1:
        return None
    if recipe.head.pool in EACH_BLOCK:
        return _choose_channels(features[recipe.head.pool], catalog, together, recipe, solver)
    pool, losses = choose_pool(features, catalog, together, recipe, solver)
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return HeadChoice(
        None if pool == "avg" else recipe.head.replace(pool=pool, kept_share=1.0 if pool in EACH_BLOCK else "auto"),
        f"pooling {pool}, by the loss of a solved head on held-out pictures: {said}",
        {"chosen": pool, "held_out_loss": losses},
    )


def choose_pool(
    features: Mapping[Pool, Activations],
    catalog: Catalog,
    together: Sequence[Sequence[str]],
    recipe: Recipe,
    solver: Solver | None = None,
) -> tuple[Pool, dict[str, float]]:
    """The pooling whose solved head has the least loss on pictures that it has not learned from.

    Args:
        features: as for `choose_head`; where they are too many, a sample of the pictures is looked at.
        catalog: split; only its pictures to learn from are looked at.
        together: content hashes of near-copies, which stay in one fold.
        recipe: its head's output, class weights and seed are read.
        solver: remembers what it solved.

    Returns:
        The pooling, and the loss of each in nats.
    """
    solver = solver or Solver()
    rows, targets, groups = _learned_from(catalog, together)
    some = solver.fitting(targets, max(map(width_of, features.values())), recipe.seed)
    rows, targets, groups = rows[some], targets[some], groups[some]
    weights = balanced_weights(targets) if recipe.class_weight == "balanced" else None
    several = recipe.head.output == "sigmoid"
    losses: dict[Pool, float] = {}
    for pool, source in features.items():
        found = solver.search(
            source, rows, targets, several_labels=several, groups=groups, weights=weights, seed=recipe.seed
        )
        losses[pool] = found.log_loss if np.isfinite(found.log_loss) else np.inf
        chosen = min(losses, key=losses.__getitem__)
        if pool == "avg":
            found.probe()  # the baseline
        if chosen == pool:
            best = found
        del found  # a problem has the features of all pictures with it: only the best one is held
    best.probe()  # the stage asks for it again
    return chosen, {pool: round(float(loss), 4) for pool, loss in losses.items()}


def _choose_channels(
    source: Activations, catalog: Catalog, together: Sequence[Sequence[str]], recipe: Recipe, solver: Solver
) -> HeadChoice:
    head, width = recipe.head, width_of(source)
    if head.kept_share == 1.0:
        record: dict[str, Any] = {
            "chosen": head.pool,
            "kept_share": 1.0,
            "channels": width,
            "of": width,
            "held_out_loss": {},
        }
        return HeadChoice(None, f"pooling {head.pool}: all {width:,} channels are kept", record)
    rows, targets, groups = _learned_from(catalog, together)
    some = solver.fitting(targets, width_of(source), recipe.seed)
    rows, targets, groups = rows[some], targets[some], groups[some]
    found = select(
        features_of(source, rows),
        targets,
        shares=SHARES if head.kept_share == "auto" else (head.kept_share,),
        several_labels=head.output == "sigmoid",
        groups=groups,
        weights=balanced_weights(targets) if recipe.class_weight == "balanced" else None,
        seed=recipe.seed,
    )
    chosen = len(found.kept) < width
    if chosen:
        solver.strength = found.strength
    losses = {f"{share:g}": round(loss, 4) for share, loss in found.losses.items()}
    tried = ", ".join(f"{share} {loss:.4f}" for share, loss in losses.items())
    said = f"pooling {head.pool}: {len(found.kept):,} of {width:,} channels are kept"
    return HeadChoice(
        head.replace(channels=tuple(found.kept.tolist())) if chosen else None,
        f"{said}; loss on held-out pictures by the share kept: {tried}" if tried else said,
        {"chosen": head.pool, "kept_share": found.share, "channels": len(found.kept), "of": width,
         "held_out_loss": losses},
    )  # fmt: skip


def _learned_from(catalog: Catalog, together: Sequence[Sequence[str]]) -> tuple[Array, Array, Array]:
    """Rows of the pictures to learn from, their targets, and the groups that stay in one fold."""
    frame = to_split(catalog)
    rows = np.flatnonzero((frame["split"] == "train").to_numpy())
    train = frame.filter(pl.col("split") == "train")
    return rows, catalog.targets(train), group_numbers(train, together)
