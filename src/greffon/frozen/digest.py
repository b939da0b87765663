"""Names for what a trunk computes: the same in every process, whatever the layers are called."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import xxhash

from greffon.frozen.code import described_code, is_keras_own
from greffon.frozen.graph import Ref

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph

# To be raised when the same graph and weights would give other numbers than before.
TRUNK_VERSION = 1

# Say nothing about the output of a frozen layer.
_IRRELEVANT = frozenset({"trainable", "seed", "build_config", "shared_object_id"})
_IRRELEVANT_ENDS = ("_initializer", "_regularizer", "_constraint")
# Attributes of every layer that change while it is used, or are in its configuration anyway.
_EVERY_LAYERS = frozenset({"name", "built", "trainable", "autocast", "supports_jit", "input_spec"})


def trunk_digest(trunk: FlatGraph, *extra: str) -> bytes:
    """16 bytes that name what a trunk computes: its graph without layer names, and its weights.

    Left out on purpose: names, trainable flags, initializers and regularizers, none of which change the output of a
    frozen layer. Layers and functions that are not Keras' own are told apart by their code as well.

    Args:
        trunk: the graph.
        extra: whatever else changes the stored numbers, such as the dtype that they are kept in.

    Example:
        >>> import keras
        >>> from greffon.frozen.digest import trunk_digest
        >>> from greffon.frozen.graph import flatten
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> len(trunk_digest(flatten(model), "float32"))
        16
    """
    digest = xxhash.xxh3_128()
    tensors: dict[int, int] = {}
    operations: dict[int, int] = {}

    def number(tensor: int) -> int:
        return tensors.setdefault(tensor, len(tensors))

    def update(*parts: Any) -> None:
        digest.update(json.dumps(parts, sort_keys=True).encode())

    update(TRUNK_VERSION, extra, [number(tensor) for tensor in trunk.inputs])
    for node in trunk.nodes:
        # Which of two equal layers is called again would otherwise not show.
        operation = operations.setdefault(id(node.operation), len(operations))
        arguments = keras.tree.map_structure(
            lambda leaf: f"<{number(leaf.tensor)}>" if isinstance(leaf, Ref) else leaf, (node.args, dict(node.kwargs))
        )
        outputs = [number(tensor) for tensor in node.outputs]
        update(operation, _identity(node.operation), _plain(arguments), outputs)
    update([number(tensor) for tensor in trunk.outputs])
    for layer in trunk.layers:
        for variable in layer.weights:
            update(_array(keras.ops.convert_to_numpy(variable)))
    return digest.digest()


def _identity(operation: Any) -> list[Any]:
    """What an operation computes, weights aside, the layers inside it included."""
    layers = operation._flatten_layers() if isinstance(operation, keras.layers.Layer) else [operation]
    return [part for layer in layers for part in _own_identity(layer)]


def _own_identity(operation: Any) -> list[Any]:
    kind = type(operation)
    try:
        config = {key: value for key, value in _plain(operation.get_config()).items() if key != "name"}
    except Exception:  # a layer of the user's that cannot be described is told apart by its code and weights alone
        config = {}
    functions = [value for value in vars(operation).values() if isinstance(value, types.FunctionType)]
    code = [described_code(function) for function in functions if not is_keras_own(function)]
    identity = [kind.__module__, kind.__qualname__, config, code]
    if is_keras_own(kind) and isinstance(operation, keras.layers.Layer):
        return identity
    return [*identity, "" if is_keras_own(kind) else described_code(kind), _plain_attributes(operation)]


def _plain_attributes(operation: Any) -> dict[str, Any]:
    """Numbers and texts that an operation holds; not all of them need to be in its configuration."""
    return {
        name: _plain(value)
        for name, value in vars(operation).items()
        if not name.startswith("_") and name not in _EVERY_LAYERS and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | bool | None | np.ndarray | np.generic)


def _plain(value: Any) -> Any:
    """A configuration or argument as JSON takes it, without what says nothing about the output."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, slice):
        value = ("slice", value.start, value.stop, value.step)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | keras.Variable) or keras.ops.is_tensor(value):
        return _array(np.asarray(keras.ops.convert_to_numpy(value)))
    try:
        return _plain(keras.saving.serialize_keras_object(value))
    except (TypeError, ValueError):
        return repr(value)


def _plain_mapping(mapping: Mapping[Any, Any]) -> Any:
    if mapping.get("class_name") == "__lambda__":  # holds its place in the file as well; described as code instead
        return "lambda"
    # A layer's configuration has a name that means nothing; a dtype policy's name is all that it has.
    irrelevant = _IRRELEVANT | {"name"} if "trainable" in mapping else _IRRELEVANT
    return {
        str(key): _plain(item)
        for key, item in mapping.items()
        if key not in irrelevant and not str(key).endswith(_IRRELEVANT_ENDS)
    }


def _array(array: np.ndarray[Any, Any]) -> list[Any]:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [str(array.dtype), list(array.shape), xxhash.xxh3_128_hexdigest(content.data)]
