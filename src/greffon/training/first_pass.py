"""One look at all pictures before they are split: the pass of the trunk that every stage needs, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.pictures.split import group_numbers, to_split
from greffon.training.choices import Choices
from greffon.training.near_copies import NearCopies, find_near_copies
from greffon.training.planned import Planned
from greffon.training.pooling import compared_pools
from greffon.training.samples import samples_to_split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from greffon.evaluation.baselines import Baselines
    from greffon.evaluation.folds import Folds
    from greffon.evaluation.measures import Measures
    from greffon.frozen.activations import Activations
    from greffon.frozen.store import ActivationStore
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.resize import ResizeRule
    from greffon.recipe import Pool, Recipe
    from greffon.training.progress import Reporter
    from greffon.training.solver import Solver

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FirstPass:
    """What the look gave.

    Attributes:
        planned: ran the trunk; what it cost counts as part of the training.
        features: pooled, of every picture that is not in test/, for each pooling that may be chosen.
        near: near-copies among the pictures; None where nobody asked.
    """

    planned: Planned
    features: dict[Pool, Activations]
    near: NearCopies | None


def look_first(
    model: keras.Model,
    recipe: Recipe,
    catalog: Catalog,
    resize: ResizeRule,
    store: ActivationStore | None,
    *,
    reporter: Reporter,
    notes: list[str],
    choices: Choices | None = None,
) -> FirstPass | None:
    """Run the trunk over all pictures that are to be split; None where the recipe asks for nothing of that.

    Args:
        model: grafted.
        recipe: of the training.
        catalog: not split yet.
        resize: how a picture becomes square.
        store: where activations are kept.
        reporter: told what happens.
        notes: what the user should know afterwards.
        choices: what was or will be chosen by timing.

    Raises:
        GoneBadError: pictures cannot be read any more.
    """
    pools = compared_pools(model, recipe, len(to_split(catalog)))
    together = recipe.near_copies == "together"
    if not together and len(pools) == 1:
        return None
    samples = samples_to_split(catalog, recipe.image_size, resize)
    planned = Planned(model, recipe, samples, store, reporter, notes, choices or Choices())
    features = planned.with_features(pools)
    if not together:
        return FirstPass(planned, features, None)
    with reporter.bar("looking for near-copies", total=None):
        return FirstPass(planned, features, find_near_copies(catalog, features["avg"], store))


def features_of_sides(first: FirstPass, catalog: Catalog, side: str = "train") -> Callable[[Array], Array] | None:
    """What gives averaged features of some pictures of a side, by their place in it; None where there are none.

    Args:
        first: of these pictures.
        catalog: split.
        side: train or val.
    """
    averaged = first.features.get("avg")
    if averaged is None:
        return None
    frame = to_split(catalog)
    rows = dict(zip(frame["path"].to_list(), range(len(frame)), strict=True))
    places = np.array([rows[path] for path in catalog.side(side)["path"].to_list()], np.int64)
    return lambda chosen: averaged.gather(places[chosen])[0]


MOST_FOLDED = 1000
"""Pictures up to which repeated folds are taken without being asked for: some seconds."""


def folds_of(
    first: FirstPass, catalog: Catalog, together: Sequence[Sequence[str]], recipe: Recipe, *, again: str
) -> tuple[Folds | None, str]:
    """How good the head is on pictures that no choice was made by, where there is no test/; and what is to be said.

    All pictures that were split are dealt into folds, three times over, and the head is solved anew for each. So it is
    the head that is measured, on the network as it was before any of it was trained.

    Args:
        first: with features.
        catalog: split.
        together: content hashes of near-copies, which stay in one fold.
        recipe: its head, with the pooling that was chosen, and its seed are read.
        again: the command that takes folds of whatever many pictures.
    """
    from greffon.errors import DataError
    from greffon.evaluation.folds import folds
    from greffon.training.solver import features_of

    frame = to_split(catalog)
    if len(catalog.side("test")):
        return None, ""
    trained = any(not recipe.solves(stage) for stage in recipe.stages)
    if len(frame) > MOST_FOLDED:
        # Features that were trained know their pictures, so that folds of a head on them would flatter.
        unseen = "put pictures that it has not seen into test/, and evaluate it on these" if trained else again
        return None, f"for a number that nothing was chosen by: {unseen}"
    source = first.features.get(recipe.head.pool) or first.features["avg"]
    try:
        found = folds(
            features_of(source, np.arange(len(frame))),
            catalog.targets(frame),
            groups=group_numbers(frame, together),
            seed=recipe.seed,
            several_labels=recipe.head.output == "sigmoid",
        )
    except DataError:
        return None, ""  # too few pictures of a class
    return found, "of the solved head alone: stages that train more are not in it" if trained else ""


def set_beside(
    first: FirstPass,
    catalog: Catalog,
    together: Sequence[Sequence[str]],
    *,
    recipe: Recipe,
    measures: Measures,
    solver: Solver | None = None,
) -> Baselines:
    """What needs no fine-tuning, on the same features and the same sides, beside the result.

    Args:
        first: with averaged features.
        catalog: split.
        together: content hashes of near-copies.
        recipe: its head's output and its seed are read.
        measures: of the model on the pictures that were held out.
        solver: has solved the same head before, perhaps. Neighbours are looked for among as many pictures as it takes
            into memory.
    """
    from greffon.evaluation.baselines import baselines
    from greffon.training.solver import Solver, features_of, width_of

    solver, several, source = solver or Solver(), recipe.head.output == "sigmoid", first.features["avg"]
    frame = to_split(catalog)
    rows = {side: np.flatnonzero((frame["split"] == side).to_numpy()) for side in ("train", "val")}
    targets = {side: catalog.targets(frame.filter(pl.col("split") == side)) for side in rows}
    groups = group_numbers(frame.filter(pl.col("split") == "train"), together)
    probe = None
    if several or (targets["train"].sum(axis=0) > 0).sum() > 1:
        probe = solver.solve(
            source, rows["train"], targets["train"], several_labels=several, groups=groups, seed=recipe.seed
        )
    near = solver.fitting(targets["train"], width_of(source), recipe.seed)
    found = baselines(
        features_of(source, rows["train"][near]),
        targets["train"][near],
        features_of(source, rows["val"]),
        targets["val"],
        several_labels=several,
        probe=probe,
    )
    return found.beside("this run", measures)
