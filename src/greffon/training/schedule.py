"""How the learning rate of a stage runs over its steps: a factor of its peak, as a function of the step alone.

A function of the step needs no state of its own: where the optimizer's counter stands, the schedule stands.

- warm-up: a linear rise over the first steps (Goyal et al. 2017, "Accurate, Large Minibatch SGD").
- cosine: from the peak to nothing along half a cosine (Loshchilov & Hutter 2017, "SGDR", one cycle of it).
- one-cycle: up from a tenth of the peak and down again, linearly, then to a thousandth in the last tenth (Smith 2018,
  "A disciplined approach to neural network hyper-parameters"). His momentum, which runs the other way, is left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from greffon.recipe import Stage

# Of a one-cycle: the share of the steps up to the peak, that until it is down again, and the factors there.
_UP, _DOWN = 0.45, 0.9
_LOW, _LEAST = 0.1, 0.001


@dataclass(frozen=True)
class Ramp:
    """Factor of the peak learning rate at each step of a stage.

    Attributes:
        kind: `constant`, `cosine` or `one-cycle`.
        warmup: steps of the linear rise.
        steps: of the whole stage, at least 1; later ones get what the last one got.
        epoch: steps of one epoch.

    Example:
        >>> import numpy as np
        >>> from greffon.training.schedule import Ramp
        >>> Ramp("cosine", warmup=2, steps=6, epoch=3).at(np.arange(6)).astype(float).round(3).tolist()
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """

    kind: str
    warmup: int
    steps: int
    epoch: int

    def at(self, step: Any) -> Any:
        """The factor, 0 to 1, for a step or several, counted from 0; float32, a tensor if `step` is one."""
        is_array = isinstance(step, int | np.ndarray)
        xp: Any = np if is_array else ops
        step = np.asarray(step, np.float32) if is_array else ops.cast(step, "float32")
        step = xp.minimum(step, float(self.steps - 1))
        if self.kind == "one-cycle":
            return self._one_cycle(step, xp)
        rise = xp.minimum((step + 1.0) / max(self.warmup, 1), 1.0)
        if self.kind == "constant":
            return rise
        gone = xp.maximum(step - self.warmup, 0.0) / max(self.steps - self.warmup, 1)
        return rise * 0.5 * (1.0 + xp.cos(math.pi * gone))

    def _one_cycle(self, step: Any, xp: Any) -> Any:
        share = (step + 1.0) / self.steps
        up = _LOW + (1.0 - _LOW) * share / _UP
        down = 1.0 - (1.0 - _LOW) * (share - _UP) / (_DOWN - _UP)
        end = _LOW - (_LOW - _LEAST) * (share - _DOWN) / (1.0 - _DOWN)
        return xp.maximum(xp.where(share <= _UP, up, xp.where(share <= _DOWN, down, end)), _LEAST)


def ramp_of(stage: Stage, steps_per_epoch: int) -> Ramp | None:
    """The schedule of a stage; None where its learning rate stays what it is.

    Args:
        stage: its schedule, warm-up and epochs.
        steps_per_epoch: batches of an epoch.

    Example:
        >>> import greffon
        >>> from greffon.training.schedule import ramp_of
        >>> ramp_of(greffon.Stage(), 10) is None, ramp_of(greffon.Stage(epochs=3, warmup=0.5), 10).warmup
        (True, 5)
    """
    if stage.schedule == "constant" and not stage.warmup:
        return None
    steps = max(1, stage.epochs * steps_per_epoch)
    return Ramp(stage.schedule, round(stage.warmup * steps_per_epoch), steps, max(1, steps_per_epoch))


def rate_of_epoch(optimizer: keras.optimizers.Optimizer, epoch: int) -> float:
    """Mean learning rate over the steps of an epoch.

    Args:
        optimizer: any; one with a `ramp` has a schedule.
        epoch: counted from 0.
    """
    ramp: Ramp | None = getattr(optimizer, "ramp", None)
    if ramp is None:
        return float(ops.convert_to_numpy(optimizer.learning_rate))
    peak = float(ops.convert_to_numpy(optimizer.peak))
    if optimizer.is_held:
        return peak
    return peak * float(np.mean(ramp.at(np.arange(epoch * ramp.epoch, (epoch + 1) * ramp.epoch))))
