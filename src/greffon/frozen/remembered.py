"""What was found out by timing on this machine, kept for later runs in one small file of the cache folder.

Losing it costs the time of finding it out again; whatever cannot be read counts as not known.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import keras
import xxhash

from greffon.frozen.graph import Ref
from greffon.frozen.hardware import cpu_model, usable_cores
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.frozen.graph import FlatGraph, Node


def key(what: str, *parts: Any) -> str:
    """A name for something found out on this machine.

    Args:
        what: a word for it, such as `xla`.
        parts: everything that it depends on, beside the processor and the cores that may be used.
    """
    return f"{what} {xxhash.xxh3_64_hexdigest(repr((parts, cpu_model(), usable_cores())).encode())}"


def get(name: str) -> Any:
    """What was put under this name: any JSON value; None where nothing is known."""
    return _notes().get(name)


def put(name: str, value: Any) -> None:
    """Keep a JSON value; where it cannot be written, it is not kept."""
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(_notes() | {name: value}, indent=1), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return


def structure(graph: FlatGraph) -> str:
    """What a graph does, without its weights and names: equal for graphs that take the same time."""
    return xxhash.xxh3_64_hexdigest(repr([_call(node, graph) for node in graph.nodes]).encode())


def _call(node: Node, graph: FlatGraph) -> tuple[Any, ...]:
    layer = node.operation
    weights = [(tuple(weight.shape), bool(weight.trainable)) for weight in getattr(layer, "weights", ())]
    shapes = [tuple(graph.specs[tensor].shape) for tensor in (*node.inputs, *node.outputs)]
    options = keras.tree.map_structure(lambda leaf: "tensor" if isinstance(leaf, Ref) else str(leaf), node.args)
    strides = getattr(layer, "strides", None)
    return type(layer).__name__, shapes, weights, options, strides


def _notes() -> dict[str, Any]:
    try:
        notes = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _file() -> Path:
    return cache_dir() / "machine.json"
