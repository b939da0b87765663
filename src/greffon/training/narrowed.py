"""Activations of a head that keeps some channels, out of those of all channels: the trunk has run for them already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from greffon.backbone.blocks import EACH_BLOCK, JOINED, KEPT_NAME, kept_channels, last_of_blocks
from greffon.backbone.parts import HEAD_STARTS
from greffon.backbone.pool import pool_layers
from greffon.errors import InputError
from greffon.frozen.graph import with_calls, with_join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.frozen.activations import Activations
    from greffon.frozen.graph import FlatGraph
    from greffon.recipe import Pool

    Array = np.ndarray[Any, Any]

_AT_ONCE = 128


class _Known(NamedTuple):
    part: Activations
    place: int
    channels: Array | None
    even: bool = False  # whether even rows and columns alone are wanted


def joined_blocks(graph: FlatGraph) -> int:
    """The tensor of a grafted model's graph that holds the features of all its blocks."""
    found = [
        (node.operation.name == JOINED, node.outputs[0])
        for node in graph.nodes
        if node.operation.name == JOINED or node.operation.name.startswith(tuple(f"{it}_" for it in HEAD_STARTS))
    ]
    if not found:
        raise InputError("the model's head does not pool its blocks: graft it with pool='blocks'")
    return max(enumerate(found), key=lambda it: (it[1][0], it[0]))[1][1]


def with_blocks(graph: FlatGraph, pool: Pool) -> FlatGraph:
    """A graph of a model whose head pools otherwise, with the features of all its blocks beside that.

    Args:
        graph: whose layers are named by block, as yet computed everywhere.
        pool: `blocks` or `blocks2`.
    """
    tensors = [(node.operation.name, node.outputs[0]) for node in graph.nodes]
    maps = last_of_blocks((name, graph.specs[tensor].shape, tensor) for name, tensor in tensors)
    pooled = []
    for block, tensor in maps.items():
        layers = pool_layers(EACH_BLOCK[pool], graph.specs[tensor].shape[1:3], of=block)
        graph, output = with_calls(graph, layers, tensor)
        pooled.append(output)
    graph, _ = with_join(graph, keras.layers.Concatenate(name=JOINED), pooled)
    return graph


def hand_over(
    known: Sequence[Activations], wanted: Sequence[Activations], model: keras.Model, channels: Sequence[int] | None
) -> int:
    """Fill activations from those of the same pictures behind the same backbone, where that gives them.

    Args:
        known: of a head that keeps all channels of every block, filled.
        wanted: of `model`; what cannot be had stays missing, and is computed by the trunk.
        model: what is wanted is of its layers.
        channels: numbers, through all blocks, of those that its head keeps; None: all, or it reads no blocks.

    Returns:
        How many activations were filled.
    """
    tensors = _tensors(known)
    kept = None if channels is None else np.asarray(channels)
    count = 0
    for part in wanted:
        sources = _sources(part, tensors, model, kept)
        if sources is not None:
            count += _fill(part, sources)
    return count


def _tensors(parts: Sequence[Activations]) -> dict[tuple[str, tuple[int, ...]], _Known]:
    """Every tensor that is known, by the name of what gives it and its shape."""
    return {
        (name, shape): _Known(part, place, None)
        for part in parts
        for place, (name, shape) in enumerate(zip(_names(part), part.shapes, strict=True))
    }


def _names(part: Activations) -> list[str]:
    trunk = part.trunk.cut.trunk
    makers = {tensor: node.path for node in trunk.nodes for tensor in node.outputs}
    return [makers.get(tensor, "") for tensor in trunk.outputs]


def _sources(
    part: Activations, tensors: Mapping[tuple[str, tuple[int, ...]], _Known], model: keras.Model, channels: Array | None
) -> list[_Known] | None:
    """Where each tensor of a cut comes from; None where one of them is not known."""
    vectors = {name: found for (name, shape), found in tensors.items() if len(shape) == 1}
    kept, places = kept_channels(model), _places_in_joined(model)
    sources = []
    for name, shape in zip(_names(part), part.shapes, strict=True):
        block = name.removeprefix(KEPT_NAME)
        if name == JOINED and JOINED in vectors:
            found: _Known | None = vectors[JOINED]._replace(channels=channels)
        elif name.startswith(KEPT_NAME):
            whole = next((vectors[it] for it in (f"{start}_{block}" for start in HEAD_STARTS) if it in vectors), None)
            found = None if whole is None else whole._replace(channels=np.asarray(kept[block]))
        else:
            found = tensors.get((name, shape)) or _at_even(tensors, name, shape)
            if found is None and channels is None and name in places and JOINED in vectors:
                found = vectors[JOINED]._replace(channels=places[name])
        if found is None:
            return None
        sources.append(found)
    return sources


def _at_even(tensors: Mapping[tuple[str, tuple[int, ...]], _Known], name: str, shape: tuple[int, ...]) -> _Known | None:
    """A map that is known everywhere, where what is wanted of it are even positions, as when no block is pooled."""
    for (known, whole), found in tensors.items():
        thinned = (*(-(-side // 2) for side in whole[:2]), *whole[2:])
        if len(whole) == 3 and f"{known}/even" == name and thinned == tuple(shape):
            return found._replace(even=True)
    return None


def _places_in_joined(model: keras.Model) -> dict[str, Array]:
    """By the name of what pools a block, its places among the features of all blocks, where a head joins these."""
    if JOINED not in {layer.name for layer in model.layers}:
        return {}
    places, first = {}, 0
    for tensor in model.get_layer(JOINED).input:
        places[tensor._keras_history.operation.name] = np.arange(first, first + tensor.shape[-1])
        first += tensor.shape[-1]
    return places


def _fill(part: Activations, sources: Sequence[_Known]) -> int:
    rows = part.trunk.missing(part.keys)
    places = [{key: row for row, key in enumerate(source.part.keys)} for source in sources]
    rows = np.array([row for row in rows if all(part.keys[row] in known for known in places)], int)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        arrays = []
        for source, known in zip(sources, places, strict=True):
            values = source.part.gather(np.array([known[part.keys[row]] for row in some]))[source.place]
            values = values[:, ::2, ::2] if source.even else values
            arrays.append(values if source.channels is None else values[:, source.channels])
        part.put(some, arrays)
    return len(rows)
