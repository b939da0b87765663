"""Where the trunk ends: the largest part of a model whose output cannot change while it is trained.

What `fit` does decides, not what the graph says. Keras 3 hands `training=True` to every layer, over a
`training=False` that was baked in when the graph was built; so a BatchNorm that is not frozen uses batch
statistics, and a frozen Dropout still drops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.frozen.cost import macs
from greffon.frozen.even import at_even_positions
from greffon.frozen.graph import FlatGraph, Node, flatten
from greffon.frozen.steady import why_unsteady

if TYPE_CHECKING:
    from collections.abc import Iterable


# Under this share of the work, reading an activation (often larger than its picture) costs about what it saves.
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Stop:
    """A call that ends the trunk although all that it reads is frozen.

    Attributes:
        node: the call.
        why: what makes its output change, to be read after the layer's name.
        trains: whether it is what the user wants to train, and no obstacle.
    """

    node: Node
    why: str
    trains: bool


@dataclass(frozen=True)
class Cut:
    """A model in two parts.

    Attributes:
        trunk: from the model's inputs to the cut; nothing in it changes while training.
        tail: from the cut to the model's outputs; it shares its variables with the model.
        stops: why the trunk ends where it ends.
        lost_weights: how many frozen numbers stand behind a stop that is not what the user wants to train.
    """

    trunk: FlatGraph
    tail: FlatGraph
    stops: tuple[Stop, ...]
    lost_weights: int

    @cached_property
    def trunk_weights(self) -> int:
        """How many numbers the layers of the trunk hold."""
        return _count(self.trunk.layers)

    @cached_property
    def trunk_share(self) -> float:
        """The trunk's share of a forward pass's work, 0 to 1; of its kernels where pictures may have any size."""
        open_sides = any(None in spec.shape[1:] for spec in self.trunk.specs.values())
        measure = _kernel_sizes if open_sides else macs
        trunk, tail = measure(self.trunk), measure(self.tail)
        return trunk / max(trunk + tail, 1)

    @property
    def gains(self) -> bool:
        """Whether the trunk does enough of the work to be run once and read from then on."""
        return self.trunk_share >= _LEAST_SHARE

    @property
    def where(self) -> str:
        """The last layers of the trunk, by name."""
        makers = {tensor: node.path for node in self.trunk.nodes for tensor in node.outputs}
        return ", ".join(makers.get(tensor, "the pictures") for tensor in self.trunk.outputs)

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        """Shape of the activation at the cut for one picture, one per tensor."""
        return [tuple(self.trunk.specs[tensor].shape[1:]) for tensor in self.trunk.outputs]

    def without_trunk(self) -> Cut:
        """The cut at the model's inputs, where all of the graph trains."""
        whole = replace(self.tail, nodes=(*self.trunk.nodes, *self.tail.nodes))
        inputs = self.trunk.inputs
        trunk, tail = self.trunk.between(inputs, inputs), whole.between(inputs, self.tail.outputs)
        return replace(self, trunk=trunk, tail=tail)

    def spoiler(self) -> str | None:
        """One line about a frozen layer that ends the trunk early, and what to do; None where there is none."""
        obstacle = next((stop for stop in self.stops if not stop.trains), None)
        if obstacle is None or self.lost_weights <= self.trunk_weights:
            return None
        return (
            f"{obstacle.node.path} ({type(obstacle.node.operation).__name__}) {obstacle.why}, so {self.lost_weights:,} "
            f"frozen weights behind it cannot be computed once; {_remedy(obstacle)}"
        )


def find_cut(model: keras.Model, *, graph: FlatGraph | None = None) -> Cut:
    """Cut a Functional or Sequential model where `fit` begins to change it.

    Args:
        model: nested models are looked into; trainable flags are read as they are now.
        graph: of the model, where several cuts of it are to share their tensors; by default made for this cut.

    Raises:
        InputError: the model is subclassed, or a Sequential that does not know its input shape.

    Example:
        >>> import keras
        >>> from greffon.frozen.cut import find_cut
        >>> base = keras.layers.Dense(3, trainable=False, name="frozen")
        >>> model = keras.Sequential([keras.Input((4,)), base, keras.layers.ReLU(), keras.layers.Dense(2)])
        >>> find_cut(model).shapes
        [(3,)]
    """
    graph = graph or at_even_positions(flatten(model))
    training = {id(variable) for variable in model.trainable_variables}
    steady, still, stops = set(graph.inputs), set(graph.inputs), []
    trunk, lost = [], []
    for node in graph.nodes:
        if not still.issuperset(node.inputs):
            continue
        stop = _stop(node, training, graph) if steady.issuperset(node.inputs) else _trains(node, training)
        if stop is None and steady.issuperset(node.inputs):
            trunk.append(node)
            steady.update(node.outputs)
        elif stop is not None:
            stops.append(stop)
        else:
            lost.append(node)
        if stop is None or not stop.trains:
            still.update(node.outputs)
    ours = {id(node) for node in trunk}
    read = {tensor for node in graph.nodes if id(node) not in ours for tensor in node.inputs} | set(graph.outputs)
    cut = [tensor for tensor in _in_order(graph) if tensor in steady and tensor in read]
    return Cut(
        graph.between(graph.inputs, cut),
        graph.between(cut, graph.outputs),
        tuple(stops),
        _count([node.operation for node in lost]),
    )


def _stop(node: Node, training: set[int], graph: FlatGraph) -> Stop | None:
    stop = _trains(node, training)
    if stop is None:
        why = why_unsteady(node, graph)
        stop = Stop(node, why, trains=False) if why else None
    return stop


def _trains(node: Node, training: set[int]) -> Stop | None:
    variables = getattr(node.operation, "variables", ())
    return Stop(node, "trains", trains=True) if any(id(variable) in training for variable in variables) else None


def _in_order(graph: FlatGraph) -> list[int]:
    return [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]


def _kernel_sizes(graph: FlatGraph) -> int:
    weights = {id(weight): weight for layer in graph.layers for weight in layer.weights}
    return sum(int(np.prod(weight.shape)) for weight in weights.values() if len(weight.shape) > 1)


def _count(operations: Iterable[Any]) -> int:
    layers = {id(operation): operation for operation in operations}.values()
    return sum(int(np.prod(weight.shape)) for layer in layers for weight in getattr(layer, "weights", ()))


def _remedy(stop: Stop) -> str:
    layer = stop.node.operation
    parts = layer._flatten_layers()
    if any(isinstance(part, keras.layers.BatchNormalization) and part.trainable for part in parts):
        return "set its trainable to False to freeze it"
    if any(part.activity_regularizer is not None for part in parts):
        return "remove the regularizer"
    if type(layer).__name__.startswith("Random") or "Augment" in type(layer).__name__:
        return "take the augmentation out of the model and feed augmented pictures"
    if hasattr(layer, "rate"):
        return "rebuild the model with that rate at 0, or train it with model.fit"
    return "take that layer out of the frozen part, or train it with model.fit"
