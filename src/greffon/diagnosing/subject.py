"""The run that is diagnosed: its pictures found again, its network, and the features that it started from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.bundle.commands import command_line
from greffon.diagnosing.compare import held_out, rightness
from greffon.diagnosing.network import Network
from greffon.errors import DataError, GreffonError, InputError
from greffon.pictures.catalog import SCHEMA, Catalog
from greffon.pictures.split import group_numbers
from greffon.recipe import Recipe
from greffon.reporting.found import Finder
from greffon.reporting.page import public
from greffon.training.near_copies import NearCopies, near_pairs
from greffon.training.samples import samples_of
from greffon.training.start import build_backbone, find_start

if TYPE_CHECKING:
    from greffon.bundle.predict import Predictor
    from greffon.bundle.read import Bundle
    from greffon.evaluation.evaluate import Bars
    from greffon.frozen.store import ActivationStore
    from greffon.pictures.near import NearPair
    from greffon.pictures.sources.columns import Columns

    Array = np.ndarray[Any, Any]

_HELD_OUT = 0.4  # of the pictures that are looked at, at most


class Subject:
    """A run under examination. What an experiment finds, the ones after it can take away: see the attributes.

    Args:
        predictor: the run.
        data: where its pictures are now; None: where they were.
        columns: which columns of a table say what.
        most: pictures that are looked at.
        store: where activations are kept.
        progress: shows how far it is.

    Attributes:
        frame: rows of the run's split that were found, those to learn from first.
        targets: float32 (n, classes), as the run was told. Where a shift of the labels is found, without it.
        notes: what the user should know, one sentence each.
        features: float32 (n, d), of the weights that the training started from, which have not seen the labels. Where
            another preprocessing is found to be right, with that one.
        labels_tell: whether the labels have to do with the pictures, as far as is known.
        labels_moved: whether `targets` are other ones than those that the run learned.

    Raises:
        InputError: the data cannot be read, or the run's network is no graph of layers.
        DataError: fewer than two pictures of the run are found on either side.
    """

    def __init__(
        self,
        predictor: Predictor,
        data: Any,
        *,
        columns: Columns | None,
        most: int,
        store: ActivationStore | None,
        progress: Bars,
    ) -> None:
        self.predictor, self.bundle, self.progress, self.store = predictor, predictor.bundle, progress, store
        self._data = data
        self.notes: list[str] = []
        self.labels_tell = True
        self.labels_moved = False
        self.frame = self._found(Finder(self.bundle, data, columns=columns, progress=progress), most)
        self.catalog = _catalog(self.frame, self.bundle)
        self.targets = self.catalog.targets(self.catalog.ok)
        prepare = self.bundle.preprocessing
        self.samples = samples_of(self.catalog, prepare.size, prepare.resize)
        self._features: Array | None = None
        self._held_out: tuple[tuple[int, int], Array | None] | None = None

    # --- the pictures ---

    @property
    def several(self) -> bool:
        """Whether a picture may have several labels."""
        return bool(self.bundle.several_labels)

    @property
    def check_command(self) -> str:
        """The command that looks at its pictures with the weights that the training started from."""
        recipe, given = self.bundle.recipe, self._data if self._data is not None else self.bundle.record.get("root")
        words = [public(str(given)) if isinstance(given, str | Path) else "DATA"]
        words += [] if recipe.weights == Recipe().weights else ["--weights", recipe.weights]
        words += [] if recipe.image_size == Recipe().image_size else ["--image-size", str(recipe.image_size)]
        words += [] if recipe.resize == "auto" else ["--resize", recipe.resize]
        return command_line("check", *words)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the model's outputs."""
        return tuple(self.bundle.class_names)

    @property
    def train(self) -> Array:
        """Rows of the pictures that the run learned from."""
        return np.asarray(self.samples.train)

    @property
    def val(self) -> Array:
        """Rows of those that it held out."""
        return np.asarray(self.samples.validation)

    @cached_property
    def pairs(self) -> list[NearPair]:
        """Near-copies among the pictures, by row."""
        with self.progress.bar("looking for near-copies", total=None):
            return near_pairs(self.catalog, self.catalog.ok, self.features, self.store)

    @cached_property
    def groups(self) -> Array:
        """One number for each picture, int (n,): the same for copies, near-copies and pictures of one group."""
        frame = self.catalog.ok
        near = NearCopies(frame["path"].to_list(), frame["hash"].to_list(), frame["label"].to_list(), self.pairs)
        return group_numbers(frame, near.together)

    # --- the networks ---

    @cached_property
    def network(self) -> Network:
        """The run's own, as it is saved."""
        model = self.predictor.keras()
        return Network(model, self.bundle.preprocessing, self.samples, self.store, self.progress)

    @cached_property
    def start(self) -> Network:
        """The one that the training started from; where its weights are gone, the run's own, and that is said."""
        from greffon.backbone.graft import graft
        from greffon.recipe import Head

        if all(stage.unfreeze in ("none", 0) for stage in self.bundle.recipe.stages):
            return self.network  # nothing but the head was trained
        recipe = self.bundle.recipe.replace(image_size=self.bundle.preprocessing.size)
        try:
            backbone, record, _ = build_backbone(find_start(recipe.weights), recipe)
        except GreffonError as error:
            self.notes.append(
                f"The weights that the training started from are not here, so features are those of the run's own "
                f"network, which knows the pictures that it learned from: {error}"
            )
            return self.network
        model = graft(backbone, max(2, len(self.class_names)), Head(), preprocessing=record)
        model.trainable = False
        return Network(model, record, self.samples, self.store, self.progress)

    @property
    def features(self) -> Array:
        """See above."""
        if self._features is None:
            self._features = self.start.features
        return self._features

    @features.setter
    def features(self, values: Array) -> None:
        self._features = values

    # --- what experiments ask for ---

    @property
    def held_out(self) -> Array | None:
        """Answers for all pictures by solved heads that have not seen them; None where there are too few."""
        asked = id(self.features), id(self.targets)
        if self._held_out is None or self._held_out[0] != asked:
            self._held_out = asked, self.named(self.features, self.targets)
        return self._held_out[1]

    @cached_property
    def right(self) -> Array:
        """How right, float64 (held out,), the run itself is on the pictures that it held out."""
        return self.rightness(self.network.answers[self.val], self.targets[self.val])

    def rightness(self, probabilities: Array, targets: Array) -> Array:
        """How right answers are, 0..1 each."""
        return rightness(probabilities, targets, several_labels=self.several)

    def named(self, features: Array, targets: Array, rows: Array | None = None) -> Array | None:
        """Answers of solved heads for pictures that they have not seen, copies of them neither; None: too few.

        Args:
            features: of all pictures, or of `rows`.
            targets: likewise.
            rows: which pictures these are; None: all.
        """
        groups = self.groups if rows is None else self.groups[rows]
        return held_out(features, targets, groups, several_labels=self.several)

    @cached_property
    def small_head(self) -> Array:
        """Answers float32 (held out, classes) of a head solved on the features of the pictures to learn from.

        Raises:
            DataError: these are of one class.
        """
        from greffon.evaluation.folds import DECADES
        from greffon.evaluation.probe import solve

        features = self.start.features  # prepared as in the run, whatever was found since
        probe = solve(
            features[self.train], self.targets[self.train], several_labels=self.several, strengths=DECADES,
            groups=self.groups[self.train],
        )  # fmt: skip
        return probe.probabilities(features[self.val])

    def recipe(self) -> Recipe:
        """The run's, with the pooling and the channels that were chosen in it."""
        from greffon.backbone.blocks import EACH_BLOCK, channels_of

        recipe = self.bundle.recipe
        chosen = self.bundle.record.get("pool")
        if recipe.head.pool == "auto":
            pool = chosen.get("chosen", "avg") if isinstance(chosen, dict) else "avg"
            recipe = recipe.replace(head=recipe.head.replace(pool=pool))
        if recipe.head.pool in EACH_BLOCK:
            channels = channels_of(self.network.model)
            recipe = recipe.replace(head=recipe.head.replace(channels=channels))
        return recipe

    def _found(self, finder: Finder, most: int) -> pl.DataFrame:
        """Rows of the split with a number of their place in it, `locator` where each picture is; a sample of many."""
        rows = self.bundle.split.with_row_index("place").filter(pl.col("split").is_in(["train", "val"]))
        held = rows.filter(pl.col("split") == "val")
        share = min(len(held), max(int(_HELD_OUT * most), most - (len(rows) - len(held))))
        parts = [_drawn(rows.filter(pl.col("split") == "train"), most - share), _drawn(held, share)]
        drawn = pl.concat(parts)
        if len(drawn) < len(rows):
            self.notes.append(f"Of {len(rows):,} pictures {len(drawn):,} were looked at, drawn by chance")
        places = finder.find(drawn["path"].to_list(), drawn["hash"].to_list())
        there = [place is not None for place in places]
        if not all(there):
            gone = there.count(False)
            self.notes.append(
                f"{gone:,} of {len(drawn):,} pictures are gone or were changed (say where they are: --data)"
            )
        drawn = drawn.with_columns(path=pl.Series([str(place) for place in places], dtype=pl.String))
        drawn = drawn.filter(pl.Series(there, dtype=pl.Boolean))
        counts = {side: int((drawn["split"] == side).sum()) for side in ("train", "val")}
        if min(counts.values()) < 2:
            raise DataError(
                f"run {self.bundle.path}: experiments need at least two of the pictures that it learned from and two "
                f"that it held out, found {counts['train']} and {counts['val']}: say where they are now (data, --data)"
            )
        return drawn


def _drawn(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """So many rows by chance, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]


def _catalog(frame: pl.DataFrame, bundle: Bundle) -> Catalog:
    """The pictures as a catalog, whose paths are where they are now."""
    lacking = {"state": "ok", "reason": ""}
    frame = frame.drop("place").with_columns(
        pl.lit(lacking.get(name)).cast(dtype).alias(name)
        for name, dtype in SCHEMA.items()
        if name not in frame.columns or name in lacking
    )
    try:
        return Catalog(frame, tuple(bundle.class_names), Path())
    except DataError as error:
        raise InputError(f"run {bundle.path}: its split does not go with its classes: {error}") from error
