"""Which layer of a file is which of the network, where the file's writer called them otherwise.

Older Keras names are translated. Names that were only numbered (`conv2d_12`) are resolved by order, and only
where every shape agrees and no second order would do as well.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Shape = tuple[int, ...]
Shapes = dict[str, dict[str, Shape]]
"""Layer name -> weight name -> shape, in order."""

DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
"""Bottleneck blocks per stage -> the number that the network is called after."""

_BRANCHES = {"1": 0, "2a": 1, "2b": 2, "2c": 3}
_OLD_BLOCK = re.compile(r"(res|bn)(\d)([a-z])(\d{0,4})_branch(1|2[abc])")
_OLD_ENDS = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn", "fc1000": "predictions"}
_BLOCK = re.compile(r"conv(\d{1,2})_block(\d{1,4})_\d_conv")
_PLACE = re.compile(r"conv(\d{1,2})_block(\d{1,4})_(\d)_(?:conv|bn)")
_STEM = re.compile(r"conv1_(?:conv|bn)")
_NUMBERED = re.compile(r"((?:.*/)?)(?:conv2d|batch_normalization|dense)(?:_(\d{1,9}))?")


class Shaped(Protocol):
    """An array, a tensor of an open file, a variable."""

    @property
    def shape(self) -> Any:
        """Its length along every axis."""
        ...


class Renaming(NamedTuple):
    """Layer name in the file -> layer name in the network, and a sentence about it."""

    layers: dict[str, str]
    note: str


def shapes_of(arrays: Mapping[str, Shaped]) -> Shapes:
    """The shapes of arrays called `layer/weight`, by layer."""
    shapes: Shapes = {}
    for name, array in arrays.items():
        layer, _, weight = name.rpartition("/")
        shapes.setdefault(layer, {})[weight] = tuple(array.shape)
    return shapes


def blocks_of(layers: Iterable[str]) -> tuple[int, ...]:
    """Blocks per stage, from the names of Keras' layers.

    Example:
        >>> from greffon.weights.structure import blocks_of
        >>> blocks_of(["conv2_block1_1_conv", "conv2_block2_1_conv", "conv3_block1_1_conv"])
        (2, 1)
    """
    most: dict[int, int] = {}
    for layer in layers:
        place = _BLOCK.fullmatch(layer)
        if place:
            stage, block = int(place[1]), int(place[2])
            most[stage] = max(most.get(stage, 0), block)
    return tuple(most[stage] for stage in sorted(most))


def blocks_from_kernels(kernels: Iterable[Shape]) -> tuple[tuple[int, ...], int] | None:
    """Blocks per stage and width of a bottleneck ResNet, from its kernels' shapes alone; None if it is none.

    Every block has one 3x3 kernel from and to as many channels; those double from stage to stage.

    Args:
        kernels: (height, width, in, out), in any order.

    Example:
        >>> from greffon.weights.structure import blocks_from_kernels
        >>> blocks_from_kernels([(7, 7, 3, 64), (1, 1, 64, 8), (3, 3, 8, 8), (1, 1, 8, 32), (1, 1, 64, 32)])
        ((1,), 8)
    """
    kernels = [shape for shape in kernels if len(shape) == 4]
    sides = {(shape[0], shape[1]) for shape in kernels}
    counts: dict[int, int] = {}
    for height, width, inwards, outwards in kernels:
        if (height, width) == (3, 3):
            if inwards != outwards:
                return None
            counts[outwards] = counts.get(outwards, 0) + 1
    widths = sorted(counts)
    stems = sum(shape[:2] == (7, 7) for shape in kernels)
    if not widths or stems != 1 or sides != {(7, 7), (3, 3), (1, 1)}:
        return None
    doubling = all(width == widths[0] * 2**stage for stage, width in enumerate(widths))
    if not doubling or len(kernels) != 1 + 3 * sum(counts.values()) + len(widths):
        return None
    return tuple(counts[width] for width in widths), widths[0]


def network_shapes(blocks: Sequence[int], width: int, *, channels: int = 3) -> Shapes:
    """The shapes of a ResNet without biases and classifier, its layers in the order in which Keras lists them."""
    norms = ("gamma", "beta", "moving_mean", "moving_variance")
    shapes: Shapes = {}

    def add(name: str, kernel: Shape) -> None:
        shapes[f"{name}_conv"] = {"kernel": kernel}
        shapes[f"{name}_bn"] = dict.fromkeys(norms, kernel[-1:])

    add("conv1", (7, 7, channels, 64))
    inwards = 64
    for stage, count in enumerate(blocks):
        filters = width * 2**stage
        for block in range(1, count + 1):
            name = f"conv{stage + 2}_block{block}"
            add(f"{name}_1", (1, 1, inwards, filters))
            add(f"{name}_2", (3, 3, filters, filters))
            if block == 1:
                add(f"{name}_0", (1, 1, inwards, 4 * filters))
            add(f"{name}_3", (1, 1, filters, 4 * filters))
            inwards = 4 * filters
    return shapes


def find_renaming(file: Shapes, network: Shapes) -> Renaming | None:
    """How the file's layers have to be renamed to be the network's, or None if they need not or cannot be.

    Raises:
        WeightFileError: more than one order fits every shape, so which is meant cannot be told.
    """
    needed = [layer for layer, weights in network.items() if _is_conv(weights)]
    if not needed or 2 * sum(layer in file for layer in needed) >= len(needed):
        return None
    old = {layer: new for layer in file if (new := modern_name(layer)) in network}
    if 2 * len(set(old.values()) & set(needed)) >= len(needed):
        return Renaming(old, "The file has the layer names of older Keras versions; they were translated.")
    return _by_order(file, network)


def modern_name(layer: str) -> str:
    """The name that Keras now gives to a layer of its older ResNets; others unchanged.

    Example:
        >>> from greffon.weights.structure import modern_name
        >>> modern_name("bn4b12_branch2c")
        'conv4_block13_3_bn'
    """
    old = _OLD_BLOCK.fullmatch(layer)
    if old is None:
        return _OLD_ENDS.get(layer, layer)
    kind, stage, letter, number, branch = old.groups()
    block = int(number) + 1 if number else ord(letter) - ord("a") + 1
    return f"conv{stage}_block{block}_{_BRANCHES[branch]}_{'conv' if kind == 'res' else 'bn'}"


def _by_order(file: Shapes, network: Shapes) -> Renaming | None:
    found: list[dict[str, str]] = []
    for names in _file_orders(file):
        for key in _network_orders(network):
            renaming = _pair(names, file, network, key)
            if renaming is not None and renaming not in found:
                found.append(renaming)
    if len(found) > 1:
        raise WeightFileError(
            "the layers in the file are only numbered, and more than one order fits every shape, so which is "
            "meant cannot be told. Save the file again from a network whose layers have Keras' names"
        )
    note = "The file's layers have other names; they were matched by their order, and every shape agrees."
    return Renaming(found[0], note) if found else None


def _pair(
    names: Sequence[str], file: Shapes, network: Shapes, key: Callable[[str], tuple[int, ...]]
) -> dict[str, str] | None:
    """Convolutions with convolutions, BN with BN, in the given orders; None if a number or a shape differs."""
    renaming: dict[str, str] = {}
    for kind in (_is_conv, _is_norm, _is_dense):
        theirs = [layer for layer in names if kind(file[layer])]
        ours = sorted((layer for layer, weights in network.items() if kind(weights)), key=key)
        if kind is _is_dense and len(theirs) != len(ours):
            continue  # a head that differs is for `match` to judge
        if kind is _is_norm and not theirs:
            continue  # folded into the convolutions
        if len(theirs) != len(ours):
            return None
        for their, our in zip(theirs, ours, strict=True):
            if kind is not _is_dense and not _agree(file[their], network[our]):
                return None
            renaming[their] = our
    return renaming


def _file_orders(file: Shapes) -> Iterator[list[str]]:
    """Layers of one model inside the file, by their numbers; then all layers as the file lists them."""
    models: dict[str, list[tuple[int, str]]] = {}
    for layer in file:
        numbered = _NUMBERED.fullmatch(layer)
        if numbered:
            models.setdefault(numbered[1], []).append((int(numbered[2] or 0), layer))
    for layers in models.values():
        yield [layer for _, layer in sorted(layers)]
    # Unless the names come from the paths of Keras 3, whose order in the file is that of the alphabet.
    if not all(_NUMBERED.fullmatch(layer) for layer in file):
        yield list(file)


def _network_orders(network: Shapes) -> Iterator[Callable[[str], tuple[int, ...]]]:
    """Orders in which writers number the layers: the model's own; as created, shortcut first or last."""
    position = {layer: (number,) for number, layer in enumerate(network)}
    yield position.__getitem__
    if all(_PLACE.fullmatch(layer) or _STEM.fullmatch(layer) for layer in _without_dense(network)):
        yield _created_shortcut_first
        yield _created_shortcut_last


def _created_shortcut_first(layer: str) -> tuple[int, ...]:
    place = _PLACE.fullmatch(layer)
    return tuple(int(number) for number in place.groups()) if place else (1,)


def _created_shortcut_last(layer: str) -> tuple[int, ...]:
    stage, *rest = _created_shortcut_first(layer)
    return (stage, rest[0], rest[1] or 9) if rest else (stage,)


def _without_dense(network: Shapes) -> Iterable[str]:
    return (layer for layer, weights in network.items() if not _is_dense(weights))


def _agree(theirs: dict[str, Shape], ours: dict[str, Shape]) -> bool:
    return all(theirs[weight] == shape for weight, shape in ours.items() if weight in theirs)


def _is_conv(weights: Mapping[str, Shape]) -> bool:
    return len(weights.get("kernel", ())) == 4


def _is_norm(weights: Mapping[str, Shape]) -> bool:
    return "moving_mean" in weights


def _is_dense(weights: Mapping[str, Shape]) -> bool:
    return len(weights.get("kernel", ())) == 2
