"""A frozen BatchNormalization folded into the frozen convolution in front of it, for a graph that trains around them.

Such pairs stand in a tail where layers behind the first trainable one are frozen again. Both give the same numbers as
one convolution with other weights, to rounding, and gradients still pass through it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras

from greffon.frozen.emit.norm import scale_and_shift
from greffon.frozen.even import Restrided

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph, Node


class FoldedConvolution(keras.layers.Layer):
    """A Conv2D with a BatchNormalization of stored statistics in its weights, as they are when this is made.

    Args:
        layer: the convolution, a Conv2D or one with other strides.
        norm: the normalisation of its output.
    """

    def __init__(self, layer: Any, norm: keras.layers.BatchNormalization) -> None:
        super().__init__(name=layer.name, dtype=layer.dtype_policy, trainable=False)
        scale, shift = scale_and_shift(norm)
        bias = keras.ops.convert_to_numpy(layer.bias) * scale if layer.use_bias else 0
        # Constants, no variables: the weights of the model are still those of the two layers.
        self._kernel = keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(layer.kernel) * scale, "float32")
        self._bias = keras.ops.convert_to_tensor(shift + bias, "float32")
        self._options = {
            "strides": list(layer.strides),
            "padding": layer.padding,
            "dilation_rate": list(layer.dilation_rate),
        }
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Float32 (n, height, width, filters)."""
        return keras.ops.conv(inputs, self._kernel, data_format="channels_last", **self._options) + self._bias


def fold_frozen(graph: FlatGraph) -> FlatGraph:
    """Fold every pair of a frozen convolution and a frozen normalisation that nothing else reads between.

    Args:
        graph: its layers trainable or not as the training has them.

    Returns:
        A graph with the same inputs and outputs; the same object where there is no such pair.

    Example:
        >>> import keras
        >>> from greffon.frozen.fold import fold_frozen
        >>> from greffon.frozen.graph import flatten
        >>> conv, norm = keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization()
        >>> model = keras.Sequential([keras.Input((4, 4, 3)), conv, norm])
        >>> model.trainable = False
        >>> [type(node.operation).__name__ for node in fold_frozen(flatten(model)).nodes]
        ['FoldedConvolution']
    """
    readers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    folded: dict[int, Node] = {}
    gone: set[int] = set()
    for node in graph.nodes:
        behind = readers.get(node.outputs[0], [])
        if len(behind) == 1 and node.outputs[0] not in graph.outputs and _is_pair(node, behind[0], graph):
            operation = FoldedConvolution(node.operation, behind[0].operation)
            folded[id(node)] = replace(node, operation=operation, outputs=behind[0].outputs)
            gone.add(id(behind[0]))
    if not folded:
        return graph
    return replace(graph, nodes=tuple(folded.get(id(node), node) for node in graph.nodes if id(node) not in gone))


def _is_pair(node: Node, behind: Node, graph: FlatGraph) -> bool:
    layer, norm = node.operation, behind.operation
    if type(layer) not in (keras.layers.Conv2D, Restrided) or type(norm) is not keras.layers.BatchNormalization:
        return False
    frozen = not norm.trainable and not layer.trainable_weights and not norm.trainable_weights
    rank = len(graph.specs[behind.outputs[0]].shape)
    options = (layer.data_format, layer.quantization_mode, layer.compute_dtype, norm.compute_dtype)
    plain = options == ("channels_last", None, "float32", "float32") and norm.axis in (-1, rank - 1)
    one_input = len(node.args) == len(behind.args) == 1 and not node.kwargs and not behind.kwargs
    silent = layer.activity_regularizer is None and norm.activity_regularizer is None
    return frozen and plain and one_input and silent and layer.activation in (None, keras.activations.linear)
