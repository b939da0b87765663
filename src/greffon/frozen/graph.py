"""A Keras model as one flat list of calls, nested models unfolded: what cut, engine and emitter work on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import keras
from keras.src.ops.core import Cast

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True)
class Ref:
    """Stands in a node's arguments for the tensor with this id."""

    tensor: int


@dataclass(frozen=True)
class Node:
    """One call of one layer (or bare operation) that is not itself a graph.

    Attributes:
        operation: the layer; the same object stands in two nodes where a model calls it twice.
        args: positional arguments, with `Ref` in place of tensors.
        kwargs: keyword arguments, likewise; never `training`, which `fit` decides at call time.
        inputs: ids of the tensors in `args` and `kwargs`, in order.
        outputs: ids of the tensors that the call gives, in order.
        path: names from the outermost model inwards, such as `resnet50/conv1_conv`.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    path: str

    @cached_property
    def takes_training(self) -> bool:
        """Whether the call has a `training` argument."""
        call = getattr(self.operation, "call", self.operation)
        return "training" in inspect.signature(call).parameters

    def run(self, values: Mapping[int, Any], *, training: bool | None = None) -> list[Any]:
        """Call the operation on the values of its input tensors; give its flat outputs."""
        args, kwargs = keras.tree.map_structure(
            lambda leaf: values[leaf.tensor] if isinstance(leaf, Ref) else leaf,
            (self.args, dict(self.kwargs)),
        )
        if training is not None and self.takes_training:
            kwargs["training"] = training
        return list(keras.tree.flatten(self.operation(*args, **kwargs)))


@dataclass(frozen=True)
class FlatGraph:
    """Calls in an order that can be run, with the tensors that go in and come out.

    Attributes:
        nodes: the calls, each after those that it depends on.
        inputs: ids of the tensors that the graph is given, in order.
        outputs: ids of the tensors that it gives, in order.
        specs: shape and dtype of every tensor, by id; the batch dimension comes first.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    specs: Mapping[int, keras.KerasTensor]

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers, each once, in the order of their first call."""
        unique = {id(node.operation): node.operation for node in self.nodes}
        return [operation for operation in unique.values() if isinstance(operation, keras.layers.Layer)]

    def run(self, inputs: Sequence[Any], *, training: bool | None = None) -> list[Any]:
        """Run every call on tensors of the backend; give the outputs in order."""
        values = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            values.update(zip(node.outputs, node.run(values, training=training), strict=True))
        return [values[tensor] for tensor in self.outputs]

    def between(self, inputs: Sequence[int], outputs: Sequence[int]) -> FlatGraph:
        """The part that computes `outputs` from `inputs`; calls that this does not need are left out."""
        needed, kept = set(outputs) - set(inputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.difference_update(node.outputs)
                needed.update(tensor for tensor in node.inputs if tensor not in inputs)
        if needed:
            raise ValueError(f"tensors {sorted(needed)} do not depend on the inputs {list(inputs)} alone")
        return replace(self, nodes=tuple(reversed(kept)), inputs=tuple(inputs), outputs=tuple(outputs))


def with_calls(graph: FlatGraph, layers: Sequence[keras.layers.Layer], tensor: int) -> tuple[FlatGraph, int]:
    """The graph with layers called one after the other on one of its tensors; and the tensor that the last gives.

    The layers are not part of any Keras model by that; the graph's outputs stay what they were.
    """
    for layer in layers:
        graph, tensor = _with_call(graph, layer, Ref(tensor))
    return graph, tensor


def with_join(graph: FlatGraph, layer: keras.layers.Layer, tensors: Sequence[int]) -> tuple[FlatGraph, int]:
    """The graph with one more layer that takes a list of its tensors; and the tensor that it gives."""
    return _with_call(graph, layer, [Ref(tensor) for tensor in tensors])


def _with_call(graph: FlatGraph, layer: keras.layers.Layer, taken: Ref | list[Ref]) -> tuple[FlatGraph, int]:
    specs = keras.tree.map_structure(lambda ref: graph.specs[ref.tensor], taken)
    inputs = tuple(ref.tensor for ref in keras.tree.flatten(taken))
    output = max(graph.specs) + 1
    given = layer.compute_output_spec(specs)
    if not layer.built:
        layer.build(keras.tree.map_structure(lambda spec: spec.shape, specs))
    node = Node(layer, (taken,), {}, inputs, (output,), layer.name)
    return replace(graph, nodes=(*graph.nodes, node), specs={**graph.specs, output: given}), output


class GraphModel(keras.Model):
    """A Keras model that runs a flat graph and shares its layers.

    It calls the layers where `keras.Model(inputs, outputs)` would record new calls on them, so that the layers of
    the model which the graph was made from know the same calls as before.

    Args:
        graph: the calls to run.
        output: the structure to give the outputs in; by default one tensor, or a list of several.
        options: what `keras.Model` takes, such as `name` and `dtype`.
    """

    def __init__(self, graph: FlatGraph, *, output: Any = None, **options: Any) -> None:
        super().__init__(**options)
        # As in Keras' Functional: each input gets the dtype of its own spec, not the model's compute dtype.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.graph = graph
        self.graph_layers = graph.layers
        self._pack = None if output is None else lambda flat: keras.tree.pack_sequence_as(output, flat)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the graph on one tensor, or on a list of tensors in the order of `graph.inputs`."""
        dtypes = [self.graph.specs[tensor].dtype for tensor in self.graph.inputs]
        tensors = [
            keras.ops.cast(tensor, dtype) for tensor, dtype in zip(keras.tree.flatten(inputs), dtypes, strict=True)
        ]
        outputs = self.graph.run(tensors, training=training)
        if self._pack is not None:
            return self._pack(outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def is_graph(model: Any) -> bool:
    """Whether a model is Functional or Sequential and built, with no `call` of its own: whether it can be flattened."""
    try:
        graph = _functional(model)
    except InputError:
        return False
    return graph is not None


def flatten(model: keras.Model) -> FlatGraph:
    """Flatten a Functional or Sequential model, nested ones included.

    Raises:
        InputError: the model is subclassed, or a Sequential that has not seen its input shape yet.

    Example:
        >>> import keras
        >>> from greffon.frozen.graph import flatten
        >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="inner")], name="nested")
        >>> model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="last")])
        >>> [node.path for node in flatten(model).nodes]
        ['nested/inner', 'last']
    """
    functional = _functional(model)
    if functional is None:
        raise InputError(f"{model.name!r} must be a Functional or Sequential model, got {type(model).__name__}")
    return _Flattener().flatten(functional)


def output_structure(model: keras.Model) -> Any:
    """The structure (one tensor, list, dictionary) that a model gives its outputs in, with a number for each tensor."""
    structure = _functional(model).output
    return keras.tree.pack_sequence_as(structure, range(len(keras.tree.flatten(structure))))


def flat_inputs(model: keras.Model, x: Any) -> list[Any]:
    """The inputs of a batch in the order of `model.inputs`, found as Keras finds them.

    Raises:
        InputError: there are more or fewer than the model has, or names that it does not have.
    """
    functional = _functional(model)
    try:
        flat = _by_name_or_order(functional, x)
    except KeyError as error:
        names = [tensor.name for tensor in functional.inputs]
        raise InputError(f"the model's inputs are {names}, got a dictionary without {error.args[0]!r}") from None
    if len(flat) != len(functional.inputs):
        raise InputError(f"the model has {len(functional.inputs)} inputs, got {len(flat)}")
    return flat


def _by_name_or_order(functional: Any, given: Any) -> list[Any]:
    """What is given for a Functional model's inputs; a dictionary for a model without one is read by name."""
    if isinstance(given, Mapping) and not isinstance(functional.input, Mapping):
        return [given[tensor.name] for tensor in functional.inputs]
    return list(keras.tree.flatten(given))


def _functional(model: Any) -> Any:
    """The Functional model that a model is or holds; None where its own code, not its graph, says what it does."""
    if isinstance(model, keras.Sequential):
        if type(model).call is not keras.Sequential.call:
            return None
        if not model.built or model._functional is None:
            raise InputError(f"Sequential {model.name!r} does not know its input shape yet: begin it with keras.Input")
        return model._functional
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        return None
    functional: Any = next(kind for kind in type(model).__mro__ if kind.__name__ == "Functional")
    return model if type(model).call is functional.call else None


class _Flattener:
    """Walks a model's calls in Keras' own order and numbers the tensors."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.specs: dict[int, keras.KerasTensor] = {}

    def flatten(self, functional: Any) -> FlatGraph:
        inputs = [self._new_tensor(tensor) for tensor in functional.inputs]
        outputs = self._walk(functional, inputs, prefix="")
        return FlatGraph(tuple(self.nodes), tuple(inputs), tuple(outputs), self.specs)

    def _new_tensor(self, spec: keras.KerasTensor) -> int:
        self.specs[len(self.specs)] = spec
        return len(self.specs) - 1

    def _walk(self, functional: Any, inputs: Iterable[int], prefix: str) -> list[int]:
        known = {id(tensor): number for tensor, number in zip(functional.inputs, inputs, strict=True)}
        for call in _calls(functional):
            args, kwargs = call.arguments.convert(
                lambda leaf, known=known: Ref(known[id(leaf)]) if isinstance(leaf, keras.KerasTensor) else leaf
            )
            outputs = self._call(call, args, kwargs, prefix)
            known.update((id(tensor), number) for tensor, number in zip(call.outputs, outputs, strict=True))
        return [known[id(tensor)] for tensor in functional.outputs]

    def _call(self, call: Any, args: Any, kwargs: dict[str, Any], prefix: str) -> list[int]:
        operation = call.operation
        kwargs = {name: value for name, value in kwargs.items() if name != "training" and not _is_absent(value)}
        inputs = [leaf.tensor for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Ref)]
        path = prefix + operation.name
        inner = _functional(operation) if _unfolds(operation) else None
        if inner is not None and len(inputs) == len(inner.inputs) and len(args) == 1 and not kwargs:
            return self._walk(inner, self._enter(inner, args[0], path), prefix=path + "/")
        return self._add(operation, args, kwargs, self._output_specs(call, inputs, args, kwargs), path)

    def _add(self, operation: Any, args: Any, kwargs: dict[str, Any], specs: list[Any], path: str) -> list[int]:
        inputs = [leaf.tensor for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Ref)]
        outputs = [self._new_tensor(spec) for spec in specs]
        self.nodes.append(Node(operation, tuple(args), kwargs, tuple(inputs), tuple(outputs), path))
        return outputs

    def _enter(self, functional: Any, given: Any, path: str) -> list[int]:
        """A nested model's inputs, brought to the dtype that it wants, as Keras does when it is called."""
        entered = []
        for ref, wanted in zip(_by_name_or_order(functional, given), functional.inputs, strict=True):
            spec, tensor = self.specs[ref.tensor], ref.tensor
            if spec.dtype != wanted.dtype:
                cast = Cast(wanted.dtype, name="cast")
                (tensor,) = self._add(cast, (ref,), {}, [cast.compute_output_spec(spec)], f"{path}/cast")
            entered.append(tensor)
        return entered

    def _output_specs(self, call: Any, inputs: list[int], args: Any, kwargs: dict[str, Any]) -> list[Any]:
        """What Keras recorded, unless an outer model knows the shapes better (a base for pictures of any size)."""
        if all(self.specs[n].shape == old.shape for n, old in zip(inputs, call.input_tensors, strict=True)):
            return list(call.outputs)
        args, kwargs = keras.tree.map_structure(
            lambda leaf: self.specs[leaf.tensor] if isinstance(leaf, Ref) else leaf, (args, kwargs)
        )
        return list(keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs)))


def _is_absent(value: Any) -> bool:
    """Whether an argument is None, or a structure of nothing else: Keras notes down masks that are not there."""
    leaves = keras.tree.flatten(value)
    return bool(leaves) and all(leaf is None for leaf in leaves)


def _unfolds(operation: Any) -> bool:
    """Whether a call of this is a call of the layers inside, and nothing else."""
    if not isinstance(operation, keras.Model) or operation.activity_regularizer is not None:
        return False
    return not isinstance(operation, keras.Sequential) or operation._functional is not None


def _calls(functional: Any) -> Iterator[Any]:
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for call in functional._nodes_by_depth[depth]:
            if call.operation and not call.is_input:
                yield call
