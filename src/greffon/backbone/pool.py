"""From a feature map to a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.backbone.parts import HEAD_STARTS
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def pool_layers(pool: str, sides: Sequence[int | None], *, of: str = "") -> list[Any]:
    """The layers that make a vector of a feature map.

    Args:
        pool: of `Head`.
        sides: height and width of the map.
        of: the block whose map it is, where there are several: part of the layers' names.

    Raises:
        InputError: the map has no known size, or one that is too small.
    """
    from keras import layers

    pooled, flattened = (f"{name}_{of}" if of else name for name in HEAD_STARTS)
    if pool == "avg":
        return [layers.GlobalAveragePooling2D(data_format="channels_last", name=pooled)]
    if pool == "max":
        return [layers.GlobalMaxPooling2D(data_format="channels_last", name=pooled)]
    flat = layers.Flatten(data_format="channels_last", name=flattened)
    if pool == "auto":
        raise InputError("pool='auto' is for greffon.train, which compares them on your pictures: choose one here")
    height, width = sides
    if height is None or width is None:
        raise InputError(
            f"pool {pool!r} needs a backbone whose feature map has a known height and width, got {tuple(sides)}: "
            "build it with an input_shape such as (224, 224, 3), or pool by avg or max"
        )
    if pool == "flatten":
        return [flat]
    if not pool.startswith("grid"):
        raise InputError(f"pool {pool!r} takes more than one feature map: see pool_blocks")
    cells = int(pool.removeprefix("grid"))
    if min(height, width) < cells:
        raise InputError(
            f"pool {pool!r} needs a feature map of at least {cells} x {cells}, got {height} x {width}: "
            "use larger pictures (--image-size), or pool by avg or max (--pool, or Head(pool=...))"
        )
    # As many windows as cells, evenly spaced, overlapping where the side is no multiple: on 7 x 7 exactly what is
    # known as adaptive pooling.
    strides = (height // cells, width // cells)
    size = (height - (cells - 1) * strides[0], width - (cells - 1) * strides[1])
    return [layers.AveragePooling2D(size, strides, data_format="channels_last", name=pooled), flat]
