"""What a graph costs in multiply-accumulates per picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph, Node


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
