"""What a graph costs in multiply-accumulates per picture, and how many of them this machine does in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from greffon.frozen import remembered

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph, Node

_ENGINES = ("onnx", "keras")


def macs(graph: FlatGraph) -> int:
    """Multiply-accumulates of the convolutions and dense layers for one picture.

    Layers whose output has no fixed size count as nothing, and so do additions, pooling and normalisation, which
    together are under 1 % of a ResNet-50.

    Example:
        >>> import keras
        >>> from greffon.frozen.cost import macs
        >>> from greffon.frozen.graph import flatten
        >>> macs(flatten(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])))
        12
    """
    return sum(node_macs(node, graph) for node in graph.nodes)


def node_macs(node: Node, graph: FlatGraph) -> int:
    """Multiply-accumulates of one call for one picture; what `macs` adds up."""
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer):
        return 0
    kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
    shape = graph.specs[node.outputs[0]].shape[1:]
    if not kernels or None in shape:
        return 0
    # Each kernel is applied once for every place of the output: all of its numbers, but for the filters' own axis,
    # which the output's channels stand for already. A depthwise kernel has no such axis.
    places = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    return places * sum(int(np.prod(kernel.shape)) for kernel in kernels)


def remember_speed(engine: str, macs_per_second: float) -> None:
    """Note down for later runs how fast an engine was; losing the note does no harm."""
    remembered.put(remembered.key("speed", engine), macs_per_second)


def known_speed(engine: str | None = None) -> float | None:
    """Multiply-accumulates per second of an engine when it last computed a trunk here; None: the fastest known."""
    known = [remembered.get(remembered.key("speed", name)) for name in ([engine] if engine else _ENGINES)]
    return max((float(speed) for speed in known if isinstance(speed, int | float)), default=None)
