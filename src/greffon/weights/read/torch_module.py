"""A whole pickled module as named tensors, from what the file gives as the attributes of its objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.pickled_values import Inert
from greffon.weights.read.torch_arrays import StoredArray

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = ("_parameters", "_buffers", "_modules")
_DEEPEST = 64
_MOST = 100_000  # entries looked at; a ResNet-152 has 5,000
_LONGEST_NAME = 500
_SCRIPT = "__torch__."


def is_module(value: Any) -> bool:
    """Whether an object has what modules have."""
    if not isinstance(value, Inert):
        return False
    return value.name.startswith(_SCRIPT) or any(type(value.state.get(part)) is dict for part in _PARTS)


def collected(root: Any) -> Iterator[tuple[str, StoredArray]]:
    """Name and tensor of everything in a module or in dicts, in the order in which PyTorch's `state_dict()` has them.

    Raises:
        WeightFileError: the modules contain each other, or are too many.
    """
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    looked_at = 0
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, StoredArray):
            yield name, value
            continue
        dicts = _dicts(value)
        # Counted before they are looked at: one dict may be in many places.
        looked_at += 1 + sum(len(it) for it in dicts)
        if looked_at > _MOST or depth > _DEEPEST or len(name) > _LONGEST_NAME:
            raise WeightFileError("its modules contain each other or are too many for a network")
        inner = [
            (f"{name}.{key}" if name else key, it, depth + 1)
            for entries in dicts
            for key, it in entries.items()
            if type(key) is str and key != "_extra_state" and (isinstance(it, StoredArray | Inert) or type(it) is dict)
        ]
        waiting.extend(reversed(inner))


def _dicts(value: Any) -> list[dict[Any, Any]]:
    """The dicts in a module, dict or other object that may hold tensors or modules."""
    if type(value) is dict:
        return [value]
    if not isinstance(value, Inert):
        return []
    if not is_module(value):
        return [value.items or value.state]
    if value.name.startswith(_SCRIPT):
        return [value.state]
    return [_persistent(value.state, part) for part in _PARTS if type(value.state.get(part)) is dict]


def _persistent(state: dict[Any, Any], part: str) -> dict[Any, Any]:
    """The parameters, modules or buffers, without those buffers that are not part of a state dict."""
    transient = state.get("_non_persistent_buffers_set")
    if part != "_buffers" or type(transient) is not list or not transient:
        return state[part]
    names = {key for key in transient if type(key) is str}
    return {key: it for key, it in state[part].items() if key not in names}
