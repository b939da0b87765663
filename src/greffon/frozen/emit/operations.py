"""Bare operations, such as `x / 127.5` and what Keras' `preprocess_input` leaves in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.frozen.emit.activation import activate
from greffon.frozen.emit.builder import Value
from greffon.frozen.emit.registry import Converters, unsupported
from greffon.frozen.graph import Ref

if TYPE_CHECKING:
    from greffon.frozen.emit.builder import Builder
    from greffon.frozen.emit.plan import Step

converts = Converters()

ARITHMETIC = {
    "ops.numpy.Add": "Add",
    "ops.numpy.Subtract": "Sub",
    "ops.numpy.Multiply": "Mul",
    "ops.numpy.Divide": "Div",
    "ops.numpy.TrueDivide": "Div",
    "ops.numpy.Maximum": "Max",
    "ops.numpy.Minimum": "Min",
}

_ACTIVATIONS = {
    "ops.nn.Relu": "relu",
    "ops.nn.Relu6": "relu6",
    "ops.nn.Sigmoid": "sigmoid",
    "ops.nn.HardSigmoid": "hard_sigmoid",
    "ops.nn.Silu": "silu",
    "ops.nn.HardSilu": "hard_silu",
    "ops.nn.Selu": "selu",
    "ops.nn.Softplus": "softplus",
    "ops.nn.Softsign": "softsign",
    "ops.numpy.Tanh": "tanh",
    "ops.numpy.Exp": "exponential",
}

_FAR = 2**31 - 1


@converts(*_ACTIVATIONS)
def activation(build: Builder, step: Step) -> Value:
    """The same as the activation function of that name."""
    function = getattr(keras.activations, _ACTIVATIONS[step.kind])
    return activate(build, step, build.value(step.inputs[0]), function)


@converts("ops.activations.ReLU")
def relu(build: Builder, step: Step) -> Value:
    """`keras.activations.relu` with its options."""
    operation = step.layer
    layer = keras.layers.ReLU(operation.max_value, operation.negative_slope, operation.threshold)
    return activate(build, step, build.value(step.inputs[0]), layer)


@converts(*ARITHMETIC)
def arithmetic(build: Builder, step: Step) -> Value:
    """Two tensors, or a tensor and a constant, with NumPy's rules for shapes."""
    if len(step.node.args) != 2 or step.node.kwargs:
        raise unsupported(step, "is called in a way that is not known")
    values, shape = [build.value(tensor) for tensor in step.inputs], build.shape(step.output)
    if any(value.rank != len(shape) for value in values):
        raise unsupported(step, "reads tensors with different numbers of axes")
    first = any(value.first for value in values)
    result = Value("", shape, first=first)
    names = []
    for argument in step.node.args:
        if isinstance(argument, Ref):
            names.append(build.value(argument.tensor, first=first).name)
            continue
        constant = np.asarray(keras.ops.convert_to_numpy(argument))
        if constant.ndim > len(shape):
            raise unsupported(step, "has a constant with more axes than its input")
        names.append(build.constant(result.stored(constant)))
    return Value(build.node(ARITHMETIC[step.kind], *names), shape, first=first)


@converts("ops.numpy.GetItem")
def get_item(build: Builder, step: Step) -> Value:
    """Whole numbers and slices with fixed ends, on any axis but that of the batch."""
    value, key = build.value(step.inputs[0]), _key(step)
    keys = _for_each_axis(step, key, value.rank)
    if any(isinstance(part, int) for part in keys):
        value = build.turn(value, first=False)
    name = value.name
    cut = [(value.axis(axis), *_ends(part)) for axis, part in enumerate(keys) if isinstance(part, slice)]
    cut = [parts for parts in cut if parts[1:] != _ends(slice(None))]
    if cut:
        axes, starts, ends, steps = zip(*cut, strict=True)
        name = build.node("Slice", name, *(build.numbers(part) for part in (starts, ends, axes, steps)))
    for axis, part in reversed(list(enumerate(keys))):
        if isinstance(part, int):
            name = build.node("Gather", name, build.constant(part, np.int64), axis=axis)
    return Value(name, build.shape(step.output), first=value.first)


@converts("ops.numpy.Take")
def take(build: Builder, step: Step) -> Value:
    """Gather, with a fixed list of whole numbers from 0 on, on any axis but that of the batch."""
    value, numbers = build.value(step.inputs[0], first=False), np.asarray(_argument(step))
    axis = step.layer.axis
    if axis is None or axis % value.rank == 0:
        raise unsupported(step, "takes a part of the batch")
    if numbers.ndim != 1 or numbers.dtype.kind != "i" or numbers.min(initial=0) < 0:
        raise unsupported(step, "takes other things than a list of whole numbers")
    name = build.node("Gather", value.name, build.constant(numbers, np.int64), axis=axis % value.rank)
    return Value(name, build.shape(step.output))


@converts("ops.numpy.Stack")
def stack(build: Builder, step: Step) -> Value:
    """Concat along an axis that is added first."""
    shape = build.shape(step.output)
    axis = step.layer.axis % len(shape)
    if axis == 0:
        raise unsupported(step, "stacks along the batch axis")
    axes = build.numbers([axis])
    parts = [build.node("Unsqueeze", build.value(tensor, first=False).name, axes) for tensor in step.inputs]
    return Value(build.node("Concat", *parts, axis=axis), shape)


def _key(step: Step) -> tuple[Any, ...]:
    key = _argument(step)
    return tuple(key) if isinstance(key, tuple | list) else (key,)


def _argument(step: Step) -> Any:
    """What an operation was given beside its tensor."""
    arguments = [*step.node.args, *step.node.kwargs.values()]
    if len(arguments) != 2 or not isinstance(arguments[0], Ref):
        raise unsupported(step, "is called in a way that is not known")
    return arguments[1]


def _for_each_axis(step: Step, key: tuple[Any, ...], rank: int) -> list[int | slice]:
    if not all(part is Ellipsis or type(part) is int or _is_fixed(part) for part in key):
        raise unsupported(step, f"takes {key!r}, which is not known")
    around = key.index(Ellipsis) if Ellipsis in key else len(key)
    before, after = key[:around], key[around + 1 :]
    keys = [*before, *[slice(None)] * (rank - len(before) - len(after)), *after]
    if keys[0] != slice(None):
        raise unsupported(step, "takes a part of the batch")
    return keys


def _is_fixed(part: Any) -> bool:
    return isinstance(part, slice) and all(
        end is None or type(end) is int for end in (part.start, part.stop, part.step)
    )


def _ends(part: slice) -> tuple[int, int, int]:
    """Start, end and step as ONNX writes them."""
    step = 1 if part.step is None else part.step
    start, end = (0, _FAR) if step > 0 else (_FAR, -_FAR)
    return start if part.start is None else part.start, end if part.stop is None else part.stop, step
