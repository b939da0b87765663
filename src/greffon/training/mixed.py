"""Mixed precision while a stage trains: products in bfloat16 on a GPU, weights and the saved model in float32.

bfloat16 has float32's range, so that the loss needs no scaling. The GPU path is written and untested; what it changes
and puts back is tested on the processor, where it is never taken unless asked for.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import keras

from greffon.frozen.hardware import has_accelerator
from greffon.weights.sets import PREPROCESSING_LAYER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greffon.frozen.graph import FlatGraph

_MIXED = "mixed_bfloat16"


def is_wanted(option: str) -> bool:
    """Whether to train in mixed precision.

    Args:
        option: `auto` (where Keras' backend has an accelerator), `on` or `off`.
    """
    return option == "on" or (option == "auto" and has_accelerator())


@contextlib.contextmanager
def mixed_precision(graph: FlatGraph, *, wanted: bool) -> Iterator[None]:
    """While it lasts, the layers of a tail multiply in bfloat16; preprocessing and classifier stay in float32.

    Args:
        graph: of the tail. Build what trains it inside.
        wanted: False changes nothing.
    """
    changed = [layer for layer in graph.layers if wanted and _can(layer)]
    before = [layer.dtype_policy for layer in changed]
    try:
        for layer in changed:
            layer.dtype_policy = _MIXED
        yield
    finally:
        for layer, policy in zip(changed, before, strict=True):
            layer.dtype_policy = policy


def _can(layer: keras.layers.Layer) -> bool:
    if layer.dtype_policy.name != "float32" or type(layer) is not getattr(keras.layers, type(layer).__name__, None):
        return False
    return not layer.name.startswith((PREPROCESSING_LAYER, "head_output"))
