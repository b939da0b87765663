"""Files whose tensors have no telling names: found by the order and the shapes of a ResNet.

An exporter to ONNX that folds BatchNorm gives numbers instead of names (`onnx::Conv_497`), MXNet counts its layers,
a checkpoint of TensorFlow counts those that have weights. Only an order in which every shape agrees is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError
from greffon.weights.naming.dialect import TOP
from greffon.weights.naming.others import is_optimizer
from greffon.weights.naming.prefixes import plain
from greffon.weights.structure import Shape, Shapes, blocks_from_kernels, find_renaming, network_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.weights.read.arrays import Contents

_COUNTED = re.compile(
    r"(?P<model>.*?)(?:layer_with_weights-|_operations/|_?layers/)(?P<number>\d{1,9})/(?P<weight>\w+)"
)
_NUMBERED = re.compile(r"(?P<model>(?:.*/)?)(?:conv2d|batch_normalization|dense)(?:_\d+)?/(?P<weight>\w+)")
_ENDINGS = {
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "moving_mean": "moving_mean",
    "running_var": "moving_variance",
    "moving_var": "moving_variance",
    "moving_variance": "moving_variance",
}
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")  # in the order in which ONNX takes them
_HWIO = (2, 3, 1, 0)


@dataclass(frozen=True)
class Ordered:
    """A ResNet that the order and the shapes of a file tell of.

    Attributes:
        places: name in the file -> Keras' name; empty where only `greffon.weights.match` can tell.
        torch_axes: kernels are (out, in, height, width).
        blocks: per stage.
        width: of the first stage.
        problem: why the names cannot be told; empty where they can.
        as_is: names of dense kernels that are (in, out) although convolutions are not.
    """

    places: dict[str, str]
    torch_axes: bool
    blocks: tuple[int, ...]
    width: int
    problem: str = ""
    as_is: frozenset[str] = frozenset()


def read_order(contents: Contents) -> Ordered | None:
    """The ResNet in a file without telling names, or None."""
    shapes = {name: it.shape for name, it in contents.tensors.items() if it.floating and not is_optimizer(name)}
    for fits, torch_axes in ((_NUMBERED, False), (_COUNTED, False), (None, True), (None, False)):
        chosen = shapes if fits is None else {name: it for name, it in shapes.items() if fits.fullmatch(plain(name))}
        kernels = [_turned(it, torch_axes=torch_axes) for it in chosen.values() if len(it) == 4]
        told = blocks_from_kernels(kernels)
        if told is None:
            continue
        if fits is _NUMBERED:
            return Ordered({}, False, *told)
        layers = _counted(chosen) if fits is _COUNTED else _in_order(chosen, torch_axes=torch_axes)
        return _placed(layers, chosen, told, torch_axes=torch_axes)
    return None


def _placed(
    layers: dict[str, dict[str, str]],
    shapes: Mapping[str, Shape],
    told: tuple[tuple[int, ...], int],
    *,
    torch_axes: bool,
) -> Ordered:
    """Give every layer (weight -> name in the file) its name, where only one order fits."""
    blocks, width = told
    turned: Shapes = {
        layer: {weight: _turned(shapes[name], torch_axes=torch_axes) for weight, name in weights.items()}
        for layer, weights in layers.items()
    }
    stem = next(it["kernel"] for it in turned.values() if it.get("kernel", ())[:2] == (7, 7))
    network = network_shapes(blocks, width, channels=stem[2])
    try:
        renaming = find_renaming(turned, network)
    except WeightFileError as error:
        return Ordered({}, torch_axes, blocks, width, str(error))
    if renaming is None:
        return Ordered({}, torch_axes, blocks, width, "the order of its tensors is none that is known")
    places = {
        name: f"{renaming.layers[layer]}/{weight}"
        for layer, weights in layers.items()
        if layer in renaming.layers
        for weight, name in weights.items()
    }
    features = 4 * width * 2 ** (len(blocks) - 1)
    places.update(_top(layers, shapes, features))
    # ONNX' Gemm takes its kernel either way, whatever the convolutions' order.
    dense = [name for name, place in places.items() if place == f"{TOP}/kernel" and shapes[name][0] == features]
    return Ordered(places, torch_axes, blocks, width, as_is=frozenset(dense if torch_axes else ()))


def _counted(shapes: Mapping[str, Shape]) -> dict[str, dict[str, str]]:
    layers: dict[tuple[str, int], dict[str, str]] = {}
    for name in shapes:
        found = _COUNTED.fullmatch(plain(name))
        if found:
            layers.setdefault((found["model"], int(found["number"])), {})[found["weight"]] = name
    return {f"{model}{number}": layers[model, number] for model, number in sorted(layers)}


def _in_order(shapes: Mapping[str, Shape], *, torch_axes: bool) -> dict[str, dict[str, str]]:
    """Layers from tensors in the order of the graph: a kernel, then its bias, or BatchNorm's four, or both."""
    layers: dict[str, dict[str, str]] = {}
    kernel, sizes = "", set[int]()
    vectors: list[str] = []
    for name, shape in shapes.items():
        if len(shape) in {2, 4}:
            _add_vectors(layers, kernel, vectors)
            kernel, vectors = name, []
            sizes = {shape[0], shape[1]} if len(shape) == 2 else {shape[0] if torch_axes else shape[-1]}
            layers[name] = {"kernel": name}
        elif kernel and len(shape) == 1 and shape[0] in sizes:
            vectors.append(name)
    _add_vectors(layers, kernel, vectors)
    return layers


def _add_vectors(layers: dict[str, dict[str, str]], kernel: str, vectors: list[str]) -> None:
    if len(vectors) in {1, 5}:
        layers[kernel]["bias"] = vectors[0]
    if len(vectors) in {4, 5}:
        norm = vectors[-4:]
        said = [_ENDINGS.get(re.split(r"[./]|_(?=gamma|beta|running|moving)", name)[-1]) for name in norm]
        words = said if all(said) and len(set(said)) == 4 else _NORM
        layers[f"{kernel} (norm)"] = {str(word): name for word, name in zip(words, norm, strict=True)}


def _top(layers: dict[str, dict[str, str]], shapes: Mapping[str, Shape], features: int) -> dict[str, str]:
    """The classifier: the only dense layer, if it takes what the network gives."""
    dense = [it for it in layers.values() if len(shapes.get(it.get("kernel", ""), ())) == 2]
    if len(dense) != 1 or features not in shapes[dense[0]["kernel"]]:
        return {}
    return {name: f"{TOP}/{weight}" for weight, name in dense[0].items()}


def _turned(shape: Shape, *, torch_axes: bool) -> Shape:
    if not torch_axes or len(shape) not in {2, 4}:
        return shape
    return tuple(shape[axis] for axis in (_HWIO if len(shape) == 4 else (1, 0)))
