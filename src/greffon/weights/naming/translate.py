"""A file's tensors under Keras' names and with Keras' axes; nothing is read yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.naming.dialect import TOP
from greffon.weights.read.arrays import Contents, Tensor, in_memory

if TYPE_CHECKING:
    from greffon.weights.identity import Identity

_KERNEL = (2, 3, 1, 0)
_EPSILON = 1e-5  # of BatchNorm in v1.5


def to_keras(contents: Contents, identity: Identity) -> Contents:
    """Give every tensor of a ResNet the name and the axes that it has in Keras; set the rest aside, with a note.

    Contents that have Keras' names already are given back as they are. Where `identity.variant` is "v1" and the
    file's convolutions have no biases, they get biases of zero; where it is "v1.5" and BatchNorm is folded into
    the convolutions, it becomes a BatchNorm that adds the biases.

    Args:
        contents: an open file.
        identity: what `identify` made of it.

    Returns:
        Contents called `conv1_conv/kernel`, `conv2_block1_0_bn/gamma`, ..., `predictions/kernel`; kernels are
        (height, width, in, out), dense ones (in, out).

    Raises:
        WeightFileError: the file is no network that Greffon builds.

    Example:
        >>> import numpy as np
        >>> from greffon.weights.identify import identify
        >>> from greffon.weights.naming.translate import to_keras
        >>> from greffon.weights.read.arrays import Contents, in_memory
        >>> kernel = in_memory(np.zeros((64, 256, 1, 1), np.float32))
        >>> contents = Contents({"module.layer1.1.conv1.weight": kernel}, "a state dict")
        >>> {name: tensor.shape for name, tensor in to_keras(contents, identify(contents)).tensors.items()}
        {'conv2_block2_1_conv/kernel': (1, 1, 256, 64)}
    """
    if identity.refusal:
        raise WeightFileError(identity.refusal)
    naming = identity.naming
    if not naming.places:
        return contents
    translated = replace(
        contents,
        tensors={},
        notes=[*contents.notes, *naming.notes],
        layer_names=tuple(dict.fromkeys(place.rpartition("/")[0] for place in naming.places.values())),
    )
    for name, place in naming.places.items():
        tensor = contents.tensors[name]
        if place == f"{TOP}/kernel" and tensor.shape[2:] == (1, 1):
            tensor = _as_dense(tensor)
        translated.add(place, _turned(tensor, torch_axes=naming.torch_axes and name not in naming.as_is))
    if identity.variant == "v1.5":
        _unfold_norms(translated)
    elif identity.variant == "v1":
        _add_biases(translated)
    return translated


def _turned(tensor: Tensor, *, torch_axes: bool) -> Tensor:
    if not torch_axes:
        return tensor
    if len(tensor.shape) == 4:
        return tensor.transposed(_KERNEL)
    return tensor.transposed((1, 0)) if len(tensor.shape) == 2 else tensor


def _as_dense(tensor: Tensor) -> Tensor:
    """A 1x1 convolution's kernel (out, in, 1, 1) as a dense one (out, in): behind the pooling they are the same."""
    shape = tensor.shape[:2]
    return replace(tensor, shape=shape, read=lambda: np.reshape(tensor.read(), shape))


def _convs(contents: Contents) -> list[str]:
    return [name.removesuffix("/kernel") for name in contents.tensors if name.endswith("_conv/kernel")]


def _add_biases(contents: Contents) -> None:
    """Zeros where a convolution has no bias: the network is the same."""
    lacking = [layer for layer in _convs(contents) if f"{layer}/bias" not in contents.tensors]
    for layer in lacking:
        out = contents.tensors[f"{layer}/kernel"].shape[-1]
        contents.add(f"{layer}/bias", in_memory(np.zeros(out, np.float32)))
    if lacking:
        contents.notes.append(
            f"{len(lacking)} convolutions of the file have no bias; v1's have, and it is zero. Files of this kind "
            "were made with a BatchNorm epsilon of 1e-5, v1 has 1.001e-5: that changes nothing that can be seen."
        )


def _unfold_norms(contents: Contents) -> None:
    """Biases that hold a folded BatchNorm become a BatchNorm again, which only adds them."""
    convs = _convs(contents)
    norms = any("_bn/" in name for name in contents.tensors)
    if norms or not convs or any(f"{layer}/bias" not in contents.tensors for layer in convs):
        return
    for layer in convs:
        bias = contents.tensors.pop(f"{layer}/bias")
        one, zero = np.ones(bias.shape, np.float32), np.zeros(bias.shape, np.float32)
        variance = np.full(bias.shape, 1.0 - _EPSILON, np.float32)
        norm = layer.removesuffix("conv") + "bn"
        for weight, value in (("gamma", one), ("moving_mean", zero), ("moving_variance", variance)):
            contents.add(f"{norm}/{weight}", in_memory(value))
        contents.add(f"{norm}/beta", bias)
    contents.notes.append(
        "BatchNorm is folded into the convolutions of the file; the network's BatchNorm layers add its biases."
    )
