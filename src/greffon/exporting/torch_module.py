"""A folder for PyTorch: `model.py`, which is plain PyTorch, `model.safetensors` and `config.json`. Nothing is pickled.

For Greffon's own networks and heads: the module is written to be read and trained on, with layers that are called as
in torchvision, not translated operator by operator. fp16: weights of convolutions and Dense layers are held in half
precision and made float32 when they are loaded, unless half precision is asked for there.
"""

from __future__ import annotations

import re
import types
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.manifest import write_json
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from greffon.exporting.formats import Answer, Calibration, Precision
    from greffon.exporting.shipped import Shipped

    Array = np.ndarray[Any, Any]
    Weights = dict[str, Array]

_CONV = re.compile(r"conv(\d)_block(\d+)_([0123])_(conv|bn)")
_BLOCK_END = re.compile(r"conv\d_block\d+_out")
_WITHOUT_WEIGHTS = re.compile(r"conv1_(pad|relu)|pool1_(pad|pool)|conv\d_block\d+_([12]_relu|2_pad|add|out)")
_ACTIVATIONS = (
    "linear", "relu", "gelu", "elu", "selu", "silu", "tanh", "softplus", "leaky_relu", "sigmoid", "softmax",
)  # fmt: skip
_HALVED = (2, 4)  # axes of the weights of Dense layers and convolutions


def write(shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    """Write the three files.

    Raises:
        InputError: the network is not one of Greffon's, or its head has a layer that the module does not know.
    """
    from safetensors.numpy import save

    network, weights = described(shipped.model)
    if precision == "fp16":
        weights = {
            name: value.astype(np.float16) if _is_halved(name, value) else value for name, value in weights.items()
        }
    # Not by safetensors' own writer, whose files nobody else may read.
    (place / "model.safetensors").write_bytes(save(dict(sorted(weights.items())), metadata={"format": "pt"}))
    write_json(place / "config.json", {**shipped.terms, "network": network})
    text = files("greffon.exporting").joinpath("torch_net.txt").read_text(encoding="utf-8")
    (place / "model.py").write_text(text, encoding="utf-8", newline="\n")


def opened(place: Path) -> Answer:
    """Through the module that was written, in PyTorch."""
    import torch

    file = place / "model.py"
    module = types.ModuleType("greffon_exported_model")
    module.__file__ = str(file)
    # Not through importlib, which would leave its compiled form in the folder.
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), vars(module))
    net = module.load(place)

    def answer(pictures: Any) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(pictures)).numpy()

    return answer


def described(model: Any) -> tuple[dict[str, Any], Weights]:
    """What the module has to know of a model, and its weights under the module's names.

    Raises:
        InputError: the network is not one of Greffon's, or its head has a layer that the module does not know.
    """
    layers = [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]
    ends = [place for place, layer in enumerate(layers) if _BLOCK_END.fullmatch(layer.name)]
    if not ends:
        raise InputError("torch is for Greffon's own networks, and this one has no residual blocks: export it as onnx")
    backbone, behind = layers[: ends[-1] + 1], layers[ends[-1] + 1 :]
    weights: Weights = {}
    for layer in backbone:
        _take(layer, weights)
    network = {**_traits({layer.name: layer for layer in backbone}), "head": _head(behind, weights)}
    return network, weights


def _take(layer: Any, weights: Weights) -> None:
    """Put a backbone layer's weights under the names of the module."""
    kind, name = type(layer).__name__, layer.name
    block = _CONV.fullmatch(name)
    if kind == "Conv2D" and (block or name == "conv1_conv"):
        kernel, *bias = (np.asarray(weight, np.float32) for weight in layer.get_weights())
        at = _block_name(block) if block else "conv1"
        weights[f"{at}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        weights |= {f"{at}.bias": one for one in bias}
    elif kind == "BatchNormalization" and (block or name == "conv1_bn"):
        at = _block_name(block) if block else "bn1"
        names = ("weight", "bias", "running_mean", "running_var")
        values = (np.asarray(weight, np.float32) for weight in layer.get_weights())
        weights |= {f"{at}.{one}": value for one, value in zip(names, values, strict=True)}
        weights[f"{at}.num_batches_tracked"] = np.array(0, np.int64)
    elif kind == "Normalization" and not layer.invert:
        shape = (3,)
        deviation = np.maximum(np.sqrt(_numpy(layer.variance)), _epsilon())
        weights["mean"] = np.broadcast_to(_numpy(layer.mean).reshape(-1), shape).copy()
        weights["deviation"] = np.broadcast_to(deviation.reshape(-1), shape).copy()
    elif not _WITHOUT_WEIGHTS.fullmatch(name) and not (kind == "Rescaling" and name == "as_float32"):
        raise InputError(
            f"torch is for Greffon's own networks, and layer {name!r} ({kind}) is none of theirs: use onnx"
        )


def _block_name(block: re.Match[str]) -> str:
    stage, number, conv, kind = block.groups()
    inner = (
        {"conv": f"conv{conv}", "bn": f"bn{conv}"} if conv != "0" else {"conv": "downsample.0", "bn": "downsample.1"}
    )
    return f"layer{int(stage) - 1}.{int(number) - 1}.{inner[kind]}"


def _traits(layers: dict[str, Any]) -> dict[str, Any]:
    """What tells one of the networks from another; that it is one of them, the proof shows."""
    blocks: dict[int, int] = {}
    for name in layers:
        if found := _CONV.fullmatch(name):
            stage, number = int(found[1]) - 2, int(found[2])
            blocks[stage] = max(blocks.get(stage, 0), number)
    later = layers.get("conv3_block1_2_conv")
    (top, bottom), (left, right) = layers["pool1_pad"].padding
    return {
        "blocks": [blocks[stage] for stage in sorted(blocks)],
        "stem": layers["conv1_conv"].filters,
        "width": layers["conv2_block1_1_conv"].filters,
        "stride_in_3x3": later is not None and tuple(later.strides) == (2, 2),
        "bias": bool(layers["conv1_conv"].use_bias),
        "epsilon": float(layers["conv1_bn"].epsilon),
        "pool_padding": [left, right, top, bottom],
    }


def _head(layers: list[Any], weights: Weights) -> list[list[Any]]:
    """The head as a list of kinds and values."""
    described_layers: list[list[Any]] = []
    for place, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind == "Dense":
            _check_activation(layer)
            kernel, *bias = (np.asarray(weight, np.float32) for weight in layer.get_weights())
            weights[f"head.{place}.weight"] = np.ascontiguousarray(kernel.T)
            weights |= {f"head.{place}.bias": one for one in bias}
            inputs, outputs = kernel.shape
            values = {"inputs": inputs, "outputs": outputs, "activation": layer.activation.__name__, "bias": bool(bias)}
            described_layers.append(["dense", values])
        elif kind in _HEAD_LAYERS:
            described_layers.append(_HEAD_LAYERS[kind](layer))
        else:
            raise InputError(
                f"torch is for heads of pooling, Dense and Dropout layers, and {layer.name!r} is a {kind}: export "
                "it as onnx"
            )
    return described_layers


_HEAD_LAYERS: dict[str, Callable[[Any], list[Any]]] = {
    "GlobalAveragePooling2D": lambda layer: ["pool", {"kind": "avg"}],
    "GlobalMaxPooling2D": lambda layer: ["pool", {"kind": "max"}],
    "AveragePooling2D": lambda layer: ["cells", {"size": list(layer.pool_size), "strides": list(layer.strides)}],
    "Flatten": lambda layer: ["flatten", {}],
    "Dropout": lambda layer: ["dropout", {"rate": float(layer.rate)}],
}


def _check_activation(layer: Any) -> None:
    import keras

    name = getattr(layer.activation, "__name__", "")
    if name not in _ACTIVATIONS or getattr(keras.activations, name, None) is not layer.activation:
        raise InputError(
            f"torch knows the activations {', '.join(_ACTIVATIONS)}, and layer {layer.name!r} has "
            f"{name or 'another'!r}: export it as onnx"
        )


def _is_halved(name: str, value: Array) -> bool:
    return value.ndim in _HALVED and name.endswith(".weight")


def _numpy(tensor: Any) -> Array:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float32)


def _epsilon() -> float:
    import keras

    return float(keras.backend.epsilon())
