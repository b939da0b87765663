"""A learning rate that suits, found by trying a few for two epochs each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras

from greffon.training.progress import Reporter
from greffon.training.stage_tail import values_of
from greffon.training.watch import StageWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.recipe import Stage
    from greffon.training.stage_tail import StageTail

RATES = (3e-5, 1e-4, 3e-4)
"""What is tried. Fine-tuning the last block of `thin` on 2,000 pictures of Fashion-MNIST with Adam, 1e-4 to 3e-4 did
best and 1e-3 destroyed what was there."""

_EPOCHS = 2


def find_rate(tail: StageTail, stage: Stage, feeds: dict[str, Callable[[], Any]], *, seed: int) -> float:
    """The learning rate with the least validation loss after two epochs from where the tail stands.

    Weights, statistics and optimizer are as before afterwards, but for the optimizer's learning rate, which is set.

    Args:
        tail: compiled.
        stage: whose epochs are tried.
        feeds: make what it trains on ("train") and is judged by ("validation").
        seed: of order and dropout, the same for all.
    """
    before = values_of(tail)
    trial = stage.replace(epochs=min(_EPOCHS, stage.epochs), patience=None, keep_best=False)
    losses = {}
    for rate in RATES:
        tail.optimizer.learning_rate = rate
        keras.utils.set_random_seed(seed)
        watch = StageWatch(trial, Reporter(), [])
        tail.train_on(
            feeds["train"](), validation_data=feeds["validation"](), callbacks=[watch], epochs=trial.epochs, verbose=0,
            steps=None,
        )  # fmt: skip
        loss = watch.rows[-1]["val_loss"]
        losses[rate] = loss if math.isfinite(loss) else math.inf
        for variable, value in before:
            variable.assign(value)
    best = min(losses, key=losses.__getitem__)
    tail.optimizer.learning_rate = best
    return best
