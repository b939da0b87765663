"""The layout of Keras 3 weights (`.weights.h5`, and inside `.keras`): groups that hold `vars/0`, `vars/1`, ...

A group is called after its layer's class and a number within its model (`layers/conv2d_12`). Newer versions of
Keras write the layer's own name beside its variables; for older ones the configuration of the model tells it, or
nothing does, and the layers keep the names of the groups: `match` then goes by order and shapes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import WeightArrays
from greffon.weights.read.keras_layers import flat_configs, inner_layers, layer_name, snake_case

if TYPE_CHECKING:
    from greffon.weights.read.guarded import GuardedFile

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_NOT_LAYERS = ("optimizer", "metrics", "_metrics", "loss", "compile_metrics")
# The variables of the layers that a ResNet is made of, in the order in which they are numbered.
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_vars(file: GuardedFile, config: dict[str, Any] | None) -> WeightArrays:
    """Read every group that holds variables, the optimizer's and the metrics' left out.

    Raises:
        WeightFileError: there are none: this is HDF5 of another kind.
    """
    weights = WeightArrays({}, "Keras 3 weights (HDF5)" if config is None else "Keras 3 model (.keras)")
    configs = flat_configs(config)
    names = _names_by_path(config)
    all_names: list[str] = []
    found = False
    for path, group in file.walk():
        parts = _parts(path)
        if parts[-1:] != ("vars",) or (parts[0] in _NOT_LAYERS and len(parts) > 1):
            continue
        found = True
        key = tuple(part for part in parts[:-1] if part not in _CONTAINERS)
        layer = file.string(group, "name") or names.get(key) or "/".join(key) or "model"
        all_names.append(layer)
        _add_layer(file, weights, group, layer, _class_of(key, configs.get(layer)))
    if not found:
        raise WeightFileError("it is HDF5, but not written by Keras: no layer_names and no vars in it")
    weights.layer_names = tuple(dict.fromkeys([*configs, *all_names]))  # configs are in the model's order
    weights.configs = configs
    return weights


def _add_layer(file: GuardedFile, weights: WeightArrays, group: Any, layer: str, kind: str) -> None:
    arrays = {name: file.array(it, f"{layer}/{name}") for name, it in file.children(group)}
    variables = _VARIABLES.get(kind, ())
    for name in sorted(arrays, key=_natural):
        known = name.isdecimal() and int(name) < len(variables)
        weights.add(layer, variables[int(name)] if known else name, arrays[name])


def _class_of(key: tuple[str, ...], config: dict[str, Any] | None) -> str:
    if config and config.get("class_name"):
        return snake_case(config["class_name"])
    return re.sub(r"_\d+$", "", key[-1]) if key else ""


def _names_by_path(config: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Path in the file -> layer name, by numbering the layers of every class as Keras does."""
    names: dict[tuple[str, ...], str] = {}
    numbers: dict[str, int] = {}
    for entry in inner_layers(config):
        kind = snake_case(str(entry.get("class_name", "")))
        number = numbers.get(kind, 0)
        numbers[kind] = number + 1
        key = (*path, f"{kind}_{number}" if number else kind)
        names[key] = layer_name(entry)
        names.update(_names_by_path(entry, key))
    return names


def _parts(path: str) -> tuple[str, ...]:
    # Early versions wrote the separator of the machine they ran on.
    return tuple(part for part in re.split(r"[/\\]", path) if part)


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (1 << 30, name)
