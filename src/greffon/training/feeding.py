"""What a stage trains: its tail, with XLA or without, and what makes the batches that suit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.frozen.feature_augment import FeatureAugment, augments_features, is_pooled
from greffon.training.balance import balanced_rows, balanced_weights
from greffon.training.ordered import StageFeed
from greffon.training.practice import mixing_of
from greffon.training.stage_tail import StageTail, can_fill_up, xla_pays

if TYPE_CHECKING:
    import keras

    from greffon.frozen.cut import Cut
    from greffon.recipe import Recipe, Stage
    from greffon.training.choices import Choices
    from greffon.training.planned import StagePlan
    from greffon.training.samples import Samples

    Array = np.ndarray[Any, Any]

Feeds = dict[str, Callable[[], StageFeed]]
"""What makes the batches to learn from ("train") and to be judged by ("validation")."""


@dataclass(frozen=True)
class Feeding:
    """Makes tails and their batches.

    Attributes:
        model: grafted; compiled for the stage before a tail is made.
        recipe: its sampling, class weights, changes of activations and seed are read.
        samples: the pictures.
        choices: whether XLA compiles a stage, once that was tried.
    """

    model: keras.Model
    recipe: Recipe
    samples: Samples
    choices: Choices

    def shown(self) -> tuple[Array, Array | None]:
        """Which of the pictures to learn from an epoch shows, and how much each of those counts; None: all alike."""
        targets = self.samples.targets[self.samples.train]
        shown = np.arange(len(targets))
        if self.recipe.sampling == "balanced":
            shown = balanced_rows(targets, seed=self.recipe.seed)
        return shown, balanced_weights(targets[shown]) if self.recipe.class_weight == "balanced" else None

    def steps(self, stage: Stage) -> int:
        """Batches of an epoch."""
        return -(-len(self.shown()[0]) // stage.batch_size)

    def tail_and_feeds(self, plan: StagePlan, seed: int) -> tuple[StageTail, Feeds]:
        """The tail of a stage and what makes its batches."""
        stage = plan.stage
        fills_up = can_fill_up(plan.cut.tail)
        shown, weights = self.shown()

        def feed(rows: Array, *, xla: bool, shuffle: bool, weights: Array | None = None) -> StageFeed:
            first = rows.reshape(len(rows), -1)[:, 0]
            return StageFeed(
                plan.source, rows=rows, y=self.samples.targets[first], sample_weight=weights,
                batch_size=stage.batch_size, shuffle=shuffle, seed=seed, fill_up=xla and fills_up,
            )  # fmt: skip

        train = partial(feed, self.samples.views[shown], weights=weights, shuffle=True)
        tail = cache(partial(self._tail, plan, seed))  # one that was tried is compiled
        xla = self.choices.xla(
            stage.name, lambda: xla_pays(tail, lambda xla: train(xla=xla), steps=self.steps(stage) * stage.epochs)
        )
        validation = partial(feed, self.samples.validation, xla=xla, shuffle=False)
        return tail(xla), {"train": partial(train, xla=xla), "validation": validation}

    def _tail(self, plan: StagePlan, seed: int, xla: bool) -> StageTail:
        stage, cut = plan.stage, plan.cut
        return StageTail(
            self.model, cut, jit_compile=xla, augment=self._augment(cut, seed), smoothing=stage.label_smoothing,
            mixing=mixing_of(stage, cut.shapes, seed=seed),
        )  # fmt: skip

    def _augment(self, cut: Cut, seed: int) -> FeatureAugment | None:
        recipe = self.recipe
        if not (augments_features(recipe) and is_pooled(cut.shapes)):
            return None
        return FeatureAugment(recipe.feature_noise, recipe.feature_brightness, seed)
