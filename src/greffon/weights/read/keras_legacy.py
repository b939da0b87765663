"""The layout of Keras' legacy HDF5 weights, from Keras 1 to Keras 3: layer_names, weight_names, datasets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Contents

if TYPE_CHECKING:
    from greffon.weights.read.guarded import GuardedFile

# What older versions of Keras called a weight -> what it is called now. Keras 1 wrote "running_std", and meant
# the variance.
_WEIGHT_NAMES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
    "running_variance": "moving_variance",
}
_KNOWN = ("moving_variance", "moving_mean", "kernel", "gamma", "bias", "beta", *_WEIGHT_NAMES)
# Keras 1 puts the layer before the weight, and TensorFlow a number behind a name that was taken: "conv1_W_1:0".
_OLD_NAME = re.compile(rf"(.+?)_({'|'.join(_KNOWN)})(?:_\d+)?")
# Where a weight has no telling name ("param_0"), its place in its layer tells.
_BY_PLACE = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}


def read_legacy(file: GuardedFile, group: Any, name: str) -> Contents:
    """Read the group that holds `layer_names`.

    Raises:
        WeightFileError: a layer or weight that the file lists is not in it.
    """
    layers = file.strings(group, "layer_names")
    weights = Contents({}, name)
    weights.metadata["keras_version"] = file.string(group, "keras_version") or "1"
    if backend := file.string(group, "backend"):
        weights.metadata["backend"] = backend
    all_names: list[str] = []
    for layer in layers:
        layer_group = file.child(group, layer)
        paths = file.strings(layer_group, "weight_names")
        owners = _owners(layer, paths)
        all_names.extend(dict.fromkeys(owners) or [layer])
        for place, (path, owner) in enumerate(zip(paths, owners, strict=True)):
            tensor = file.tensor(file.child(layer_group, path), f"{layer}/{path}")
            weights.add(f"{owner}/{_weight_name(path, owner, place, len(paths))}", tensor)
            _note_backend(weights, path)
    weights.layer_names = tuple(all_names)
    if not layers:
        raise WeightFileError("it names no layers")
    return weights


def _owners(layer: str, paths: list[str]) -> list[str]:
    """The layer that each weight belongs to: `layer` itself, or the one inside it where it is a model.

    A path ends in "layer/weight:0", or in "layer_weight" in Keras 1. Its layer part may also be this very layer
    under a number that TensorFlow appended, or be missing.
    """
    parents = [_parent(path) or layer for path in paths]
    if len(set(parents)) == 1 and _same_layer(parents[0], layer):
        return [layer] * len(paths)
    return parents


def _parent(path: str) -> str:
    if "/" in path.strip("/"):
        return path.split("/")[-2]
    old = _OLD_NAME.fullmatch(_last(path))
    return old[1] if old else ""


def _same_layer(parent: str, layer: str) -> bool:
    return parent == layer or re.fullmatch(re.escape(layer) + r"_\d+", parent) is not None


def _weight_name(path: str, owner: str, place: int, count: int) -> str:
    last = _last(path)
    old = _OLD_NAME.fullmatch(last)
    known = old[2] if old and _same_layer(old[1], owner) else last
    if known in _KNOWN:
        return _WEIGHT_NAMES.get(known, known)
    if re.fullmatch(r"param_\d+", last) and count in _BY_PLACE:
        return _BY_PLACE[count][place]
    return last


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].partition(":")[0]


def _note_backend(weights: Contents, path: str) -> None:
    """Keras 1 does not say which backend it ran on, but TensorFlow's variables end in ":0" and Theano's do not."""
    if "backend" not in weights.metadata and _OLD_NAME.fullmatch(_last(path)) and "/" not in path:
        weights.metadata["backend"] = "tensorflow" if path.endswith(":0") else "theano"
