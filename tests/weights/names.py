"""Contents of files of other libraries, without numbers: a tensor that is read fails the test."""

from __future__ import annotations

import json
from pathlib import Path

from greffon.weights.read.arrays import Contents, Tensor
from greffon.weights.structure import network_shapes

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_KNOWN = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
KNOWN = tuple(_KNOWN)


def _never():
    raise AssertionError("a tensor was read")


def contents(shapes, form="test", **more):
    """Contents of these shapes; counters are integers."""
    tensors = {
        name: Tensor(tuple(shape), "int64" if name.endswith("tracked") else "float32", _never)
        for name, shape in shapes.items()
    }
    return Contents(tensors, form, **more)


def known(name):
    """Shapes by name of a real network, see make_names.py."""
    shapes = {}
    for tensor, shape in _KNOWN[name]:
        if tensor.endswith(".*"):
            stem = tensor.removesuffix("*")
            shapes.update({f"{stem}{it}": shape if it != NORM[-1] else [] for it in NORM})
        else:
            shapes[tensor] = shape
    return shapes


def torchvision(blocks=(1, 1, 1, 1), *, classes=1000, width=64, counters=True):
    """Shapes of a ResNet by torchvision's names."""
    keras = network_shapes(blocks, width)
    shapes = {}
    for layer, weights in keras.items():
        name = _torch_name(layer)
        if layer.endswith("_conv"):
            height, wide, inwards, outwards = weights["kernel"]
            shapes[f"{name}.weight"] = (outwards, inwards, height, wide)
        else:
            shapes.update({f"{name}.{it}": weights["gamma"] for it in NORM[:4]})
            if counters:
                shapes[f"{name}.num_batches_tracked"] = ()
    if classes:
        shapes |= {"fc.weight": (classes, 4 * width * 2 ** (len(blocks) - 1)), "fc.bias": (classes,)}
    return shapes


def _torch_name(layer):
    first, *place, kind = layer.split("_")
    if not place:
        return f"{kind}1"
    block, number = place
    stem = f"layer{int(first.removeprefix('conv')) - 1}.{int(block.removeprefix('block')) - 1}"
    if number == "0":
        return f"{stem}.downsample.{0 if kind == 'conv' else 1}"
    return f"{stem}.{kind}{number}"


def renamed(shapes, prefix="", rename=lambda name: name):
    return {prefix + rename(name): shape for name, shape in shapes.items()}
