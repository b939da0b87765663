"""Names for what a trunk computes: the same in every process, whatever the layers are called."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import xxhash

from greffon.frozen.graph import Ref

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph

# To be raised when the same graph and weights would give other numbers than before.
TRUNK_VERSION = 1


def trunk_digest(trunk: FlatGraph, *extra: str) -> bytes:
    """16 bytes that name what a trunk computes: its graph without layer names, and its weights.

    Left out on purpose: names, trainable flags, initializers and regularizers, none of which change the output of a
    frozen layer. Layers that are not Keras' own are told apart by the source of their module as well.

    Args:
        trunk: the graph.
        extra: whatever else changes the stored numbers, such as the dtype that they are kept in.
    """
    digest = xxhash.xxh3_128()
    numbers: dict[int, int] = {}

    def number(tensor: int) -> int:
        return numbers.setdefault(tensor, len(numbers))

    digest.update(json.dumps([TRUNK_VERSION, *extra, [number(t) for t in trunk.inputs]]).encode())
    for node in trunk.nodes:
        args, kwargs = keras.tree.map_structure(
            lambda leaf: f"<{number(leaf.tensor)}>" if isinstance(leaf, Ref) else leaf, (node.args, dict(node.kwargs))
        )
        outputs = [number(tensor) for tensor in node.outputs]
        digest.update(repr([_identity(node.operation), repr((args, kwargs)), outputs]).encode())
    digest.update(repr([number(tensor) for tensor in trunk.outputs]).encode())
    for layer in trunk.layers:
        for variable in layer.weights:
            value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(value.data)
    return digest.digest()


_IRRELEVANT = ("name", "trainable", "seed", "build_config", "dtype_policy_name")


def _identity(operation: Any) -> str:
    """What an operation computes, as text that is the same in every process."""
    kind = type(operation)
    try:
        config = _plain(operation.get_config())
    except Exception:  # a layer of the user's that cannot be described is told apart by its source and weights alone
        config = "no config"
    text = json.dumps([kind.__module__, kind.__qualname__, config], sort_keys=True, default=repr)
    return text if kind.__module__.split(".")[0] == "keras" else text + _source_digest(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item)
            for key, item in value.items()
            if key not in _IRRELEVANT and not str(key).endswith(("_initializer", "_regularizer", "_constraint"))
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    return _plain(keras.saving.serialize_keras_object(value))


def _source_digest(kind: type) -> str:
    try:
        source = inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):
        code = getattr(getattr(kind, "call", None), "__code__", None)
        source = repr((code.co_code, code.co_consts)) if code else repr(kind)
    return hashlib.sha256(source.encode()).hexdigest()
