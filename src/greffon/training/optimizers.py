"""The optimizer of a stage: Keras' own where nothing else is asked for, else one with more behind each step.

All of it changes the update and not the gradient, since Adam divides a gradient by its own size.

- weight decay is decoupled (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization"), and spares biases and
  what BatchNormalization scales and shifts by.
- `group_decay`: lower groups of the network learn more slowly (ULMFiT: Howard & Ruder 2018, "Universal Language Model
  Fine-tuning for Text Classification"), each by the same factor from the one above.
- `l2_sp`: what is unfrozen of the backbone decays towards its pretrained values, not towards zero (Li, Grandvalet &
  Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks"); decoupled as well.
- `ema`: a running mean of the weights beside them (Polyak & Juditsky 1992; Tarvainen & Valpola 2017, "Mean teachers").

What is more than in Keras' own optimizer lies in its variables: it is saved and restored with them.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from greffon.backbone.parts import group_of, split_parts, sublayers
from greffon.training.schedule import Ramp, ramp_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from greffon.recipe import Stage

    Array = np.ndarray[Any, Any]
    Pretrained = Mapping[int, Array]

ADAMW_DECAY = 0.004
"""Weight decay of adamw where the stage says nothing: Keras' own."""

# Until so many steps have run, the mean forgets faster, so that it does not hang on where it began.
_EMA_START = 10.0


@dataclass(frozen=True)
class Extras:
    """What an optimizer does beside Keras' own.

    Attributes:
        ramp: schedule of the learning rate; None: constant.
        factors: id of a variable -> factor of its learning rate; 1 where it is not named.
        anchors: id of a variable -> the value that it decays towards.
        l2_sp: how fast, per unit of learning rate.
        ema: share of the running mean that a step keeps; 0: none is kept.
    """

    ramp: Ramp | None = None
    factors: Mapping[int, float] = field(default_factory=dict)
    anchors: Mapping[int, Array] = field(default_factory=dict)
    l2_sp: float = 0.0
    ema: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        uneven = any(factor != 1.0 for factor in self.factors.values())
        return self.ramp is not None or uneven or bool(self.l2_sp and self.anchors) or self.ema > 0.0


class _More:
    """Mixed into an optimizer of Keras': schedule, a rate for each variable, decay towards values, running mean."""

    extras: Extras = Extras()

    @property
    def ramp(self) -> Ramp | None:
        """The schedule."""
        return self.extras.ramp

    @property
    def peak(self) -> Any:
        """The learning rate that the schedule's factors are of; what setting `learning_rate` sets."""
        return self._learning_rate  # type: ignore[attr-defined]

    @property
    def is_held(self) -> bool:
        """Whether the schedule is left out for now."""
        return self.built and bool(ops.convert_to_numpy(self._held) > 0)  # type: ignore[attr-defined]

    def build(self: Any, variables: list[Any]) -> None:
        """Make the variables for these of the model."""
        if self.built:
            return
        super().build(variables)  # type: ignore[misc]
        extras = self.extras
        self._held = self.add_variable((), name="held")
        self._factors = [float(extras.factors.get(id(variable), 1.0)) for variable in variables]
        # Variables and no constants: a graph that XLA compiles would hold every one of their numbers.
        self._anchors = [
            self._anchor(variable, extras.anchors[id(variable)])
            if extras.l2_sp and id(variable) in extras.anchors
            else None
            for variable in variables
        ]

    def _anchor(self: Any, variable: Any, value: Array) -> Any:
        anchor = self.add_variable_from_reference(variable, name="anchor")
        anchor.assign(value)
        return anchor

    def _get_current_learning_rate(self: Any) -> Any:
        rate = super()._get_current_learning_rate()  # type: ignore[misc]
        if self.extras.ramp is None or not self.built:
            return rate
        held = ops.cast(self._held, "float32") > 0
        return ops.cast(rate, "float32") * ops.where(held, 1.0, self.extras.ramp.at(self.iterations))

    def _rate(self: Any, variable: Any, learning_rate: Any) -> Any:
        factor = self._factors[self._get_variable_index(variable)]
        return learning_rate if factor == 1.0 else learning_rate * factor

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras' own step at the variable's own rate."""
        super().update_step(gradient, variable, self._rate(variable, learning_rate))  # type: ignore[misc]

    def _apply_weight_decay(self: Any, variables: list[Any]) -> None:
        rate = self.learning_rate
        for variable in variables:
            own = ops.cast(self._rate(variable, rate), variable.dtype)
            if self.weight_decay and self._use_weight_decay(variable):
                variable.assign(variable - variable * own * self.weight_decay)
            anchor = self._anchors[self._get_variable_index(variable)]
            if anchor is not None:
                variable.assign(variable - (variable - anchor) * own * self.extras.l2_sp)

    def _update_model_variables_moving_average(self: Any, trainable_variables: list[Any]) -> None:
        """Keras' own running mean, which forgets its first steps sooner."""
        if not self.use_ema:
            return
        step = ops.cast(self.iterations, "float32")
        # The first value is taken as it is; then the share that TensorFlow's ExponentialMovingAverage takes.
        kept = ops.where(step > 0, ops.minimum(self.ema_momentum, (1.0 + step) / (_EMA_START + step)), 0.0)
        for variable, mean in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            mean.assign(mean * kept + variable * (1.0 - kept))

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Nothing: which weights a stage ends with is its callbacks' business."""

    def swap(self: Any) -> None:
        """Exchange the model's weights and their running means."""
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        for variable, mean in pairs:
            value, average = (np.array(ops.convert_to_numpy(it)) for it in (variable, mean))
            variable.assign(average)
            mean.assign(value)


class Adam(_More, keras.optimizers.Adam):
    """Keras' Adam, and AdamW with a weight decay, with `extras`."""


class SGD(_More, keras.optimizers.SGD):
    """Keras' SGD with `extras`."""


def make_optimizer(
    stage: Stage, model: keras.Model, *, rate: float, steps: int = 1, pretrained: Pretrained | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer of a stage, not built yet.

    Args:
        stage: its optimizer and what goes with it; `lbfgs` is taken for adam.
        model: frozen for the stage.
        rate: learning rate to begin with; the peak where there is a schedule.
        steps: of an epoch.
        pretrained: id of a variable -> the value that `l2_sp` draws it to; see `pretrained_values`.

    Example:
        >>> import greffon
        >>> from greffon.backbone.resnet import resnet
        >>> from greffon.training.optimizers import make_optimizer
        >>> model = greffon.graft(resnet((1, 1, 1, 1), input_shape=(32, 32, 3)), 4, preprocessing="caffe")
        >>> table = greffon.freeze(model)
        >>> type(make_optimizer(greffon.Stage(), model, rate=1e-3)).__module__
        'keras.src.optimizers.adam'
        >>> type(make_optimizer(greffon.Stage(schedule="cosine"), model, rate=1e-3)).__module__
        'greffon.training.optimizers'
    """
    extras = Extras(
        ramp=ramp_of(stage, steps),
        factors=rate_factors(model, stage.group_decay),
        anchors=pretrained or {},
        l2_sp=stage.l2_sp,
        ema=stage.ema,
    )
    kind: Any = SGD if stage.optimizer == "sgd" else Adam
    if not extras.wanted:
        stock = {"sgd": keras.optimizers.SGD, "adamw": keras.optimizers.AdamW}
        kind = stock.get(stage.optimizer, keras.optimizers.Adam)
    options: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay_of(stage)}
    if stage.optimizer == "sgd":
        options |= {"momentum": stage.momentum, "nesterov": stage.nesterov}
    if extras.ema:
        options |= {"use_ema": True, "ema_momentum": extras.ema}
    optimizer = kind(**options)
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    if extras.wanted:
        optimizer.extras = extras
    return optimizer


def decay_of(stage: Stage) -> float | None:
    """Weight decay of a stage, per unit of learning rate; None: none."""
    if stage.weight_decay is None:
        return ADAMW_DECAY if stage.optimizer == "adamw" else None
    return stage.weight_decay or None


def rate_factors(model: keras.Model, decay: float) -> dict[int, float]:
    """For each variable of a backbone that trains, the factor of its learning rate.

    Args:
        model: frozen for the stage.
        decay: factor from a group to the one below it; the head has 1, the last group `decay`, the one below its
            square.

    Returns:
        id of the variable -> factor; empty where decay is 1.
    """
    if decay == 1.0:
        return {}
    backbone = split_parts(model).backbone
    groups = list(dict.fromkeys(group_of(layer.name) for layer in reversed(backbone)))
    depth = {name: number for number, name in enumerate(filter(None, groups), start=1)}
    return {
        id(variable): decay ** depth.get(group_of(layer.name), 1)
        for layer in backbone
        for part in sublayers(layer)
        for variable in part._trainable_variables
        if variable.trainable
    }


def pretrained_values(model: keras.Model) -> dict[int, Array]:
    """Values of a backbone's variables that can train, by id: what `l2_sp` draws towards. Take it before training."""
    return {
        id(variable): np.array(ops.convert_to_numpy(variable))
        for layer in split_parts(model).backbone
        for part in sublayers(layer)
        for variable in part._trainable_variables
    }


@contextmanager
def constant_rate(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """While it lasts, an optimizer with a schedule takes its learning rate as it is: to look for one that suits."""
    if not isinstance(optimizer, _More):
        yield
        return
    held: Any = optimizer._held
    held.assign(1.0)
    try:
        yield
    finally:
        held.assign(0.0)
