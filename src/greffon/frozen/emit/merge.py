"""Layers with several inputs."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from greffon.frozen.emit.builder import Value
from greffon.frozen.emit.registry import Converters, unsupported

if TYPE_CHECKING:
    from greffon.frozen.emit.builder import Builder
    from greffon.frozen.emit.plan import Step

converts = Converters()

KINDS = {
    "layers.Add": "Add",
    "layers.Average": "Add",
    "layers.Subtract": "Sub",
    "layers.Multiply": "Mul",
    "layers.Maximum": "Max",
    "layers.Minimum": "Min",
}


@converts(*KINDS)
def merge(build: Builder, step: Step) -> Value:
    """One operator for each pair, in Keras' order."""
    values, kind = _aligned(build, step), KINDS[step.kind]
    name = reduce(lambda name, value: build.node(kind, name, value.name), values[1:], values[0].name)
    if step.kind == "layers.Average":
        name = build.node("Div", name, build.constant(len(values)))
    return Value(name, build.shape(step.output), first=values[0].first)


@converts("layers.Concatenate")
def concatenate(build: Builder, step: Step) -> Value:
    """Any axis but that of the batch."""
    values, shape = _aligned(build, step), build.shape(step.output)
    if step.layer.axis % len(shape) == 0:
        raise unsupported(step, "joins along the batch axis")
    axis = values[0].axis(step.layer.axis)
    name = build.node("Concat", *(value.name for value in values), axis=axis)
    return Value(name, shape, first=values[0].first)


def _aligned(build: Builder, step: Step) -> list[Value]:
    """The inputs with the same number of axes, in the same layout."""
    values = [build.value(tensor) for tensor in step.inputs]
    rank, first = max(value.rank for value in values), any(value.first for value in values)
    return [_with_rank(build, value, rank, first=first) for value in values]


def _with_rank(build: Builder, value: Value, rank: int, *, first: bool) -> Value:
    """Keras sets the missing axes behind the batch: (batch, channels) becomes (batch, 1, 1, channels)."""
    missing = rank - value.rank
    if missing:
        shape = (value.shape[0], *(1,) * missing, *value.shape[1:])
        turned = first and value.rank == 2
        axes = build.numbers((2, 3) if turned else range(1, 1 + missing))
        value = Value(build.node("Unsqueeze", value.name, axes), shape, first=turned)
    return build.turn(value, first=first)
