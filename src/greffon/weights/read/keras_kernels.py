"""Kernels of old Keras in today's order: (height, width, in, out), turned as TensorFlow reads them.

Keras 1 with `dim_ordering="th"` stores a convolution's kernel as (out, in, height, width). And Theano convolves where
TensorFlow correlates: whatever was trained on Theano, under Keras 1 or 2 and in either order of axes, has its kernels
turned by 180 degrees. Keras calls the conversion `convert_all_kernels_in_model`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from greffon.weights.read.arrays import Array, Contents, Shape, Tensor

_LARGEST = 15  # pixels; no ResNet has a larger kernel
_DEFAULT = "theano"  # Keras 1 ran on it unless told otherwise, and "th" is its order


def in_order(contents: Contents) -> Contents:
    """The same contents with every kernel of a 2D convolution in today's order; nothing is read yet.

    What was done, and what the file leaves open, goes to its notes.
    """
    kernels = {name: it for name, it in contents.tensors.items() if name.endswith("/kernel") and len(it.shape) == 4}
    old = contents.metadata.get("keras_version", "1").startswith("1")
    theano_order = old and bool(kernels) and _is_theano_order(contents, kernels)
    backend = contents.metadata.get("backend") or (_DEFAULT if theano_order else "")
    turned = backend == "theano" and any(_spatial(it.shape, theano_order) != (1, 1) for it in kernels.values())
    for name, tensor in kernels.items():
        changed = tensor.transposed((2, 3, 1, 0)) if theano_order else tensor
        contents.tensors[name] = _turned(changed) if turned else changed
    if theano_order:
        contents.notes.append(
            "The kernels are stored as (out, in, height, width), Keras' order for Theano; they were transposed."
        )
    if turned:
        contents.notes.append(_why_turned(contents, said="backend" in contents.metadata))
    return contents


def _why_turned(contents: Contents, *, said: bool) -> str:
    done = "the kernels were turned by 180 degrees, because Theano convolves where TensorFlow correlates"
    if said:
        return f"The file was written on Theano: {done}."
    return (
        f"The file does not say which backend wrote it; its order of axes is Theano's, so {done}. If its predictions "
        "are wrong, it was written on TensorFlow."
    )


def _is_theano_order(contents: Contents, kernels: dict[str, Tensor]) -> bool:
    """What the model's configuration says; else what the shapes of most kernels say."""
    said = {contents.configs.get(name.rpartition("/")[0], {}).get("dim_ordering") for name in kernels} & {"th", "tf"}
    if len(said) == 1:
        return said == {"th"}
    votes = sum(_vote(tensor.shape) for tensor in kernels.values())
    if votes == 0:
        contents.notes.append(
            "Whether the kernels are stored as (height, width, in, out) or as (out, in, height, width) cannot be told "
            "from their shapes; they were taken as the former."
        )
    return votes > 0


def _vote(shape: Shape) -> int:
    """1 if the last two axes must be height and width, -1 if it must be the first two, 0 if it may be both."""
    first, last = shape[:2], shape[2:]
    first_square, last_square = first[0] == first[1] <= _LARGEST, last[0] == last[1] <= _LARGEST
    if first_square != last_square:
        return 1 if last_square else -1
    # Both may be: channels are more than pixels.
    return int(np.sign(first[0] * first[1] - last[0] * last[1]))


def _spatial(shape: Shape, theano_order: bool) -> Shape:
    return shape[2:] if theano_order else shape[:2]


def _turned(tensor: Tensor) -> Tensor:
    def read() -> Array:
        return tensor.read()[::-1, ::-1]

    return replace(tensor, read=read)
