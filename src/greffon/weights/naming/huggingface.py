"""The names of Hugging Face transformers' ResNet."""

from __future__ import annotations

import re

from greffon.weights.naming.dialect import NO_PART, TOP, Dialect

_WEIGHT = r"(?P<kind>convolution|normalization)\.(?P<weight>\w+)"
_IN_BLOCK = re.compile(
    r"encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d{1,4})\.(?:layer\.(?P<number>[0-2])|shortcut)\." + _WEIGHT
)
_STEM = re.compile(r"embedder\.embedder\." + _WEIGHT)
_TOP = re.compile(r"classifier\.1\.(weight|bias)")
_WEIGHTS = {
    "convolution": {"weight": "conv/kernel", "bias": "conv/bias"},
    "normalization": {
        "weight": "bn/gamma",
        "bias": "bn/beta",
        "running_mean": "bn/moving_mean",
        "running_var": "bn/moving_variance",
        "num_batches_tracked": NO_PART,
    },
}


def _place(name: str) -> str | None:
    # The classifier stands beside the network that is called "resnet", not in it.
    top = _TOP.fullmatch(name)
    if top:
        return f"{TOP}/{'kernel' if top[1] == 'weight' else 'bias'}"
    name = name.removeprefix("resnet.")
    found = _IN_BLOCK.fullmatch(name)
    if found:
        number = int(found["number"]) + 1 if found["number"] else 0
        layer = f"conv{int(found['stage']) + 2}_block{int(found['block']) + 1}_{number}"
    else:
        found = _STEM.fullmatch(name)
        layer = "conv1"
    if not found:
        return None
    weight = _WEIGHTS[found["kind"]].get(found["weight"])
    return f"{layer}_{weight}" if weight else weight


HUGGING_FACE = Dialect(
    "Hugging Face",
    re.compile(
        r"(?P<prefix>(?:.*\.)??)(?:resnet\.)?encoder\.stages\.\d\.layers\.\d+\.(?:layer\.[0-2]|shortcut)"
        r"\.(?:convolution|normalization)\..+"
    ),
    _place,
    re.compile(r"(?:resnet\.)?(?:encoder|embedder)\."),
)
