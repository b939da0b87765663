"""The exact saving of ResNet-50 v1: a stage reads its input at even rows and columns only, so nothing else is computed.

Both convolutions that read such an input are 1x1 with stride 2. They give the same when they run with stride 1 on
`x[:, ::2, ::2, :]`; and that is computed from the even positions of what it is made of: through additions and
activations, through 1x1 convolutions, and by giving a 3x3 convolution stride 2. An activation kept at such a place
has a quarter of the bytes.

Nothing is moved through a BatchNormalization on batch statistics, which sees all positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras

from greffon.frozen.graph import FlatGraph, Node, Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class EvenPositions(keras.layers.Layer):
    """Every second row and column of (n, height, width, channels), from the first on."""

    def call(self, inputs: Any) -> Any:
        """Float (n, ceil(height / 2), ceil(width / 2), channels)."""
        return inputs[:, ::2, ::2, :]


class Restrided(keras.layers.Layer):
    """A Conv2D of somebody's with other strides and no padding, on its own variables.

    Args:
        layer: the convolution.
        strides: in its place.
    """

    padding, data_format, groups, quantization_mode = "valid", "channels_last", 1, None

    def __init__(self, layer: keras.layers.Conv2D, strides: tuple[int, int]) -> None:
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer, self.strides = layer, strides
        self.built = True

    @property
    def trainable(self) -> bool:
        """Whether the convolution is."""
        return bool(self.layer.trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.layer.trainable = value

    def call(self, inputs: Any) -> Any:
        """The convolution, its bias and its activation."""
        layer = self.layer
        outputs = keras.ops.conv(inputs, layer.kernel, strides=list(self.strides), padding="valid")
        if layer.use_bias:
            outputs = outputs + keras.ops.cast(layer.bias, outputs.dtype)
        return outputs if layer.activation is None else layer.activation(outputs)

    def __getattr__(self, name: str) -> Any:
        """What else a Conv2D has (kernel, bias, kernel_size, ...) is the layer's own."""
        if name in {"kernel", "bias", "use_bias", "activation", "kernel_size", "dilation_rate", "filters"}:
            return getattr(self.layer, name)
        inherited = getattr(super(), "__getattr__", None)  # on torch, where a layer is a module, it finds sublayers
        if inherited is not None:
            return inherited(name)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def get_config(self) -> dict[str, Any]:
        """What it computes, for the trunk's digest."""
        return {"layer": self.layer.get_config(), "strides": list(self.strides)}


def at_even_positions(graph: FlatGraph, *, moving: Callable[[Any], bool] | None = None) -> FlatGraph:
    """Rewrite a graph so that what is read at even positions only is computed there only.

    Args:
        graph: of any model; one without such places comes back as it is.
        moving: whether a BatchNormalization uses batch statistics; by default whether it is trainable now.

    Returns:
        A graph with the same inputs and outputs, equal to rounding, on the same variables.
    """
    rewriter = _Rewriter(graph, moving or (lambda norm: bool(norm.trainable)))
    targets = [tensor for node in graph.nodes for tensor in node.outputs if rewriter.is_read_at_even_only(tensor)]
    return rewriter.rewrite(targets) if targets else graph


class _Rewriter:
    def __init__(self, graph: FlatGraph, moving: Callable[[Any], bool]) -> None:
        self.graph, self.moving = graph, moving
        self.specs = dict(graph.specs)
        self.nodes = {id(node): node for node in graph.nodes}
        self.makers = {tensor: node for node in graph.nodes for tensor in node.outputs}
        self.readers: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for tensor in node.inputs:
                self.readers.setdefault(tensor, []).append(node)
        self.even: dict[int, int] = {}

    def is_read_at_even_only(self, tensor: int) -> bool:
        readers = self.readers.get(tensor, [])
        return bool(readers) and tensor not in self.graph.outputs and all(_skips_odd(reader) for reader in readers)

    def rewrite(self, targets: Sequence[int]) -> FlatGraph:
        for target in targets:
            readers = self.readers.pop(target)
            for reader in readers:
                del self.nodes[id(reader)]
            halved = self._even(target)
            for reader in readers:
                self._add(replace(reader, operation=Restrided(reader.operation, (1, 1)), **_reads(halved)))
        return replace(self.graph, nodes=self._sorted(), specs=self.specs)

    def _even(self, tensor: int) -> int:
        """The id of the even positions of a tensor, computed as cheaply as the rest of the graph allows."""
        if tensor not in self.even:
            maker = self.makers.get(tensor)
            still_read = self.readers.get(tensor) or tensor in self.graph.outputs
            if maker is None or still_read or not self._can_move_through(maker):
                self.even[tensor] = self._new(EvenPositions(name="even_positions"), tensor, "even")
            else:
                self._drop(maker)
                self.even[tensor] = self._moved(maker)
        return self.even[tensor]

    def _moved(self, maker: Node) -> int:
        layer, path = maker.operation, f"{maker.path}/even"
        if isinstance(layer, keras.layers.Conv2D) and tuple(layer.kernel_size) != (1, 1):
            margin = tuple(side // 2 for side in layer.kernel_size)
            # With a name of its own, so that the names which Keras gives the user's later layers do not count it.
            pad = keras.layers.ZeroPadding2D(margin, name=f"{layer.name}_even_pad", dtype=layer.dtype_policy)
            padded = self._new(pad, maker.inputs[0], path)
            return self._new(Restrided(layer, (2, 2)), padded, path)
        inputs = [self._even(tensor) for tensor in maker.inputs]
        halved = dict(zip(maker.inputs, inputs, strict=True))
        args = keras.tree.map_structure(
            lambda leaf: Ref(halved[leaf.tensor]) if isinstance(leaf, Ref) else leaf, maker.args
        )
        return self._call(layer, args, inputs, path)

    def _can_move_through(self, node: Node) -> bool:
        layer = node.operation
        if len(node.outputs) != 1 or node.kwargs or getattr(layer, "activity_regularizer", None) is not None:
            return False
        if type(layer) is keras.layers.BatchNormalization:
            return _last_axis(layer, self.specs, node) and not self.moving(layer)
        if type(layer) is keras.layers.Conv2D:
            return _is_plain(layer) and tuple(layer.strides) == (1, 1) and _centred(layer)
        mixes = getattr(getattr(layer, "activation", None), "__name__", "") in _MIXING
        return type(layer) in _ELEMENTWISE and not mixes and self._same_shapes(node)

    def _same_shapes(self, node: Node) -> bool:
        """Nothing is broadcast over height and width, where every second position of one would be none of it."""
        shapes = {tuple(self.specs[tensor].shape[:3]) for tensor in (*node.inputs, *node.outputs)}
        return len(shapes) == 1 and len(self.specs[node.outputs[0]].shape) == 4

    # --- nodes ---

    def _new(self, layer: Any, tensor: int, path: str) -> int:
        return self._call(layer, (Ref(tensor),), [tensor], path)

    def _call(self, layer: Any, args: Any, inputs: Sequence[int], path: str) -> int:
        given = keras.tree.map_structure(lambda leaf: self.specs[leaf.tensor] if isinstance(leaf, Ref) else leaf, args)
        output = len(self.specs)
        while output in self.specs:
            output += 1
        self.specs[output] = layer.compute_output_spec(*given)
        self._add(Node(layer, tuple(args), {}, tuple(inputs), (output,), path))
        return output

    def _add(self, node: Node) -> None:
        self.nodes[id(node)] = node
        for tensor in node.inputs:
            self.readers.setdefault(tensor, []).append(node)
        self.makers.update(dict.fromkeys(node.outputs, node))

    def _drop(self, node: Node) -> None:
        del self.nodes[id(node)]
        for tensor in node.inputs:
            self.readers[tensor].remove(node)

    def _sorted(self) -> tuple[Node, ...]:
        """In an order that can be run."""
        ordered: list[Node] = []
        ready, waiting = set(self.graph.inputs), list(self.nodes.values())
        while waiting:
            later = []
            for node in waiting:
                if ready.issuperset(node.inputs):
                    ready.update(node.outputs)
                    ordered.append(node)
                else:
                    later.append(node)
            waiting = later
        return tuple(ordered)


_ELEMENTWISE = (
    keras.layers.ReLU,
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Maximum,
    keras.layers.LeakyReLU,
)
_MIXING = frozenset({"softmax", "log_softmax", "sparsemax"})


def _skips_odd(node: Node) -> bool:
    layer = node.operation
    return (
        type(layer) is keras.layers.Conv2D
        and _is_plain(layer)
        and tuple(layer.kernel_size) == (1, 1)
        and tuple(layer.strides) == (2, 2)
        and layer.activity_regularizer is None
    )


def _is_plain(layer: Any) -> bool:
    """A convolution that `Restrided` can stand for."""
    return (
        layer.data_format == "channels_last"
        and layer.groups == 1
        and tuple(layer.dilation_rate) == (1, 1)
        and not getattr(layer, "lora_enabled", False)
        and not getattr(layer, "quantization_mode", None)
    )


def _centred(layer: Any) -> bool:
    """Whether the output has the input's size, each value computed around its own place."""
    sides = tuple(layer.kernel_size)
    return sides == (1, 1) or (layer.padding == "same" and all(side % 2 for side in sides))


def _last_axis(layer: Any, specs: dict[int, Any], node: Node) -> bool:
    return layer.axis in (-1, len(specs[node.inputs[0]].shape) - 1)


def _reads(tensor: int) -> dict[str, Any]:
    return {"args": (Ref(tensor),), "inputs": (tensor,)}
