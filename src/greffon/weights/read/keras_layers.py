"""The stored configuration of a Keras model, read as data: which layers there are. Nothing is built from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def inner_layers(config: Any) -> list[dict[str, Any]]:
    """The entries of a model's layers, in order; empty for a layer that is no model."""
    inner = config.get("config") if isinstance(config, dict) else None
    if isinstance(inner, list):  # Sequential, as Keras 1 and 2.2 wrote it
        entries = inner
    elif isinstance(inner, dict) and isinstance(inner.get("layers"), list):
        entries = inner["layers"]
    else:
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def layer_name(entry: dict[str, Any]) -> str:
    """The name of a layer, or an empty string."""
    config = entry.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return str(name or entry.get("name") or "")


def flat_configs(config: Any) -> dict[str, dict[str, Any]]:
    """Layer name -> configuration (with its class under "class_name") of every layer, nested models unfolded."""
    return {layer_name(entry): _config(entry) for entry in _all_layers(config)}


def snake_case(class_name: str) -> str:
    """A class name as Keras 3 writes it into paths: `BatchNormalization` -> `batch_normalization`."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _all_layers(config: Any) -> Iterator[dict[str, Any]]:
    for entry in inner_layers(config):
        inner = inner_layers(entry)
        if inner:
            yield from _all_layers(entry)
        else:
            yield entry


def _config(entry: dict[str, Any]) -> dict[str, Any]:
    config = entry.get("config")
    return {**(config if isinstance(config, dict) else {}), "class_name": str(entry.get("class_name", ""))}
