"""What is emitted for which call: padding goes into the layer behind it, BatchNorm into the weights in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from greffon.frozen.even import EvenPositions, Restrided

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph, Node

    Pads = tuple[tuple[int, int], tuple[int, int]]

NO_PADS: Pads = ((0, 0), (0, 0))

_CONVOLUTIONS = frozenset({"layers.Conv2D", "layers.DepthwiseConv2D", "layers.SeparableConv2D"})
_POOLS = frozenset({"layers.MaxPooling2D", "layers.AveragePooling2D"})
_NEVER_NEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential"})
_KEEPS_SIGN = frozenset({"layers.MaxPooling2D", "layers.AveragePooling2D", "layers.ZeroPadding2D", "layers.Dropout"})


def public_name(operation: Any) -> str:
    """`layers.Conv2D` for Keras' own layer, `ops.numpy.Add` for its bare operations, otherwise nothing.

    A subclass is not what it inherits from: its `call` may do anything.
    """
    kind = type(operation)
    if kind is Restrided:
        return "layers.Conv2D"  # it has all that one has
    if kind is EvenPositions:
        return "even.EvenPositions"
    if getattr(keras.layers, kind.__name__, None) is kind:
        return f"layers.{kind.__name__}"
    for home in ("ops", "activations"):
        prefix = f"keras.src.{home}."
        if kind.__module__.startswith(prefix) and not isinstance(operation, keras.layers.Layer):
            return f"ops.{kind.__module__.removeprefix(prefix)}.{kind.__name__}"
    return ""


def activation_name(function: Any) -> str:
    """The name of one of Keras' own activation functions, otherwise nothing."""
    name = getattr(function, "__name__", "")
    return name if getattr(keras.activations, name, None) is function else ""


@dataclass
class Step:
    """One call to emit.

    Attributes:
        node: the call.
        kind: its operation's public name.
        inputs: ids of the tensors that it reads.
        output: id of the tensor that it gives.
        norm: the BatchNormalization behind it, to be folded into its weights.
        pads: zeros around its input, (top, bottom) and (left, right), from the ZeroPadding2D in front of it.
    """

    node: Node
    kind: str
    inputs: tuple[int, ...]
    output: int
    norm: Any = None
    pads: Pads = NO_PADS

    @property
    def layer(self) -> Any:
        """The layer or bare operation."""
        return self.node.operation


class _Planner:
    def __init__(self, graph: FlatGraph) -> None:
        self.specs = graph.specs
        self.given_out = frozenset(graph.outputs)
        self.steps = [Step(node, public_name(node.operation), node.inputs, node.outputs[0]) for node in graph.nodes]
        self.absorbed: set[int] = set()  # ids of the steps that another one does as well
        self.makers = {step.output: step for step in self.steps}
        self.readers: dict[int, list[Step]] = {}
        for step in self.steps:
            for tensor in step.inputs:
                self.readers.setdefault(tensor, []).append(step)

    def remaining(self) -> list[Step]:
        return [step for step in self.steps if id(step) not in self.absorbed]

    def only_reader(self, tensor: int) -> Step | None:
        """The one call that reads a tensor, where nothing else does."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.given_out else None

    def absorb_padding(self, step: Step) -> None:
        reader = self.only_reader(step.output)
        if step.kind == "layers.ZeroPadding2D" and reader is not None and self._takes_padding(reader, step):
            reader.pads, reader.inputs = step.layer.padding, step.inputs
            self.absorbed.add(id(step))

    def _takes_padding(self, reader: Step, pad: Step) -> bool:
        if reader.kind not in _CONVOLUTIONS | _POOLS or reader.layer.padding != "valid":
            return False
        if reader.kind in _CONVOLUTIONS:
            return True
        # Every window holds a value that is no padding; a maximum that is not negative then does not see the zeros.
        window = reader.layer.pool_size
        small = all(max(pads) < size for pads, size in zip(pad.layer.padding, window, strict=True))
        return small and (reader.kind == "layers.AveragePooling2D" or self._never_negative(pad.inputs[0]))

    def _never_negative(self, tensor: int) -> bool:
        step = self.makers.get(tensor)
        if step is None:
            return False
        if step.kind == "layers.ReLU":
            return not step.layer.negative_slope
        if step.kind in _KEEPS_SIGN:
            return self._never_negative(step.inputs[0])
        return activation_name(getattr(step.layer, "activation", None)) in _NEVER_NEGATIVE

    def absorb_norm(self, step: Step) -> None:
        reader = self.only_reader(step.output)
        if reader is None or reader.kind != "layers.BatchNormalization":
            return
        linear = activation_name(getattr(step.layer, "activation", None)) == "linear"
        rank = len(self.specs[step.output].shape)
        if step.kind in _CONVOLUTIONS | {"layers.Dense"} and linear and reader.layer.axis in (-1, rank - 1):
            step.norm, step.output = reader.layer, reader.output
            self.absorbed.add(id(reader))


def plan(graph: FlatGraph) -> list[Step]:
    """The calls to emit, in an order that can be run."""
    planner = _Planner(graph)
    for step in planner.remaining():
        planner.absorb_padding(step)
    for step in planner.remaining():
        planner.absorb_norm(step)
    return planner.remaining()
