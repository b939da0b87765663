"""What stands beside a run's numbers: baselines on the same pictures, and repeated folds on its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.evaluation.baselines import Baselines, baselines, majority
from greffon.evaluation.folds import REPEATS, Folds, folds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.bundle.read import Bundle

    Array = np.ndarray[Any, Any]

MOST_UNASKED = 1000
"""Training pictures up to which a head is solved on them without being asked for: some seconds."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures that a run has answered for.

    Attributes:
        rows: of a catalog, in the order of the others.
        targets: 0 or 1 (n, classes).
        known: String (n,), the side of the run's own split that it knows each from, or null.
        features: float32 (n, d), or None.
    """

    rows: pl.DataFrame
    targets: Array
    known: pl.Series
    features: Array | None

    def where(self, mask: pl.Series) -> Pictures:
        """Some of them."""
        kept = mask.to_numpy()
        features = None if self.features is None else self.features[kept]
        return Pictures(self.rows.filter(mask), self.targets[kept], self.known.filter(mask), features)

    @property
    def measured(self) -> Pictures:
        """Those that a result is told for: new ones; else those that were not learned from; else all."""
        for mask in (self.known.is_null(), self.known != "train"):
            if mask.any():
                return self.where(mask)
        return self

    @property
    def groups(self) -> Array:
        """int64 (n,), one number for pictures that must not be told apart: of one group, or of equal content."""
        names = self.rows["hash"]
        if "group" in self.rows.columns:
            grouped = self.rows["group"].fill_null("")
            names = pl.select(pl.when(grouped != "").then("group " + grouped).otherwise(names)).to_series()
        return np.unique(names.to_numpy(), return_inverse=True)[1]


def baselines_beside(
    bundle: Bundle, pictures: Pictures, learned: Pictures | None = None, *, asked: bool = False
) -> tuple[Baselines | None, list[str]]:
    """Baselines on the pictures that a result is told for, and what is to be said of them.

    Args:
        bundle: the run.
        pictures: what was evaluated, with features where the others than the largest class are wanted.
        learned: further pictures that the run was trained on; those among `pictures` are taken anyway.
        asked: whether to compute them for more than 1,000 training pictures too.
    """
    test = pictures.measured
    several = bundle.several_labels
    known = [part for part in (pictures.where((pictures.known == "train").fill_null(False)), learned) if part]
    train = [part for part in known if len(part.rows) and part.features is not None]
    count = sum(len(part.rows) for part in train)
    if not count or test.features is None or test is pictures or (count > MOST_UNASKED and not asked):
        targets = _targets_of(bundle.split, bundle.class_names)
        if targets is None or not len(targets):
            return None, []
        return Baselines((majority(targets, test.targets, several_labels=several),)), []
    found = baselines(
        np.concatenate([part.features for part in train if part.features is not None]),
        np.concatenate([part.targets for part in train]),
        test.features,
        test.targets,
        several_labels=several,
        groups=np.concatenate([part.groups + place * len(pictures.rows) for place, part in enumerate(train)]),
    )
    notes = ["Nearest neighbour and linear head see the features of the run's own network, as it is after training"]
    all_of_them = bundle.split.filter(pl.col("split") == "train")["hash"].n_unique()
    seen = len({content for part in train for content in part.rows["hash"]})
    if seen < all_of_them:
        notes.append(f"The baselines know {seen:,} of the {all_of_them:,} pictures that the run was trained on")
    return found, notes


def folds_beside(
    bundle: Bundle,
    pictures: Pictures,
    count: int,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> tuple[Folds, str, list[str]]:
    """Repeated folds of a head on the run's features, over all pictures that were evaluated.

    Args:
        bundle: the run.
        pictures: with features.
        count: folds, at least 2.
        repeats: at least 1.
        seed: of the folds.
        advance: called with how many more repeats are done.

    Returns:
        The folds; why they flatter, or nothing where they do not; what else is to be said.
    """
    found = folds(
        pictures.features,  # type: ignore[arg-type]
        pictures.targets,
        folds=count,
        repeats=repeats,
        groups=pictures.groups,
        seed=seed,
        several_labels=bundle.several_labels,
        advance=advance,
    )
    notes = []
    if found.folds < count:
        notes.append(f"{found.folds} folds instead of {count}: the smallest class has no more pictures, copies aside")
    known = int((pictures.known == "train").sum())
    if not known or not has_learned_features(bundle):
        return found, "", notes
    return found, f"flattered, as the network has learned from {known:,} of these {found.count:,} pictures", notes


def has_learned_features(bundle: Bundle) -> bool:
    """Whether a run's features know the labels of what it was trained on: more than its head has learned from them."""
    recipe = bundle.recipe
    if recipe.head.channels is not None or len(bundle.earlier):  # chosen by labels; from another run
        return True
    recorded = {stage.get("name"): stage for stage in bundle.record.get("stages", ())}
    return any(
        not recipe.solves(stage)
        and stage.unfreeze not in ("none", 0)
        and recorded.get(stage.name, {}).get("kept", True)
        for stage in recipe.stages
    )


def _targets_of(split: pl.DataFrame, class_names: Sequence[str]) -> Array | None:
    """0 or 1 (n, classes) for the training pictures of a run; None where its labels are not the model's classes."""
    rows = split.filter(pl.col("split") == "train")
    labels = rows["labels"].to_list() if "labels" in rows.columns else [[label] for label in rows["label"]]
    places = {name: place for place, name in enumerate(class_names)}
    targets = np.zeros((len(rows), len(places)), np.float32)
    for row, of_one in enumerate(labels):
        if not places.keys() >= set(of_one):
            return None
        targets[row, [places[label] for label in of_one]] = 1
    return targets
