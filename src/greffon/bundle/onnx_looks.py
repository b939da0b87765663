"""What the ONNX file of a run gives beside probabilities, for whoever wants to see why: computed only when asked for.

| output | what |
|---|---|
| `features` | the mean of the last feature map over its places, float32 (n, channels) |
| `feature_map` | the last feature map, float32 (n, height, width, channels) |
| `class_maps` | how much each place speaks for each class, float32 (n, height, width, classes) |

`class_maps` is the gradient of a class's score by the feature map, times the feature map, summed over channels, as in
`greffon.reporting.explain`: for a head that is linear behind its pooling, or has one hidden layer with relu, it has a
closed form of ordinary operators. Other heads have no `class_maps`. What is below 0 speaks against the class, and the
scale is the score's: cut at 0 and divide by the largest to lay it over a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras
    import onnx

    from greffon.frozen.graph import FlatGraph

    Array = np.ndarray[Any, Any]

FEATURES, FEATURE_MAP, CLASS_MAPS = "features", "feature_map", "class_maps"
"""What they are called. A file need not have them."""


@dataclass(frozen=True)
class _Head:
    """A head whose gradient is known, by the names of its tensors in the graph.

    Attributes:
        pool: what made a vector of the map: the operator's node, or None where the map was only flattened.
        first: weights of the first Dense layer, (cells * channels, units).
        hidden: what the hidden layer gave; None where there is none.
        last: weights of the second Dense layer, (units, classes).
        softmax: whether the classes shut each other out.
    """

    pool: onnx.NodeProto | None
    first: str
    hidden: str | None
    last: str | None
    softmax: bool


def feature_map_of(model: keras.Model, graph: FlatGraph) -> int | None:
    """The tensor that the backbone gives to the head, (n, height, width, channels); None where there is none."""
    from greffon.backbone.parts import split_parts

    backbone = split_parts(model).backbone
    last = backbone[-1] if backbone else None
    for node in reversed(graph.nodes):
        if node.operation is last and len(graph.specs[node.outputs[0]].shape) == 4:
            return node.outputs[0]
    return None


def add_looks(model: onnx.ModelProto, number: int) -> None:
    """Add the outputs to a model as the emitter wrote it.

    Args:
        model: changed in place; `outputs[number]` is its last feature map, channels last, and takes that name.
        number: of that output.
    """
    graph = model.graph
    shown = graph.output[number]
    # `output_n` is the feature map turned from how convolutions hold it, or the same where it was held so.
    turned = next(node for node in graph.node if shown.name in node.output)
    held_first = turned.op_type == "Transpose"
    add = _Nodes(graph)
    turned.output[0] = shown.name = FEATURE_MAP
    if held_first:
        pooled = add("GlobalAveragePool", turned.input[0])
        add("Flatten", pooled, output=FEATURES, axis=1)
    else:
        add("ReduceMean", FEATURE_MAP, output=FEATURES, axes=[1, 2], keepdims=0)
    sizes = [size.dim_value or None for size in shown.type.tensor_type.shape.dim]
    add.declare(FEATURES, (sizes[3],))
    head = _head_of(graph, turned.input[0])
    if head is None or None in sizes[1:]:
        return
    height, width, channels = (int(size or 0) for size in sizes[1:])
    parts = _parts_of_scores(add, head, (height, width, channels), turned.input[0])
    if parts is None:
        return
    if head.hidden is not None and head.last is not None:
        # Behind relu the gradient passes where something came through.
        passes = add("Unsqueeze", add("Sign", head.hidden), add.numbers([1, 2]))
        parts = add("MatMul", add("Mul", parts, passes), head.last)
    if head.softmax:
        parts = add("Sub", parts, add("ReduceMean", parts, axes=[3], keepdims=1))
    add("Identity", parts, output=CLASS_MAPS)
    add.declare(CLASS_MAPS, (height, width, add.dims(head.last or head.first)[1]))


def _parts_of_scores(add: _Nodes, head: _Head, sides: tuple[int, int, int], held: str) -> str | None:
    """What each place gives to each unit of the first Dense layer: (n, height, width, units)."""
    height, width, channels = sides
    weights = head.first
    units = add.dims(weights)[1]
    if head.pool is None:
        if add.dims(weights)[0] != height * width * channels:
            return None
        # One small product for each place, by weights of its own.
        places = add("Unsqueeze", FEATURE_MAP, add.numbers([3]))
        own = add("Reshape", weights, add.numbers([height, width, channels, units]))
        return add("Squeeze", add("MatMul", places, own), add.numbers([3]))
    if head.pool.op_type == "GlobalMaxPool":
        # Only the largest value of each channel reaches the head.
        most = add("Cast", add("Equal", held, head.pool.output[0]), to=1)
        taken = add("Transpose", add("Mul", held, most), perm=[0, 2, 3, 1])
        return add("MatMul", taken, weights)
    shares = _shares(head.pool, height, width)
    cells = shares.shape[2]
    if add.dims(weights)[0] != cells * channels:
        return None
    if cells == 1:
        return add("MatMul", add("Mul", FEATURE_MAP, add.floats(shares)), weights)
    by_cell = add("Reshape", weights, add.numbers([cells, channels, units]))
    side_by_side = add("Reshape", add("Transpose", by_cell, perm=[1, 0, 2]), add.numbers([channels, cells * units]))
    given = add("Reshape", add("MatMul", FEATURE_MAP, side_by_side), add.numbers([0, 0, 0, cells, units]))
    return add("ReduceSum", add("Mul", given, add.floats(shares[..., None])), add.numbers([3]), keepdims=0)


def _shares(pool: onnx.NodeProto, height: int, width: int) -> Array:
    """How much of each place goes into each cell's mean: float32 (height, width, cells)."""
    if pool.op_type == "GlobalAveragePool":
        return np.full((height, width, 1), 1 / (height * width), np.float32)
    options = {one.name: list(one.ints) for one in pool.attribute}
    (high, wide), (down, right) = options["kernel_shape"], options["strides"]
    cells = []
    for top in range(0, height - high + 1, down):
        for left in range(0, width - wide + 1, right):
            cell = np.zeros((height, width), np.float32)
            cell[top : top + high, left : left + wide] = 1 / (high * wide)
            cells.append(cell)
    return np.stack(cells, axis=-1)


def _head_of(graph: onnx.GraphProto, feature_map: str) -> _Head | None:
    """The head, read backwards from the probabilities; None where it is not one of the known ones."""
    made = {name: node for node in graph.node for name in node.output}

    def step(name: str, *kinds: str) -> onnx.NodeProto | None:
        node = made.get(name)
        return node if node is not None and node.op_type in kinds else None

    last = step(graph.output[0].name, "Identity")
    output = last and step(last.input[0], "Softmax", "Sigmoid")
    dense = output and step(output.input[0], "Gemm")
    if output is None or dense is None:
        return None
    relu = step(dense.input[0], "Relu")
    inner = relu and step(relu.input[0], "Gemm")
    pool, found = _pool_of((inner or dense).input[0], feature_map, step)
    if not found:
        return None
    if inner is None:
        return _Head(pool, dense.input[1], None, None, output.op_type == "Softmax")
    return _Head(pool, inner.input[1], dense.input[0], dense.input[1], output.op_type == "Softmax")


def _pool_of(vector: str, feature_map: str, step: Any) -> tuple[onnx.NodeProto | None, bool]:
    """The node that pools, None where nothing does; and whether this is a head's way from the map to a vector."""
    flat = step(vector, "Flatten", "Reshape")
    if flat is None:
        return None, False
    turned = step(flat.input[0], "Transpose")
    before = turned.input[0] if turned is not None else flat.input[0]
    if before == feature_map:
        return None, turned is not None
    pool = step(before, "GlobalAveragePool", "GlobalMaxPool", "AveragePool")
    padded = pool is not None and any(one.name == "pads" and any(one.ints) for one in pool.attribute)
    return pool, pool is not None and pool.input[0] == feature_map and not padded


class _Nodes:
    """Adds operators and constants behind those of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._count = 0
        self._dims = {one.name: list(one.dims) for one in graph.initializer}

    def __call__(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        import onnx

        name = output or self._name()
        self._graph.node.append(onnx.helper.make_node(kind, inputs, [name], name=f"look_{name}", **attributes))
        return name

    def dims(self, constant: str) -> list[int]:
        return self._dims[constant]

    def numbers(self, values: list[int]) -> str:
        return self._constant(np.array(values, np.int64))

    def floats(self, values: Array) -> str:
        return self._constant(values.astype(np.float32))

    def declare(self, output: str, sizes: tuple[int | None, ...]) -> None:
        import onnx

        shape = ["batch", *(size or f"{output}_axis_{axis}" for axis, size in enumerate(sizes, 1))]
        self._graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))

    def _constant(self, array: Array) -> str:
        import onnx

        name = self._name()
        self._graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"look{self._count}"
