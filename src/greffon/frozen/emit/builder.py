"""ONNX nodes, constants and layouts: what the converters of single layers write with."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy.typing as npt

    from greffon.frozen.graph import FlatGraph

    Shape = tuple[int | None, ...]

# ONNX Runtime 1.22 and later read newer ones too, but some of its optimisations know the operators only up to here.
OPSET = 17
IR_VERSION = 8

# Position i of a picture stored channels first holds this axis of Keras' order.
_CHANNELS_FIRST = (0, 3, 1, 2)
_CHANNELS_LAST = (0, 2, 3, 1)

# Smaller numbers than this are denormal: exact zeros for every purpose here, and slow to multiply with.
_SMALLEST_NORMAL = np.finfo(np.float32).tiny


class Unsupported(Exception):  # noqa: N818 - it says what a layer is, not that something went wrong
    """A layer, or an option of it, that the emitter does not know.

    Args:
        what: the layer's path in the model.
        why: the reason, to be read after the layer's name.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph.

    Attributes:
        name: its name in the ONNX graph.
        shape: its shape in Keras' order; None where the size is not known.
        first: whether it is stored channels first, (batch, channels, height, width); only with four axes.
    """

    name: str
    shape: Shape
    first: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def axis(self, axis: int) -> int:
        """Where an axis of Keras' order lies in storage."""
        axis %= self.rank
        return _CHANNELS_FIRST.index(axis) if self.first else axis

    def stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array that broadcasts against this tensor in Keras' order, made to broadcast against it in storage."""
        if not self.first:
            return array
        return array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(_CHANNELS_FIRST)


class Builder:
    """Collects nodes and constants of one ONNX graph, with names that depend on the graph alone.

    Pictures lie channels first inside the graph and channels last, as in Keras, at its boundary. A tensor is turned
    once, where the first node needs it the other way round.
    """

    def __init__(self, graph: FlatGraph) -> None:
        self._specs = graph.specs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._values: dict[int, Value] = {}
        self._turned: dict[str, Value] = {}
        self._weights: dict[Hashable, str] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._numbers = itertools.count()

    def copy(self) -> Builder:
        """One that goes on from here by itself."""
        twin = copy.copy(self)
        twin.nodes, twin.constants = list(self.nodes), list(self.constants)
        twin._weights, twin._small = dict(self._weights), dict(self._small)
        twin._values, twin._turned = dict(self._values), dict(self._turned)
        twin._numbers = itertools.count(len(self.constants))
        return twin

    def node(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output; give the output's name."""
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"n{len(self.nodes)}", **attributes))
        return output

    def apply(self, kind: str, value: Value, *others: str, **attributes: Any) -> Value:
        """Add an operator that keeps shape and layout of its first input."""
        return replace(value, name=self.node(kind, value.name, *others, **attributes))

    # --- constants ---------------------------------------------------------------------------------------------

    def constant(self, array: Any, dtype: npt.DTypeLike = np.float32) -> str:
        """The name of a small constant; equal ones are kept once."""
        array = _plain(np.asarray(array, dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._small:
            self._small[key] = self._add(array)
        return self._small[key]

    def numbers(self, values: Sequence[int]) -> str:
        """The name of a list of whole numbers, such as a shape."""
        return self.constant(list(values), np.int64)

    def weight(self, key: Hashable, make: Callable[[], npt.NDArray[Any]]) -> str:
        """The name of a layer's weight as float32; a layer that is called twice keeps its weights once."""
        if key not in self._weights:
            self._weights[key] = self._add(_plain(np.asarray(make(), np.float32)))
        return self._weights[key]

    def _add(self, array: npt.NDArray[Any]) -> str:
        name = f"c{next(self._numbers)}"
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        self.constants.append(
            onnx.TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=little_endian.tobytes())
        )
        return name

    # --- tensors and their layout ------------------------------------------------------------------------------

    def value(self, tensor: int, *, first: bool | None = None) -> Value:
        """The tensor with this id, in the layout that is asked for or else in the one that it has."""
        value = self._values[tensor]
        return value if first is None else self.turn(value, first=first)

    def shape(self, tensor: int) -> Shape:
        """The shape of the tensor with this id, in Keras' order."""
        return tuple(self._specs[tensor].shape)

    def keep(self, tensor: int, value: Value) -> None:
        """Say which value the tensor with this id is."""
        self._values[tensor] = value

    def turn(self, value: Value, *, first: bool) -> Value:
        """The same tensor in the other layout; tensors that are not pictures have only one."""
        if value.rank != 4 or value.first == first:
            return value
        if value.name not in self._turned:
            order = _CHANNELS_FIRST if first else _CHANNELS_LAST
            turned = Value(self.node("Transpose", value.name, perm=order), value.shape, first=first)
            self._turned[value.name] = turned
            self._turned[turned.name] = value
        return self._turned[value.name]

    def reshape(self, value: Value, shape: Shape, sizes: Sequence[int], *, first: bool = False) -> Value:
        """Reshape in storage: `sizes` are ONNX', where 0 keeps an axis and -1 is what remains."""
        return Value(self.node("Reshape", value.name, self.numbers(sizes)), shape, first=first)

    # --- the whole -------------------------------------------------------------------------------------------------

    def add_input(self, tensor: int, number: int) -> onnx.ValueInfoProto:
        """Declare the graph's next input."""
        shape = self.shape(tensor)
        self.keep(tensor, Value(f"input_{number}", shape))
        return _declared(f"input_{number}", shape, f"input_{number}_axis")

    def add_output(self, tensor: int, number: int) -> onnx.ValueInfoProto:
        """Give a tensor out, channels last, under the graph's next output name."""
        value, name = self.value(tensor), f"output_{number}"
        if value.first:
            self.node("Transpose", value.name, name=name, perm=_CHANNELS_LAST)
        else:
            self.node("Identity", value.name, name=name)
        return _declared(name, self.shape(tensor), f"{name}_axis")

    def drop_unread(self) -> None:
        """Leave out the constants that no node reads any more."""
        read = {name for node in self.nodes for name in node.input}
        self.constants = [constant for constant in self.constants if constant.name in read]

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        """The finished graph in ONNX' file format, the same bytes for the same graph and weights."""
        graph = onnx.helper.make_graph(self.nodes, "trunk", inputs, outputs, self.constants)
        opset = onnx.helper.make_opsetid("", OPSET)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="greffon")
        return bytes(model.SerializeToString(deterministic=True))


def _declared(name: str, shape: Shape, prefix: str) -> onnx.ValueInfoProto:
    sizes = ["batch", *(f"{prefix}_{axis}" if size is None else size for axis, size in enumerate(shape[1:], 1))]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype != np.float32:
        return array
    denormal = (np.abs(array) < _SMALLEST_NORMAL) & (array != 0)
    return np.where(denormal, np.float32(0), array) if denormal.any() else array
