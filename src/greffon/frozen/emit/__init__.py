"""From a flat Keras graph to an ONNX model, layer by layer.

Pictures come in and go out channels last, as in Keras, and lie channels first inside. BatchNormalization with stored
statistics is folded into the convolution in front of it, ZeroPadding2D into the layer behind it. Everything is
float32; every convolution is written by one function (`convolution._convolve`), every constant by one class
(`builder.Builder`), which is where an integer form would be added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from greffon.frozen.emit import activation, convolution, merge, norm, operations, shape
from greffon.frozen.emit.builder import Builder, Unsupported
from greffon.frozen.emit.plan import plan, public_name
from greffon.frozen.emit.quantised import Quantiser

if TYPE_CHECKING:
    import onnx

    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.graph import FlatGraph, Node

__all__ = ["Unsupported", "emit", "find_quantisable"]

_CONVERTERS = {
    **activation.converts,
    **convolution.converts,
    **merge.converts,
    **norm.converts,
    **operations.converts,
    **shape.converts,
}
_MANY_INPUTS = merge.KINDS.keys() | {"layers.Concatenate", "ops.numpy.Stack"} | operations.ARITHMETIC.keys()
_CASTS = frozenset({"layers.Normalization", "layers.Rescaling"}) | operations.ARITHMETIC.keys()


def emit(graph: FlatGraph, *, inference: bool = True, quantisation: Quantisation | None = None) -> bytes:
    """Write what a graph computes, with its weights as they are now, as an ONNX model.

    Inputs are called `input_0`, `input_1`, ..., outputs `output_0`, ..., in the graph's order, float32, with the batch
    first and pictures channels last. The batch may have any size, and so may axes that Keras does not know.

    Args:
        graph: the calls, from `flatten` or `find_cut`.
        inference: write layers as they act outside training. False refuses the ones that act otherwise in training:
            Dropout and the like, and a BatchNormalization that is not frozen.
        quantisation: what is known of the tensors that are to be held in bytes; without it everything is float32.

    Returns:
        The model in ONNX' file format; the same bytes for the same graph and weights, whatever the layers are called.

    Raises:
        Unsupported: a layer, or an option of it, is not known. Its name stands in the message.

    Example:
        >>> import keras
        >>> from greffon.frozen.emit import emit
        >>> from greffon.frozen.graph import flatten
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.ReLU()])
        >>> len(emit(flatten(model))) < 2000
        True
    """
    build, inputs, outputs = _emitted(graph, inference=inference)
    if quantisation is not None:
        return Quantiser(build, inputs, outputs).quantised(quantisation)
    return build.model(inputs, outputs)


def find_quantisable(graph: FlatGraph) -> Quantiser:
    """What `quantisation` can hold in bytes, with the keys that it is known by.

    Raises:
        Unsupported: as `emit`.
    """
    return Quantiser(*_emitted(graph))


def _emitted(
    graph: FlatGraph, *, inference: bool = True
) -> tuple[Builder, list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    for node in graph.nodes:
        _check(node, graph, inference=inference)
    build = Builder(graph)
    inputs = [build.add_input(tensor, number) for number, tensor in enumerate(graph.inputs)]
    for step in plan(graph):
        build.keep(step.output, _CONVERTERS[step.kind](build, step))
    return build, inputs, [build.add_output(tensor, number) for number, tensor in enumerate(graph.outputs)]


def _check(node: Node, graph: FlatGraph, *, inference: bool) -> None:
    """Refuse what no converter would notice."""
    kind = public_name(node.operation)
    why = _why_not(node, kind, graph) or (None if inference else _why_not_in_training(node.operation, kind))
    if why:
        raise Unsupported(f"{node.path} ({type(node.operation).__name__})", why)


def _why_not(node: Node, kind: str, graph: FlatGraph) -> str | None:
    layer = node.operation
    if kind not in _CONVERTERS:
        return "is not known"
    if getattr(layer, "data_format", None) == "channels_first":
        return "has its channels first"
    if getattr(layer, "quantization_mode", None):
        return "is quantised"
    if kind.startswith("layers.") and (len(node.args) != 1 or node.kwargs):
        return "is called with arguments that are not known"
    if len(node.outputs) != 1 or (len(node.inputs) != 1 and kind not in _MANY_INPUTS):
        return "has a number of inputs or outputs that is not known"
    return _why_not_the_type(node, kind, graph)


def _why_not_the_type(node: Node, kind: str, graph: FlatGraph) -> str | None:
    given = keras.backend.standardize_dtype(graph.specs[node.outputs[0]].dtype)
    if {given, getattr(node.operation, "compute_dtype", "float32")} != {"float32"}:
        return "does not compute in float32"
    read = {keras.backend.standardize_dtype(graph.specs[tensor].dtype) for tensor in node.inputs}
    if kind not in _CASTS and not all(dtype.startswith("float") for dtype in read):
        return f"reads {', '.join(sorted(read))}"
    return None


def _why_not_in_training(layer: Any, kind: str) -> str | None:
    if kind in shape.TRAINING_ONLY:
        return "acts in training only"
    if kind == "layers.BatchNormalization" and layer.trainable:
        return "is not frozen"
    return None
