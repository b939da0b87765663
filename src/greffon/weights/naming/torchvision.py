"""The names of torchvision, which timm, mmdetection, MoCo, DINO and most of PyTorch share, and two that stem from them.

A `Sequential` of torchvision's layers (lightly and many scripts) numbers them; detectron2 renames them.
"""

from __future__ import annotations

import re

from greffon.weights.naming.dialect import NO_PART, TOP, Dialect

_WEIGHT = r"(?P<weight>weight|bias|running_mean|running_var|num_batches_tracked|weight_bias)"
_IN_BLOCK = re.compile(
    r"layer(?P<stage>[1-8])\.(?P<block>\d{1,4})\.(?:(?P<kind>conv|bn)(?P<number>[1-3])|downsample\.(?P<half>[01]))\."
    + _WEIGHT
)
_STEM = re.compile(r"(?:stem\.)?(?P<kind>conv|bn)1\." + _WEIGHT)
_TOP = re.compile(r"(?:fc|head\.fc|classifier|classifier\.1|classifier\.fc|head|linear|last_linear)\.(weight|bias)")
_CONV = {"weight": "kernel", "bias": "bias", "weight_bias": "bias"}  # the last is what the exporter to ONNX says
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_INSIDE = re.compile(r"(?:layer\d+|conv\d|bn\d|stem|attnpool)\.")


def _place(name: str) -> str | None:
    found = _IN_BLOCK.fullmatch(name)
    if found:
        kind = found["kind"] or ("conv" if found["half"] == "0" else "bn")
        return _named(
            f"conv{int(found['stage']) + 1}_block{int(found['block']) + 1}_{found['number'] or 0}", kind, found
        )
    found = _STEM.fullmatch(name)
    if found:
        return _named("conv1", found["kind"], found)
    found = _TOP.fullmatch(name)
    return f"{TOP}/{_CONV[found[1]]}" if found else None


def _named(layer: str, kind: str, found: re.Match[str]) -> str | None:
    if found["weight"] == "num_batches_tracked":
        return NO_PART
    weight = (_CONV if kind == "conv" else _NORM).get(found["weight"])
    return None if weight is None else f"{layer}_{kind}/{weight}"


TORCHVISION = Dialect(
    "torchvision",
    re.compile(r"(?P<prefix>(?:.*[./])?)layer[1-8]\.\d+\.(?:conv[1-3]|bn[1-3]|downsample\.\d)\..+"),
    _place,
    _INSIDE,
)

# Where torchvision's children stand in nn.Sequential(*network.children()).
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}


def _sequential_place(name: str) -> str | None:
    child, dot, rest = name.partition(".")
    return _place(f"{_CHILDREN[child]}.{rest}") if dot and child in _CHILDREN else None


SEQUENTIAL = Dialect(
    "Sequential",
    re.compile(r"(?P<prefix>(?:.*\.)?)[4-7]\.\d+\.(?:conv[1-3]|bn[1-3]|downsample\.\d)\..+"),
    _sequential_place,
    re.compile(r"[014567]\."),
)

_DETECTRON = re.compile(r"res([2-9])\.(\d{1,4})\.(conv[1-3]|shortcut)\.(norm\.)?(\w+)")


def _detectron_place(name: str) -> str | None:
    found = _DETECTRON.fullmatch(name)
    if found:
        stage, block, conv, norm, weight = found.groups()
        if conv == "shortcut":
            inner = "downsample.1" if norm else "downsample.0"
        else:
            inner = conv.replace("conv", "bn") if norm else conv
        return _place(f"layer{int(stage) - 1}.{block}.{inner}.{weight}")
    if name.startswith("stem.conv1.norm."):
        return _place("bn1." + name.removeprefix("stem.conv1.norm."))
    return _place(name)


DETECTRON2 = Dialect(
    "detectron2",
    re.compile(r"(?P<prefix>(?:.*\.)?)res[2-9]\.\d+\.(?:conv[1-3]|shortcut)\..+"),
    _detectron_place,
    re.compile(r"(?:res\d|stem)\."),
)
