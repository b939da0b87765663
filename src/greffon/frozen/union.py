"""Graphs of models that share layers, as one graph: what they have in common is there once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras

from greffon.frozen.graph import FlatGraph, Node, Ref

if TYPE_CHECKING:
    from collections.abc import Sequence


def union(graphs: Sequence[FlatGraph]) -> tuple[FlatGraph, list[tuple[int, ...]]]:
    """Join graphs that begin at the same inputs.

    Args:
        graphs: of models on the same input tensors. Two calls are the same where they call the same layer object on
            the same tensors with the same arguments.

    Returns:
        The graph of all calls, with the outputs of all; and for each of the graphs, which tensors its outputs are.

    Example:
        >>> import keras
        >>> from greffon.frozen.graph import flatten
        >>> from greffon.frozen.union import union
        >>> x = keras.Input((4,))
        >>> features = keras.layers.Dense(3, name="shared")(x)
        >>> models = [keras.Model(x, keras.layers.Dense(2)(features)) for _ in range(3)]
        >>> graph, outputs = union([flatten(model) for model in models])
        >>> len(graph.nodes), outputs
        (4, [(2,), (3,), (4,)])
    """
    first = graphs[0]
    nodes: list[Node] = []
    specs: dict[int, Any] = {tensor: first.specs[tensor] for tensor in first.inputs}
    made: dict[Any, tuple[int, ...]] = {}
    given_out = []
    for graph in graphs:
        names = dict(zip(graph.inputs, first.inputs, strict=True))
        for node in graph.nodes:
            call = _renamed(node, names)
            key = (id(node.operation), repr((call.args, sorted(call.kwargs.items()))))
            if key not in made:
                made[key] = tuple(_new(specs, graph.specs[tensor]) for tensor in node.outputs)
                nodes.append(replace(call, outputs=made[key]))
            names.update(zip(node.outputs, made[key], strict=True))
        given_out.append(tuple(names[tensor] for tensor in graph.outputs))
    outputs = tuple(dict.fromkeys(tensor for each in given_out for tensor in each))
    return FlatGraph(tuple(nodes), first.inputs, outputs, specs), given_out


def _renamed(node: Node, names: dict[int, int]) -> Node:
    args, kwargs = keras.tree.map_structure(
        lambda leaf: Ref(names[leaf.tensor]) if isinstance(leaf, Ref) else leaf, (node.args, dict(node.kwargs))
    )
    return replace(node, args=args, kwargs=kwargs, inputs=tuple(names[tensor] for tensor in node.inputs))


def _new(specs: dict[int, Any], spec: Any) -> int:
    number = max(specs, default=-1) + 1
    specs[number] = spec
    return number
