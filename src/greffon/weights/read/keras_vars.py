"""The layout of Keras 3 weights (`.weights.h5`, and inside `.keras`): groups that hold `vars/0`, `vars/1`, ...

A group is called after its layer's class and a number within its model (`layers/conv2d_12`). Newer versions of
Keras write the layer's own name beside its variables; for older ones the configuration of the model tells it, or
nothing does, and the layers keep the names of the groups: `match` then goes by order and shapes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Contents
from greffon.weights.read.keras_layers import flat_configs, inner_layers, layer_name, snake_case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greffon.weights.read.guarded import GuardedFile

Key = tuple[str, ...]
"""A layer's path in the file: its groups, without those that every path has."""

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_NOT_LAYERS = ("optimizer", "metrics", "_metrics", "loss", "compile_metrics")
# The variables of the layers that a ResNet is made of, in the order in which they are numbered.
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_vars(file: GuardedFile, config: dict[str, Any] | None) -> Contents:
    """Read every group that holds variables, the optimizer's and the metrics' left out.

    Raises:
        WeightFileError: there are none: this is HDF5 of another kind.
    """
    weights = Contents({}, "Keras 3 weights (HDF5)" if config is None else "Keras 3 model (.keras)")
    weights.configs = flat_configs(config)
    groups = dict(_layer_groups(file))
    if not groups:
        raise WeightFileError("it is HDF5, but not written by Keras: no layer_names and no vars in it")
    names = _names_from(config, list(groups))
    all_names: list[str] = []
    for key, group in groups.items():
        layer = file.string(group, "name") or names.get(key) or "/".join(key) or "model"
        all_names.append(layer)
        _add_layer(file, weights, group, layer, _class_of(key, weights.configs.get(layer)))
    weights.layer_names = tuple(dict.fromkeys([*weights.configs, *all_names]))  # configs are in the model's order
    return weights


def _layer_groups(file: GuardedFile) -> Iterator[tuple[Key, Any]]:
    """The groups that hold variables, each with its path without the words that are the same for all."""
    for path, group in file.walk():
        parts = _parts(path)
        if parts[-1:] == ("vars",) and (len(parts) == 1 or parts[0] not in _NOT_LAYERS):
            yield tuple(part for part in parts[:-1] if part not in _CONTAINERS), group


def _add_layer(file: GuardedFile, weights: Contents, group: Any, layer: str, kind: str) -> None:
    tensors = {name: file.tensor(it, f"{layer}/{name}") for name, it in file.children(group)}
    variables = _VARIABLES.get(kind, ())
    for name in sorted(tensors, key=_natural):
        known = name.isdecimal() and int(name) < len(variables)
        weights.add(f"{layer}/{variables[int(name)] if known else name}", tensors[name])


def _class_of(key: Key, config: dict[str, Any] | None) -> str:
    if config and config.get("class_name"):
        return snake_case(config["class_name"])
    return _class_and_number(key[-1])[0] if key else ""


def _names_from(config: Any, keys: list[Key]) -> dict[Key, str]:
    """Path in the file -> layer name, as the configuration of the model tells it.

    The layers of one class are numbered in the model's order, by Keras 2.13 with gaps; so they are counted off,
    and only where there are as many in the file as in the configuration.
    """
    inside: dict[Key, list[Key]] = {}
    for key in keys:
        if key:
            inside.setdefault(key[:-1], []).append(key)
    names: dict[Key, str] = {}
    waiting: list[tuple[Any, Key]] = [(config, ())]
    while waiting:
        model, parent = waiting.pop()
        for key, entry in _counted_off(model, inside.get(parent, [])):
            names[key] = layer_name(entry)
            waiting.append((entry, key))
    return names


def _counted_off(model: Any, keys: list[Key]) -> Iterator[tuple[Key, dict[str, Any]]]:
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in inner_layers(model):
        entries.setdefault(snake_case(str(entry.get("class_name", ""))), []).append(entry)
    groups: dict[str, list[Key]] = {}
    for key in keys:
        groups.setdefault(_class_and_number(key[-1])[0], []).append(key)
    for kind, found in groups.items():
        expected = entries.get(kind, [])
        if len(found) == len(expected):
            found.sort(key=lambda key: _class_and_number(key[-1])[1])
            yield from zip(found, expected, strict=True)


def _class_and_number(part: str) -> tuple[str, int]:
    """`conv2d_12` -> conv2d, 12; `conv2d` -> conv2d, 0."""
    numbered = re.fullmatch(r"(.*?)(?:_(\d+))?", part)
    return (numbered[1], int(numbered[2] or 0)) if numbered else (part, 0)


def _parts(path: str) -> tuple[str, ...]:
    # Early versions wrote the separator of the machine they ran on.
    return tuple(part for part in re.split(r"[/\\]", path) if part)


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (1 << 30, name)
