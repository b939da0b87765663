"""The formats that weights are written in: what their files are called, which networks they know, and the writers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from greffon.errors import InputError
from greffon.recipe import nearest
from greffon.weights.match import variables_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import keras

    from greffon.weights.read.arrays import Array

Format = Literal["safetensors", "torch", "weights-h5", "keras-h5"]
FORMATS: tuple[Format, ...] = get_args(Format)

# What the name of a file must end with: Keras picks its reader by that.
_ENDINGS: dict[Format, tuple[str, ...]] = {
    "safetensors": (".safetensors",),
    "torch": (".safetensors",),
    "weights-h5": (".weights.h5",),
    "keras-h5": (".h5", ".hdf5"),
}
REFUSED = {
    (
        "torch",
        "v1",
    ): "PyTorch's ResNets are v1.5: they halve the picture in the 3x3 convolution, v1 in the 1x1 in front of it, and "
    "their convolutions have no bias. Every kernel would fit, and every feature would be wrong",
    ("torch", "thin"): "PyTorch has no ResNet of half width with v1's strides and biases",
    (
        "keras-h5",
        "v1.5",
    ): "plain Keras' ResNet50 is v1, with biases and the stride in the 1x1 convolution: it cannot load v1.5",
    ("keras-h5", "thin"): "plain Keras has no ResNet of half width",
}


def format_of(out: Path, to: str | None) -> Format:
    """The format to write: as asked for, else as the file's name ends.

    Raises:
        InputError: there is no such format, or the name does not fit it.
    """
    name = out.name.lower()
    if to is None:
        for kind, endings in _ENDINGS.items():
            if name.endswith(endings) and not (kind == "keras-h5" and name.endswith(".weights.h5")):
                return kind
        hint = " Greffon writes no pickles: what PyTorch reads is .safetensors with --to torch." * name.endswith(
            (".pth", ".pt", ".bin")
        )
        raise InputError(
            f"the name of {out} must end with .safetensors, .weights.h5 or .h5, or the format be given with --to "
            f"{'|'.join(FORMATS)}.{hint}"
        )
    for kind in FORMATS:
        if kind != to:
            continue
        if not name.endswith(_ENDINGS[kind]) or (kind == "keras-h5" and name.endswith(".weights.h5")):
            raise InputError(
                f"a file of the format {kind} must be called *{_ENDINGS[kind][0]}"
                f"{' and not *.weights.h5' if kind == 'keras-h5' else ''}, since that is how it is told what it is: "
                f"got {out.name!r}"
            )
        return kind
    raise InputError(f"the format must be one of {', '.join(FORMATS)}, got {to!r}{nearest(to, FORMATS)}")


def torch_name(name: str) -> str:
    """What torchvision and timm call a tensor that Keras calls `layer/weight`.

    Raises:
        InputError: it is no tensor of a ResNet.

    Example:
        >>> from greffon.backbone.formats import torch_name
        >>> torch_name("conv4_block1_0_bn/moving_variance"), torch_name("conv2_block3_2_conv/kernel")
        ('layer3.0.downsample.1.running_var', 'layer1.2.conv2.weight')
    """
    layer, _, weight = name.rpartition("/")
    words = _TORCH_WEIGHTS.get(weight)
    place = _IN_BLOCK.fullmatch(layer)
    if place and words:
        stage, block, number, kind = place.groups()
        inner = f"{kind}{number}" if number != "0" else f"downsample.{int(kind == 'bn')}"
        return f"layer{int(stage) - 1}.{int(block) - 1}.{inner}.{words}"
    outside = {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "fc"}.get(layer)
    if outside is None or words is None:
        raise InputError(f"expected a tensor of a ResNet by Keras' name, such as conv1_conv/kernel, got {name!r}")
    return f"{outside}.{words}"


_IN_BLOCK = re.compile(r"conv([2-9])_block(\d+)_([0-3])_(conv|bn)")
_TORCH_WEIGHTS = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def arrays_of(model: keras.Model) -> dict[str, Array]:
    """`layer/weight` -> float32 array of every weight of a network."""
    from keras import ops

    return {
        name: np.asarray(ops.convert_to_numpy(variable), np.float32) for name, variable in variables_of(model).items()
    }


def _write_safetensors(model: keras.Model, path: Path, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    about = {name: value for name, value in metadata.items() if name != "format"}
    # `save_file` would make a file that only its owner may read.
    path.write_bytes(save(arrays_of(model), metadata=about | {"layout": "Keras: kernel (h, w, in, out)"}))


def _write_torch(model: keras.Model, path: Path, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    tensors: dict[str, Any] = {}
    for name, array in arrays_of(model).items():
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
        called = torch_name(name)
        tensors[called] = np.ascontiguousarray(array.transpose(axes))
        if called.endswith("running_var"):  # a strict load_state_dict asks for the counter of training steps
            tensors[called.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    path.write_bytes(save(tensors, metadata=metadata | {"layout": "torchvision: kernel (out, in, h, w)"}))


def _write_weights_h5(model: keras.Model, path: Path, metadata: dict[str, str]) -> None:
    model.save_weights(path)


def _write_keras_h5(model: keras.Model, path: Path, metadata: dict[str, str]) -> None:
    """The format of Keras 1 and 2, which Keras 3 reads by the order of the layers: theirs are in Keras' own."""
    import h5py
    import keras

    arrays = arrays_of(model)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.name.encode() for layer in model.layers])
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = keras.__version__.encode()
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}" for variable in layer.weights]
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names], dtype="S")
            for name in names:
                group.create_dataset(f"{name}:0", data=arrays[name])


WRITERS: dict[Format, Callable[[Any, Path, dict[str, str]], None]] = {
    "safetensors": _write_safetensors,
    "torch": _write_torch,
    "weights-h5": _write_weights_h5,
    "keras-h5": _write_keras_h5,
}
