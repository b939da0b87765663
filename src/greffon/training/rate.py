"""A learning rate that suits: by a few that are tried for two epochs each, or by an exponential range test."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras

from greffon.training.progress import Reporter
from greffon.training.rate_curve import RateCurve, rates_between
from greffon.training.stage_tail import values_of
from greffon.training.watch import StageWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from greffon.recipe import Stage
    from greffon.training.stage_tail import StageTail

RATES = (3e-5, 1e-4, 3e-4)
"""What is tried. Fine-tuning the last block of `thin` on 2,000 pictures of Fashion-MNIST with Adam, 1e-4 to 3e-4 did
best and 1e-3 destroyed what was there."""

_SGD_RATES = (1e-2, 3e-2, 1e-1)
"""The same for plain sgd, whose steps shrink with the gradient; with momentum, whose steps add up, less by as much."""

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
"""Of the range test: from a rate that moves nothing to one that no optimizer of a recipe survives."""

TRIED_EPOCHS = 2
"""For which each rate is tried."""

_DIVERGED = 4.0  # times the lowest smoothed loss, from which on a range test has seen enough
_MEMORY = 0.8  # of the running mean that is compared with it
_FALLBACK = 1e-4


@dataclass(frozen=True)
class FoundRate:
    """A learning rate that was looked for.

    Attributes:
        rate: it.
        why: how it was found, in a few words.
        losses: validation loss by rate, where some were tried.
        curve: of the range test, where there was one.
    """

    rate: float
    why: str
    losses: Mapping[float, float] = field(default_factory=dict)
    curve: RateCurve | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the run's record."""
        tried = {f"{rate:g}": round(loss, 6) if math.isfinite(loss) else None for rate, loss in self.losses.items()}
        more: dict[str, Any] = {"tried_learning_rates": tried} if tried else {}
        if self.curve is not None:
            more["rate_curve"] = self.curve.to_dict()
        return {"chosen_learning_rate": self.rate, **more}

    def __str__(self) -> str:
        return f"learning rate {self.rate:.3g}, {self.why}"


def find_rate(tail: StageTail, stage: Stage, feeds: dict[str, Callable[[], Any]], *, seed: int) -> FoundRate:
    """The learning rate that a stage's `learning_rate` asks to look for; from where the tail stands.

    Weights, statistics and optimizer are as before afterwards, but for the optimizer's learning rate, which is set.

    Args:
        tail: compiled.
        stage: its `learning_rate` is `auto` (the least mean validation loss of two epochs) or `range` (a range test).
        feeds: make what it trains on ("train") and is judged by ("validation").
        seed: of order and dropout, the same for all.
    """
    if stage.learning_rate == "range":
        curve = range_test(tail, feeds["train"], seed=seed)
        rate = _FALLBACK if curve.suggestion is None else curve.suggestion
        found = FoundRate(rate, f"by a range test: {curve.reason}", curve=curve)
    else:
        losses = _try_rates(tail, stage, feeds, seed=seed)
        best = min(losses, key=losses.__getitem__)
        found = FoundRate(best, "the best of a few in two epochs each", losses)
    tail.optimizer.learning_rate = found.rate
    return found


def rates_to_try(stage: Stage) -> tuple[float, ...]:
    """Learning rates that `learning_rate: auto` tries for a stage, ascending."""
    if stage.optimizer != "sgd":
        return RATES
    return tuple(round(rate * (1.0 - stage.momentum), 6) for rate in _SGD_RATES)


def _try_rates(
    tail: StageTail, stage: Stage, feeds: dict[str, Callable[[], Any]], *, seed: int
) -> dict[float, float]:  # fmt: skip
    """Validation loss with each rate that suits its optimizer, the mean of two epochs."""
    trial = stage.replace(epochs=min(TRIED_EPOCHS, stage.epochs), patience=None, keep_best=False)
    losses = {}
    for rate in rates_to_try(stage):
        with _as_before(tail):
            tail.optimizer.learning_rate = rate
            keras.utils.set_random_seed(seed)
            watch = StageWatch(trial, Reporter(), [])
            tail.train_on(
                feeds["train"](), validation_data=feeds["validation"](), callbacks=[watch], epochs=trial.epochs,
                verbose=0, steps=None,
            )  # fmt: skip
            # The mean of the epochs and not the last: a rate that first destroys what was there comes back by luck.
            loss = sum(row["val_loss"] for row in watch.rows) / len(watch.rows)
            losses[rate] = loss if math.isfinite(loss) else math.inf
    return losses


def range_test(
    tail: StageTail,
    train: Callable[[], Any],
    *,
    seed: int,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RateCurve:
    """Train with a learning rate that grows from step to step, until the loss breaks away (Smith 2017).

    "Cyclical Learning Rates for Training Neural Networks", section 3.3; with rates that grow by a factor, as fast.ai
    does it. Weights, statistics and optimizer are as before afterwards.

    Args:
        tail: compiled.
        train: makes what it trains on.
        seed: of order and dropout.
        lowest: first learning rate.
        highest: last one, if the loss does not break away before.
        steps: how many batches.

    Raises:
        InputError: the rates are not positive and ascending, or the steps too few.
    """
    rates = rates_between(lowest, highest, steps)
    watch = _RangeWatch(rates)
    with _as_before(tail):
        keras.utils.set_random_seed(seed)
        # Every step is an "epoch" of its own: metrics begin anew, and all backends see a rate that is set there.
        tail.train_on(
            train(), callbacks=[watch], epochs=len(rates), verbose=0, steps=None, steps_per_epoch=1
        )  # fmt: skip
    return RateCurve.of(rates[: len(watch.losses)], watch.losses)


class _RangeWatch(keras.callbacks.Callback):
    """Raises the learning rate from step to step and notes the loss of each."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.losses: list[float] = []
        self._rates = rates
        self._mean, self._lowest = 0.0, math.inf

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Set the rate of the step."""
        self.model.optimizer.learning_rate = self._rates[epoch]

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """That this is here keeps steps single: see `Tail.train_on`."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Note the loss; stop where it has broken away."""
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self.losses.append(loss)
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * loss
        mean = self._mean / (1 - _MEMORY ** len(self.losses))
        self._lowest = min(self._lowest, mean)
        if mean > _DIVERGED * max(self._lowest, 0.05):
            self.model.stop_training = True


@contextmanager
def _as_before(tail: StageTail) -> Iterator[None]:
    """Weights, statistics, optimizer and metrics as they were, afterwards."""
    before = values_of(tail)
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
