"""One trial: a training by a recipe on what all trials share, without a run folder; pruned, or ended by the clock."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError
from greffon.training.first_pass import FirstPass, look_first
from greffon.training.job import Job
from greffon.training.progress import Reporter
from greffon.training.purpose import Purpose
from greffon.training.rate import TRIED_EPOCHS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from greffon.frozen.activations import Activations
    from greffon.pictures.catalog import Catalog
    from greffon.recipe import Recipe, Stage
    from greffon.training.planned import Planned
    from greffon.training.purpose import Ready
    from greffon.training.stage_result import StageResult
    from greffon.training.start import Start

    Array = np.ndarray[Any, Any]

TENTHS = 10
"""Rungs at which trials are compared: tenths of the epochs that a recipe may take, since recipes differ in these."""


class PrunedTrial(Exception):  # noqa: N818 - it is no error
    """A trial that was ended because others were better by then."""


class OutOfTimeTrial(Exception):  # noqa: N818
    """A trial that was ended because the time was over."""


@dataclass(frozen=True)
class StageTook:
    """What a stage took: its freeze rules, epochs (those of a search for a learning rate counted) and seconds."""

    depth: str
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        loss: mean cross-entropy of the validation pictures, in nats.
        accuracy: of them.
        seconds: of the whole trial.
        trunk_seconds: of them in the frozen part.
        stages: what each took.
        pool: the pooling of the head, also where the recipe left it open.
    """

    loss: float
    accuracy: float
    seconds: float
    trunk_seconds: float
    stages: tuple[StageTook, ...]
    pool: str


@dataclass
class Shared:
    """What all trials have in common.

    Attributes:
        start: the weights.
        catalog: split: train, val, and test, which no trial looks at.
        first: the pass over the pictures, its rows those of `to_split(catalog)`; None where no recipe asks for one.
        store: of activations.
        backbones: built, by image size and preprocessing.
        parts: activations that the last pass gave, of which those behind other cuts can be made.
    """

    start: Start
    catalog: Catalog
    first: FirstPass | None
    store: Any
    backbones: dict[Any, Any] = field(default_factory=dict)
    parts: list[Activations] = field(default_factory=list)


class Trial(Purpose[Outcome]):
    """A training of which only the validation loss is wanted, on what all trials share.

    Args:
        shared: what it need not make again.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def backbone(self, start: Start, recipe: Recipe) -> Any:
        """Built once for all trials."""
        known = self._shared.backbones
        key = (recipe.image_size, recipe.preprocessing)
        if key not in known:
            known[key] = super().backbone(start, recipe)
        return known[key]

    def store(self) -> Any:
        """That of all trials."""
        return self._shared.store

    def first_pass(self, model: Any, recipe: Recipe, *args: Any, **options: Any) -> FirstPass | None:
        """That of all trials, where it has what this recipe compares."""
        from greffon.training.pooling import compared_pools

        first = self._shared.first
        pools = compared_pools(model, recipe, len(first.features["avg"]) if first else 0)
        if first is None or any(pool not in first.features for pool in pools):
            return look_first(model, recipe, *args, **options)
        if recipe.near_copies == "ignore" and len(pools) == 1:
            return None
        return FirstPass(self._lent(first.planned), {pool: first.features[pool] for pool in pools}, first.near)

    def _lent(self, planned: Planned) -> Planned:
        """The pass over the pictures for a trial to go on from, which takes activations away and adds its work."""
        lent = copy.copy(planned)
        lent.work, lent.parts = replace(planned.work), list(self._shared.parts)
        return lent

    def went_bad(self, catalog: Catalog) -> None:
        """Trials before this one had those pictures."""
        raise DataError("pictures that could be read when the study began cannot be read any more: see greffon check")

    def result(self, job: Job[Any], ready: Ready) -> Outcome:
        """Run the stages; what came out."""
        results, answers = ready.stages.run()
        loss, accuracy = self._measured(job, ready, answers)
        chosen = job.chosen.get("pool")
        pool = chosen["chosen"] if isinstance(chosen, dict) else job.recipe.head.pool
        seconds, first = job.elapsed.seconds, self._shared.first
        trunk = ready.stages.work.seconds - (first.planned.work.seconds if first else 0.0)
        return Outcome(loss, accuracy, seconds, max(trunk, 0.0), tuple(map(_took, results)), pool)

    def _measured(self, job: Job[Any], ready: Ready, answers: Array) -> tuple[float, float]:
        """Loss and accuracy on the validation pictures."""
        from greffon.training.solved import mean_loss, picture_losses

        targets, several = ready.catalog.targets(ready.catalog.side("val")), job.several_labels
        loss = mean_loss(picture_losses(answers, targets, several_labels=several))
        right = ((answers >= 0.5) == (targets >= 0.5)).all(1) if several else answers.argmax(1) == targets.argmax(1)
        return loss, float(right.mean())


def _took(result: StageResult) -> StageTook:
    tried = TRIED_EPOCHS * len(result.more.get("tried_learning_rates", ()))
    return StageTook(depth_of(result.stage), len(result.history) + tried, result.seconds)


def depth_of(stage: Stage) -> str:
    """The freeze rules of a stage as one word."""
    rules = stage.unfreeze if isinstance(stage.unfreeze, tuple) else (stage.unfreeze,)
    return ",".join(map(str, rules))


def run_trial(recipe: Recipe, shared: Shared, reporter: Reporter) -> Outcome:
    """Train, and say what came out.

    Raises:
        PrunedTrial, OutOfTimeTrial: the reporter ended it.
        GreffonError: as `greffon.train` does.
    """
    import gc

    try:
        outcome = Job(recipe, shared.start, reporter, Trial(shared)).run(shared.catalog)
    finally:
        gc.collect()  # the model of the last trial, whose layers know one another
    if not math.isfinite(outcome.loss):
        raise ArithmeticError("the validation loss is not a number")
    return outcome


class TrialReporter(Reporter):
    """Hands the validation loss of every epoch on, and ends the trial where it is told to.

    Args:
        recipe: whose epochs are counted.
        outer: shows the pass of the trunk; epochs are not shown.
        report: called with the lowest loss of the stage so far and the tenth; whether to prune. None: never.
        deadline: by `time.monotonic`; from then on the trial is ended. None: never.
    """

    def __init__(
        self,
        recipe: Recipe,
        outer: Reporter,
        *,
        report: Callable[[float, int], bool] | None = None,
        deadline: float | None = None,
    ) -> None:
        self._recipe, self._outer, self._report, self._deadline = recipe, outer, report, deadline
        lengths = [1 if recipe.solves(stage) else stage.epochs for stage in recipe.stages]
        self._before = {
            stage.name: sum(lengths[:place]) for place, stage in enumerate(recipe.stages)
        }  # fmt: skip
        self._total = sum(lengths)
        self._stage, self._lowest, self._told = "", math.inf, 0

    def bar(self, name: str, *, total: int | None, unit: str = "pictures") -> Any:
        """The pass of the trunk, which takes long."""
        return self._outer.bar(name, total=total, unit=unit)

    def epoch(self, stage: str, epoch: int, epochs: int, logs: Mapping[str, float], best: bool) -> None:
        """An epoch ended: hand its loss on."""
        if stage != self._stage:
            self._stage, self._lowest = stage, math.inf
        loss = float(logs.get("val_loss", math.nan))
        if math.isfinite(loss):
            self._lowest = min(self._lowest, loss)
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTimeTrial
        tenth = TENTHS * (self._before.get(stage, 0) + epoch) // self._total
        if self._report is not None and tenth > self._told and math.isfinite(self._lowest):
            self._told = tenth
            if self._report(self._lowest, tenth):
                raise PrunedTrial
