"""What a way of naming the tensors of a ResNet is; and Keras' own names, into which all others are translated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from greffon.weights.structure import modern_name

if TYPE_CHECKING:
    from collections.abc import Callable

NO_PART = ""
"""What `place` gives for a tensor that is known and not needed, such as a counter of training steps."""
BACKBONE = re.compile(r"conv1_(?:conv|bn)|conv[2-9]_block\d{1,4}_[0-3]_(?:conv|bn)")
"""A layer of the backbone, as Keras calls it."""
TOP = "predictions"


@dataclass(frozen=True)
class Dialect:
    """One way of naming the tensors of a ResNet.

    Attributes:
        name: what the dialect is called here.
        anchor: fits a whole name of a tensor in a residual block; its group `prefix` is what stands before the
            names of the network.
        place: a name without that prefix -> Keras' name (`conv1_conv/kernel`), `NO_PART`, or None if it is
            neither.
        inside: fits the start of a name, without prefix, that belongs to the backbone whatever `place` says.
        torch_axes: kernels are (out, in, height, width) and dense kernels (out, in).
    """

    name: str
    anchor: re.Pattern[str]
    place: Callable[[str], str | None]
    inside: re.Pattern[str]
    torch_axes: bool = True


def _keras_place(name: str) -> str | None:
    layer, _, weight = name.rpartition("/")
    modern = modern_name(layer)
    return f"{modern}/{weight}" if modern == TOP or BACKBONE.fullmatch(modern) else None


KERAS = Dialect(
    "Keras",
    re.compile(
        r"(?P<prefix>(?:.*/)?)(?:conv[2-9]_block\d{1,4}_[0-3]_(?:conv|bn)|(?:res|bn)[2-9][a-z]\d{0,4}_branch(?:1|2[abc]))/\w+"
    ),
    _keras_place,
    re.compile(r"conv\d+_block|post_bn|conv1[/_]|res\d[a-z]"),
    torch_axes=False,
)
