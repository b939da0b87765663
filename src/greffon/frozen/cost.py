"""What a graph costs in multiply-accumulates per picture, and how many of them this machine does in a second."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from pathlib import Path

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


def remember_speed(engine: str, macs_per_second: float) -> None:
    """Note down for later runs how fast an engine was; losing the note does no harm."""
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(_notes() | {engine: macs_per_second}), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return


def known_speed(engine: str | None = None) -> float | None:
    """Multiply-accumulates per second of an engine when it last computed a trunk here; None: the fastest known."""
    notes = _notes()
    return notes.get(engine) if engine else max(notes.values(), default=None)


def _notes() -> dict[str, float]:
    try:
        notes: Any = json.loads(_file().read_text(encoding="utf-8"))
        return {str(name): float(speed) for name, speed in notes.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _file() -> Path:
    return cache_dir() / "speed.json"
