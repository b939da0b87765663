"""The parts of a model: what prepares the pictures, the backbone, the head; nested models unfolded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import keras

PICTURES = "pictures"
"""Name of a grafted model's Input."""
HEAD_STARTS = ("head_pool", "head_flatten")
"""The first layer of a grafted head has one of these names; everything from it on is head, whatever its name."""
BLOCK_POOL = "head_pool_"
"""Or, where all blocks are pooled, a name that begins so and ends with the block's."""

_BLOCK = re.compile(r"(.*?block_?\d+[a-z]?)(?=_|$)")
_GROUP = re.compile(r"(.+?)_block_?\d")
_STEM = re.compile(r"(conv1|pool1)(_|$)")


class Leaf(NamedTuple):
    """A layer that is not itself a model.

    Attributes:
        path: names from the outermost model inwards, such as `resnet50/conv1_conv`; the bare name in a flat model.
        layer: the layer.
    """

    path: str
    layer: Any


@dataclass(frozen=True)
class Parts:
    """The layers of a model, each in one of three lists, in the order of the graph.

    Attributes:
        preprocessing: what stands in front of the backbone: Input, preprocessing, augmentation.
        backbone: the convolutional network, without pooling and classifier.
        head: everything behind it.
        first_index: number of the first backbone layer. In a grafted model it is 1, as in the bare backbone, whose
            layer 0 is its Input: so a number names the same layer before and after grafting.
    """

    preprocessing: list[Any]
    backbone: list[Any]
    head: list[Any]
    first_index: int = 0
    paths: Mapping[int, str] = field(default_factory=dict, repr=False)

    def path(self, layer: Any) -> str:
        """Names from the outermost model inwards, joined by `/`."""
        return self.paths.get(id(layer), str(layer.name))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Every layer with the name of its part, in order."""
        for part, layers in (("preprocessing", self.preprocessing), ("backbone", self.backbone), ("head", self.head)):
            for layer in layers:
                yield part, layer


def split_parts(model: keras.Model) -> Parts:
    """Which layers of a model are preprocessing, backbone and head.

    A grafted model says so by its layers' names. In a model with exactly one nested model that has weights, that
    one is the backbone, up to its last feature map, and what follows is the head. In any other model everything
    up to the last layer whose output is a feature map (batch, height, width, channels) is the backbone.

    Args:
        model: any Keras model; nested models are unfolded.

    Returns:
        The three lists; together they hold every layer once.

    Example:
        >>> import greffon
        >>> from greffon.backbone.parts import split_parts
        >>> from greffon.backbone.resnet import resnet
        >>> model = greffon.graft(resnet((1, 1, 1, 1), input_shape=(32, 32, 3)), 4, preprocessing="caffe")
        >>> [layer.name for layer in split_parts(model).head]
        ['head_pool', 'head_output']
    """
    found = leaves(model)
    paths = {id(leaf.layer): leaf.path for leaf in found}
    layers = [leaf.layer for leaf in found]
    start = _grafted_head(layers)
    if start is not None:
        front = 1 + max(n for n, layer in enumerate(layers[:start]) if _is_front(layer))
        return Parts(layers[:front], layers[front:start], layers[start:], first_index=1, paths=paths)
    before, middle, after = _around_nested(model)
    end = _end_of_features(middle, whole=bool(before or after))
    return Parts(before, middle[:end], middle[end:] + after, paths=paths)


def leaves(model: keras.Model, prefix: str = "") -> list[Leaf]:
    """Every layer that is not itself a model, once, with its path; nested models are unfolded in place."""
    found: dict[int, Leaf] = {}
    for layer in model.layers:
        inner = leaves(layer, f"{prefix}{layer.name}/") if is_container(layer) else [Leaf(prefix + layer.name, layer)]
        for leaf in inner:
            found.setdefault(id(leaf.layer), leaf)
    return list(found.values())


def containers(model: keras.Model, prefix: str = "") -> list[Leaf]:
    """Every nested model, outer ones first, with its path."""
    found: dict[int, Leaf] = {}
    for layer in model.layers:
        if is_container(layer):
            path = prefix + layer.name
            for leaf in [Leaf(path, layer), *containers(layer, f"{path}/")]:
                found.setdefault(id(leaf.layer), leaf)
    return list(found.values())


def is_container(layer: Any) -> bool:
    """Whether a layer is a model whose layers are looked at one by one."""
    import keras

    return isinstance(layer, keras.Model) and bool(layer.layers)


def sublayers(layer: Any) -> list[Any]:
    """A layer and those inside it, such as the BatchNormalization in a layer of the user's own."""
    return list(layer._flatten_layers())


def learnable(layer: Any) -> list[Any]:
    """The variables of a layer that can train, whether or not they do now: not the statistics of BatchNormalization.

    These are the ones that Keras' own setter of `trainable` acts on; no public attribute tells them from the
    statistics while the layer is frozen.
    """
    unique = {id(variable): variable for part in sublayers(layer) for variable in part._trainable_variables}
    return list(unique.values())


def name_in(layer: Any, variable: Any) -> str:
    """A weight's name inside its layer: `kernel`, or `query/kernel` where the layer is made of others."""
    for part in reversed(sublayers(layer)[1:]):
        if any(own is variable for own in part.weights):
            return f"{part.name}/{variable.name}"
    return str(variable.name)


def variable_names(model: keras.Model) -> list[tuple[str, Any]]:
    """Every weight of a model under a name of its own: the path of its layer, then its name there.

    Keras' own `variable.path` is not unique where two nested models have layers of the same names.
    """
    named: dict[str, Any] = {}
    seen: set[int] = set()
    pairs = [(f"{leaf.path}/{name_in(leaf.layer, v)}", v) for leaf in leaves(model) for v in leaf.layer.weights]
    pairs += [(variable.path, variable) for variable in model.weights]  # what a subclassed model holds itself
    for name, variable in pairs:
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        free, number = name, 2
        while free in named:
            free, number = f"{name}#{number}", number + 1
        named[free] = variable
    return list(named.items())


def batch_norms(layer: Any) -> list[Any]:
    """The BatchNormalization layers in a layer, itself included."""
    import keras

    return [part for part in sublayers(layer) if isinstance(part, keras.layers.BatchNormalization)]


def block_of(name: str) -> str:
    """`conv5_block3` for `conv5_block3_1_conv`, `conv1` for the stem, nothing where the name names no block.

    Example:
        >>> [block_of(name) for name in ("conv5_block3_1_conv", "pool1_pad", "block6a_expand_conv", "dense")]
        ['conv5_block3', 'conv1', 'block6a', '']
    """
    if _STEM.match(name):
        return "conv1"
    block = _BLOCK.match(name)
    return block[1] if block else ""


def group_of(name: str) -> str:
    """`conv5` for `conv5_block3_1_conv`; the block where there are no groups."""
    group = _GROUP.match(name)
    return group[1] if group else block_of(name)


def output_shape(layer: Any) -> tuple[int | None, ...] | None:
    """Shape of a layer's (first) output, batch dimension first; None where the layer was never called."""
    import keras

    try:
        tensors = keras.tree.flatten(layer.output)
    except (AttributeError, ValueError):  # not built, or a subclassed model's layer, which records no calls
        return None
    return tuple(tensors[0].shape) if tensors else None


def _grafted_head(layers: Sequence[Any]) -> int | None:
    names = [layer.name for layer in layers]
    starts = [n for n, name in enumerate(names) if name in HEAD_STARTS or name.startswith(BLOCK_POOL)]
    return starts[0] if starts and names[0] == PICTURES else None


def _is_front(layer: Any) -> bool:
    from greffon.weights.sets import PREPROCESSING_LAYER

    return bool(layer.name == PICTURES or layer.name.startswith(PREPROCESSING_LAYER))


def _around_nested(model: keras.Model) -> tuple[list[Any], list[Any], list[Any]]:
    """The layers before, in and after the one nested backbone; all in the middle if there is none."""
    nested = [layer for layer in model.layers if is_container(layer) and layer.weights]
    outer = [leaf.layer for leaf in leaves(model)]
    if len(nested) != 1:
        return [], outer, []
    inner = {id(leaf.layer) for leaf in leaves(nested[0])}
    first = min(n for n, layer in enumerate(outer) if id(layer) in inner)
    if not _has_features(nested[0]) and any(learnable(layer) for layer in outer[:first]):
        return [], outer, []  # the nested model is a head on a backbone that is not nested
    before, middle, after = _around_nested(nested[0])
    outside = [(n, layer) for n, layer in enumerate(outer) if id(layer) not in inner]
    return (
        [layer for n, layer in outside if n < first] + before,
        middle,
        after + [layer for n, layer in outside if n > first],
    )


def _has_features(model: keras.Model) -> bool:
    """Whether a layer with weights gives a feature map."""
    return any(learnable(leaf.layer) and len(output_shape(leaf.layer) or ()) >= 4 for leaf in leaves(model))


def _end_of_features(layers: Sequence[Any], *, whole: bool) -> int:
    """How many of the layers are backbone.

    Args:
        layers: in the order of the graph.
        whole: they all are, where none gives a feature map (a nested backbone that gives vectors).
    """
    ranks = [len(output_shape(layer) or ()) for layer in layers]
    maps = [n for n, rank in enumerate(ranks) if rank >= 4]
    if maps:
        return maps[-1] + 1
    if whole:
        return len(layers)
    weighted = [n for n, layer in enumerate(layers) if learnable(layer)]
    return weighted[-1] if weighted else max(len(layers) - 1, 0)
