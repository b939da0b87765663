"""Activations, as layers, as functions and as the `activation` of another layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.frozen.emit.plan import activation_name, public_name
from greffon.frozen.emit.registry import Converters, unsupported

if TYPE_CHECKING:
    from greffon.frozen.emit.builder import Builder, Value
    from greffon.frozen.emit.plan import Step

converts = Converters()

Activation = Callable[["Builder", "Value"], "Value"]


def activate(build: Builder, step: Step, value: Value, function: Any) -> Value:
    """Apply the activation that a layer was given: one of Keras' functions, or one of its activation layers."""
    if function is None:
        return value
    name = activation_name(function)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name](build, value)
    kind = public_name(function)
    if not isinstance(getattr(function, "axis", -1), int):
        raise unsupported(step, "takes a list of axes")
    if kind in _PARAMETRIC:
        return _PARAMETRIC[kind](build, value, function)
    raise unsupported(step, f"has the activation {name or function!r}, which is not known")


@converts("layers.Activation")
def activation(build: Builder, step: Step) -> Value:
    """Whatever function the layer holds."""
    return activate(build, step, build.value(step.inputs[0]), step.layer.activation)


@converts("layers.ReLU", "layers.LeakyReLU", "layers.ELU", "layers.Softmax")
def activation_layer(build: Builder, step: Step) -> Value:
    """The layers that hold their options themselves."""
    return activate(build, step, build.value(step.inputs[0]), step.layer)


@converts("layers.PReLU")
def prelu(build: Builder, step: Step) -> Value:
    """A slope per position, or per channel where the other axes share it."""
    value = build.value(step.inputs[0])
    slope = np.asarray(keras.ops.convert_to_numpy(step.layer.alpha))
    return build.apply("PRelu", value, build.weight((id(step.layer), value.first), lambda: value.stored(slope)))


# --- with options --------------------------------------------------------------------------------------------------


def _relu_layer(build: Builder, value: Value, layer: Any) -> Value:
    slope, top, threshold = layer.negative_slope, layer.max_value, layer.threshold
    if slope and top is None and not threshold:
        return build.apply("LeakyRelu", value, alpha=float(slope))
    if threshold:
        above = build.node("Greater", value.name, build.constant(threshold))
        result = replace(value, name=build.node("Where", above, value.name, build.constant(0.0)))
        result = result if top is None else _clip(build, result, 0.0, top)
    else:
        result = build.apply("Relu", value) if top is None else _clip(build, value, 0.0, top)
    if not slope:
        return result
    below = build.apply("Relu", build.apply("Sub", replace(value, name=build.constant(threshold)), value.name))
    return build.apply("Sub", result, build.apply("Mul", below, build.constant(slope)).name)


_PARAMETRIC: dict[str, Callable[[Builder, Value, Any], Value]] = {
    "layers.ReLU": _relu_layer,
    "layers.LeakyReLU": lambda build, value, layer: build.apply("LeakyRelu", value, alpha=float(layer.negative_slope)),
    "layers.ELU": lambda build, value, layer: _elu(layer.alpha)(build, value),
    "layers.Softmax": lambda build, value, layer: build.apply("Softmax", value, axis=value.axis(layer.axis)),
}


# --- functions -----------------------------------------------------------------------------------------------------


def _simple(kind: str, **attributes: float) -> Activation:
    return lambda build, value: build.apply(kind, value, **attributes)


def _clip(build: Builder, value: Value, low: float, high: float) -> Value:
    return build.apply("Clip", value, build.constant(low), build.constant(high))


def _hard_sigmoid(build: Builder, value: Value) -> Value:
    return build.apply("HardSigmoid", value, alpha=1 / 6, beta=0.5)


# ONNX Runtime computes Elu, Selu, Celu, Softplus and Log eight numbers at a time and rounds what remains otherwise, so
# that a picture's numbers would depend on its place in the batch. Exp and Atanh it does not.


def _elu(alpha: float, gamma: float = 1.0) -> Activation:
    """`gamma` times x where that is positive, else times `alpha (exp(x) - 1)`."""

    def apply(build: Builder, value: Value) -> Value:
        power = build.apply("Exp", build.apply("Min", value, build.constant(0.0)))
        below = build.apply("Mul", build.apply("Sub", power, build.constant(1.0)), build.constant(alpha * gamma))
        above = build.apply("Relu", value)
        above = above if gamma == 1 else build.apply("Mul", above, build.constant(gamma))
        return build.apply("Add", above, below.name)

    return apply


def _softplus(build: Builder, value: Value) -> Value:
    """`log(1 + exp(x))` as `max(x, 0) + log(1 + e)`, with e = exp(-|x|) and `log(1 + e) = 2 atanh(e / (2 + e))`."""
    small = build.apply("Exp", build.apply("Neg", build.apply("Abs", value)))
    share = build.apply("Div", small, build.apply("Add", small, build.constant(2.0)).name)
    logarithm = build.apply("Mul", build.apply("Atanh", share), build.constant(2.0))
    return build.apply("Add", build.apply("Relu", value), logarithm.name)


def _times(factor: Activation) -> Activation:
    """The activations that multiply their input by a function of it."""
    return lambda build, value: build.apply("Mul", value, factor(build, value).name)


def _gelu(build: Builder, value: Value) -> Value:
    """In the form that ONNX Runtime fuses into one operator."""
    part = build.apply("Erf", build.apply("Div", value, build.constant(math.sqrt(2))))
    return build.apply(
        "Mul", build.apply("Mul", value, build.apply("Add", part, build.constant(1.0)).name), build.constant(0.5)
    )


_FUNCTIONS: dict[str, Activation] = {
    "linear": lambda build, value: value,
    "relu": _simple("Relu"),
    "relu6": lambda build, value: _clip(build, value, 0.0, 6.0),
    "leaky_relu": _simple("LeakyRelu", alpha=0.2),
    "elu": _elu(1.0),
    "selu": _elu(1.67326324, 1.05070098),
    "celu": _elu(1.0),
    "sigmoid": _simple("Sigmoid"),
    "hard_sigmoid": _hard_sigmoid,
    "tanh": _simple("Tanh"),
    "hard_tanh": lambda build, value: _clip(build, value, -1.0, 1.0),
    "softmax": lambda build, value: build.apply("Softmax", value, axis=value.axis(-1)),
    "log_softmax": lambda build, value: build.apply("LogSoftmax", value, axis=value.axis(-1)),
    "softplus": _softplus,
    "softsign": _simple("Softsign"),
    "exponential": _simple("Exp"),
    "silu": _times(_simple("Sigmoid")),
    "hard_silu": _times(_hard_sigmoid),
    "mish": _times(lambda build, value: build.apply("Tanh", _softplus(build, value))),
    "gelu": _gelu,
}
