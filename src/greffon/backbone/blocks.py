"""Features of all blocks of a backbone, and those of them that are kept.

The last block of a network says what its own task needed; for another task what earlier blocks saw may say more (Evci
et al. 2022, "Head2Toe: Utilizing Intermediate Representations for Better Transfer Learning"). Which channels are kept
is part of the graph, as a plain operation of Keras: the model opens without Greffon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from greffon.backbone.parts import BLOCK_POOL, HEAD_STARTS, block_of, output_shape, split_parts
from greffon.backbone.pool import pool_layers
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import keras

_T = TypeVar("_T")

EACH_BLOCK = {"blocks": "avg", "blocks2": "grid2"}
"""How each block's feature map is pooled, by what `Head.pool` calls it for all of them."""

KEPT_NAME = "head_keep_"
"""A name that begins so, and ends with the block's, is of what takes its kept channels."""
JOINED = "head_blocks"
"""Name of the layer that joins what the blocks give."""


def pool_blocks(features: Any, channels: Sequence[int] | None = None, *, pool: str = "avg") -> Any:
    """Every block's output pooled, one after the other, from the first block on.

    Args:
        features: a feature map, the output of a graph whose layers are named by block.
        channels: numbers of those that are kept, through all blocks, ascending; None: all. Of a grid every cell has
            its own.
        pool: how one feature map is pooled, as `pool_layers` takes it.

    Returns:
        A tensor (n, channels). Of blocks of which nothing is kept nothing is computed.

    Raises:
        InputError: no layer is named by a block, a map is too small, or the channels are none of theirs.

    Example:
        >>> import keras
        >>> from greffon.backbone.blocks import pool_blocks
        >>> from greffon.backbone.resnet import resnet
        >>> backbone = resnet((1, 1, 1, 1), input_shape=(32, 32, 3))
        >>> tuple(pool_blocks(backbone.output).shape), tuple(pool_blocks(backbone.output, [0, 3, 256]).shape)
        ((None, 3840), (None, 3))
    """
    from keras import layers

    maps = block_maps(features)
    cells = int(pool[-1]) ** 2 if pool.startswith("grid") else 1
    kept = _by_block(channels, [cells * int(tensor.shape[-1]) for tensor in maps.values()])
    parts = []
    for (block, tensor), numbers in zip(maps.items(), kept, strict=True):
        if len(numbers):
            x = tensor
            for layer in pool_layers(pool, tensor.shape[1:3], of=block):
                x = layer(x)
            parts.append(_take(x, numbers, f"{KEPT_NAME}{block}"))
    return layers.Concatenate(name=JOINED)(parts) if len(parts) > 1 else parts[0]


def kept_channels(model: keras.Model) -> dict[str, list[int] | None]:
    """Which channels of each block a model's head reads: None for all of them; nothing where it pools otherwise.

    Args:
        model: flat, as `graft` gives it or as it was loaded.
    """
    found: dict[str, list[int] | None] = {}
    for operation in getattr(model, "operations", model.layers):
        if operation.name.startswith(BLOCK_POOL):
            found.setdefault(operation.name.removeprefix(BLOCK_POOL), None)
        elif operation.name.startswith(KEPT_NAME):
            [node] = operation._inbound_nodes
            numbers = [*node.arguments.args, *node.arguments.kwargs.values()][1]
            found[operation.name.removeprefix(KEPT_NAME)] = [int(number) for number in numbers]
    return found


def channels_of(model: keras.Model) -> tuple[int, ...] | None:
    """The channels that a model's head keeps of all blocks, as `Head.channels` names them; None where it keeps all.

    Args:
        model: flat, as `graft` gives it or as it was loaded.
    """
    kept = kept_channels(model)
    if not kept:
        return None
    maps = block_maps(split_parts(model).backbone[-1].output)
    pooled = next(iter(kept))
    names = [f"{start}_{pooled}" for start in reversed(HEAD_STARTS)]
    [width, *_] = [int(layer.output.shape[-1]) for name in names for layer in model.layers if layer.name == name]
    cells = width // int(maps[pooled].shape[-1])
    channels: list[int] = []
    first = 0
    for block, tensor in maps.items():
        width = cells * int(tensor.shape[-1])
        numbers = kept.get(block, [])
        channels += [first + number for number in (range(width) if numbers is None else numbers)]
        first += width
    return None if len(channels) == first else tuple(channels)


def block_maps(features: Any) -> dict[str, Any]:
    """The output of each block, in the order of the graph."""
    import keras

    # The layers between the pictures and the map; calls of nothing else that they may be part of.
    graph = keras.Model(_inputs_behind(features), features)
    maps = last_of_blocks((layer.name, output_shape(layer), layer) for layer in graph.layers)
    maps = {block: layer.output for block, layer in maps.items()}
    if not maps:
        raise InputError(
            "pool 'blocks' needs a backbone whose layers are named by block (such as conv5_block3_out), and there is "
            "none here: pool by avg"
        )
    return maps


def _inputs_behind(tensor: Any) -> list[Any]:
    """What a tensor is computed from; `get_source_inputs` walks every path, a million behind sixteen sums."""
    seen, waiting, inputs = set[int](), [tensor], list[Any]()
    while waiting:
        operation, index, _ = waiting.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) not in seen:
            seen.add(id(node))
            inputs += node.output_tensors if node.is_input else []
            waiting += node.input_tensors
    return inputs


def last_of_blocks(named: Iterable[tuple[str, Sequence[int | None] | None, _T]]) -> dict[str, _T]:
    """What gives the feature map of each block, of things in the order of the graph.

    Args:
        named: name, shape of what it gives, and the thing itself: a layer or a tensor's number.
    """
    # A later one of the same block takes the place of an earlier one.
    return {
        block_of(name): thing
        for name, shape, thing in named
        if block_of(name) not in {"", "conv1"} and len(shape or ()) == 4
    }


def _by_block(channels: Sequence[int] | None, widths: Sequence[int]) -> list[list[int]]:
    """The kept channels of each block, numbered from its first."""
    total = sum(widths)
    chosen = list(range(total)) if channels is None else [int(number) for number in channels]
    if not chosen or sorted(set(chosen)) != chosen or not 0 <= chosen[0] <= chosen[-1] < total:
        raise InputError(
            f"channels must be ascending numbers below {total}, at least one, got {len(chosen)}"
            + (f" from {chosen[0]} to {chosen[-1]}" if chosen else "")
        )
    parts, first = [], 0
    for width in widths:
        parts.append([number - first for number in chosen if first <= number < first + width])
        first += width
    return parts


def _take(pooled: Any, numbers: Sequence[int], name: str) -> Any:
    import keras

    if len(numbers) == int(pooled.shape[-1]):
        return pooled
    taken = keras.ops.take(pooled, list(numbers), axis=1)
    # Of itself it would be called take_7, by how many there were before in this process.
    taken._keras_history.operation.name = name
    return taken
