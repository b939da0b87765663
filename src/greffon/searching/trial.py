"""One trial: a training by a recipe on what all trials share, without a run folder; pruned, or ended by the clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError
from greffon.training.first_pass import FirstPass, look_first
from greffon.training.job import Job
from greffon.training.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from greffon.pictures.catalog import Catalog
    from greffon.recipe import Recipe, Stage
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
    """

    start: Start
    catalog: Catalog
    first: FirstPass | None
    store: Any
    backbones: dict[Any, Any] = field(default_factory=dict)


class SearchJob(Job):
    """A training of which only the validation loss is wanted.

    Args:
        recipe: of the trial.
        shared: what it need not make again.
        reporter: told what happens.
    """

    def __init__(self, recipe: Recipe, shared: Shared, reporter: Reporter) -> None:
        super().__init__(recipe, shared.start, reporter, None)
        self._shared = shared
        self.outcome: Outcome | None = None

    def _backbone(self, recipe: Recipe) -> Any:
        known = self._shared.backbones
        key = (recipe.image_size, recipe.preprocessing)
        if key not in known:
            known[key] = super()._backbone(recipe)
        return known[key]

    def _look(self, model: Any, recipe: Recipe, *args: Any, **options: Any) -> FirstPass | None:
        from greffon.training.pooling import compared_pools

        first = self._shared.first
        pools = compared_pools(model, recipe, len(first.features["avg"]) if first else 0)
        if first is None or any(pool not in first.features for pool in pools):
            return look_first(model, recipe, *args, **options)
        if recipe.near_copies == "ignore" and len(pools) == 1:
            return None
        return FirstPass(first.planned, {pool: first.features[pool] for pool in pools}, first.near)

    def _store(self) -> Any:
        return self._shared.store

    def _begins_anew(self, catalog: Catalog) -> None:
        raise DataError("pictures that could be read when the study began cannot be read any more: see greffon check")

    def _finish(  # type: ignore[override]
        self, out: Path, overwrite: bool, model: Any, catalog: Catalog, resize: Any, results: Sequence[Any],
        probabilities: Array, stages: Any, *rest: Any,
    ) -> None:  # fmt: skip
        from greffon.training.solved import mean_loss, picture_losses

        targets = catalog.targets(catalog.side("val"))
        several = self.recipe.head.output == "sigmoid"
        loss = mean_loss(picture_losses(probabilities, targets, several_labels=several))
        right = ((probabilities >= 0.5) == (targets >= 0.5)).all(1) if several else None
        accuracy = right if right is not None else probabilities.argmax(1) == targets.argmax(1)
        chosen = self._chosen.get("pool")
        pool = chosen["chosen"] if isinstance(chosen, dict) else self.recipe.head.pool
        took = tuple(
            StageTook(
                depth_of(result.stage),
                len(result.history) + _TRIED * len(result.more.get("tried_learning_rates", ())),
                result.seconds,
            )
            for result in results
        )
        seconds = time.perf_counter() - self._began
        trunk = stages.work.seconds - (self._shared.first.planned.work.seconds if self._shared.first else 0.0)
        self.outcome = Outcome(loss, float(accuracy.mean()), seconds, max(trunk, 0.0), took, pool)


_TRIED = 2  # epochs for each learning rate that is tried


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
    from pathlib import Path

    job = SearchJob(recipe, shared, reporter)
    try:
        job.run(shared.catalog, Path(), overwrite=False)
    finally:
        gc.collect()  # the model of the last trial, whose layers know one another
    if job.outcome is None or not math.isfinite(job.outcome.loss):
        raise ArithmeticError("the validation loss is not a number")
    return job.outcome


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
