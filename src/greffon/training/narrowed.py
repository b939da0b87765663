"""Activations of a head that keeps some channels, out of those of all channels: the trunk has run for them already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from greffon.backbone.blocks import JOINED, KEPT_NAME, kept_channels
from greffon.backbone.parts import HEAD_STARTS
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import keras

    from greffon.frozen.activations import Activations
    from greffon.frozen.graph import FlatGraph

    Array = np.ndarray[Any, Any]

_AT_ONCE = 128


class _Known(NamedTuple):
    part: Activations
    place: int
    channels: Array | None


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


def hand_over(
    known: Sequence[Activations], wanted: Sequence[Activations], model: keras.Model, channels: Sequence[int]
) -> int:
    """Fill activations from those of the same pictures behind the same backbone, where that gives them.

    Args:
        known: of a head that keeps all channels of every block, filled.
        wanted: of `model`; what cannot be had stays missing, and is computed by the trunk.
        model: its head keeps some channels of the blocks.
        channels: their numbers through all blocks.

    Returns:
        How many activations were filled.
    """
    tensors = _tensors(known)
    count = 0
    for part in wanted:
        sources = _sources(part, tensors, kept_channels(model), np.asarray(channels))
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
    part: Activations,
    tensors: Mapping[tuple[str, tuple[int, ...]], _Known],
    kept: Mapping[str, list[int] | None],
    channels: Array,
) -> list[_Known] | None:
    """Where each tensor of a cut comes from; None where one of them is not known."""
    joined = {name: found for (name, shape), found in tensors.items() if len(shape) == 1}
    sources = []
    for name, shape in zip(_names(part), part.shapes, strict=True):
        block = name.removeprefix(KEPT_NAME)
        if name == JOINED and JOINED in joined:
            found: _Known | None = joined[JOINED]._replace(channels=channels)
        elif name.startswith(KEPT_NAME):
            whole = next((joined[it] for it in (f"{start}_{block}" for start in HEAD_STARTS) if it in joined), None)
            found = None if whole is None else whole._replace(channels=np.asarray(kept[block]))
        else:
            found = tensors.get((name, shape))
        if found is None:
            return None
        sources.append(found)
    return sources


def _fill(part: Activations, sources: Sequence[_Known]) -> int:
    rows = part.trunk.missing(part.keys)
    places = [{key: row for row, key in enumerate(source.part.keys)} for source in sources]
    rows = np.array([row for row in rows if all(part.keys[row] in known for known in places)], int)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        arrays = []
        for source, known in zip(sources, places, strict=True):
            values = source.part.gather(np.array([known[part.keys[row]] for row in some]))[source.place]
            arrays.append(values if source.channels is None else values[:, source.channels])
        part.put(some, arrays)
    return len(rows)
