"""Which ResNet it is, by its shapes and by what stands in its blocks; and why Greffon cannot build it, if it cannot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from greffon.weights.structure import DEPTHS, Shape, Shapes, blocks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUILDS = "Greffon builds the plain ones with 64 filters in conv2 (v1, v1.5) and v1 with 32 (thin)"
_BASIC_DEPTHS: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
# What stands in the backbone beside a plain ResNet's tensors -> what it makes of the network.
_ADDITIONS: tuple[tuple[str, str, str], ...] = (
    (r"preact_bn|post_bn", "ResNet V2", "BatchNorm stands before its convolutions"),
    (r"attnpool\.|^conv2\.", "CLIP ResNet", "it has a stem of three convolutions and attention for pooling"),
    (r"\.conv2\.(?:bn0|fc1|radix)", "ResNeSt", "its blocks split their attention"),
    (r"\.convs\.\d|\.bns\.\d", "Res2Net", "its blocks are split into scales"),
    (r"\.conv2\.(?:paths|attn)\.", "SK-ResNet", "its blocks select their kernels"),
    (r"\.se\.conv\.", "ECA-ResNet", "its blocks weigh their channels"),
    (r"\.se\.|\.se_module\.", "SE-ResNet", "its blocks weigh their channels"),
    (r"\.conv2_offset|\.conv2\.conv_offset", "deformable ResNet", "its 3x3 convolutions move"),
)
_DEEP_STEM = re.compile(r"^(?:conv1|stem)\.\d|^stem\.conv\d|^(?:conv1|stem)\.conv1\.\d|^0\.\d")
_POOLED_SHORTCUT = re.compile(r"downsample\.2\.")
_BLOCK = re.compile(r"(layer|res)(\d)\.(\d{1,4})\.")
_USUAL_WIDTHS = (64, 32)


@dataclass(frozen=True)
class Verdict:
    """What the shapes tell.

    Attributes:
        network: in words, without the variant.
        blocks: per stage.
        width: filters of the first stage's bottleneck; None where that is not in the file.
        stem: what the first convolution is, in words; empty where it is not in the file.
        refusal: why Greffon cannot build it, a sentence; empty where it can.
    """

    network: str
    blocks: tuple[int, ...]
    width: int | None = None
    stem: str = ""
    refusal: str = ""


def judge(shapes: Shapes, extras: Sequence[str] = ()) -> Verdict:
    """Which ResNet has these shapes.

    Args:
        shapes: by Keras' names, kernels (height, width, in, out).
        extras: names of further tensors in the backbone.

    Example:
        >>> from greffon.weights.naming.judge import judge
        >>> judge({"conv2_block1_2_conv": {"kernel": (3, 3, 4, 128)}}).refusal
        'it is ResNeXt of blocks 1 32x4d: its 3x3 convolutions are grouped; Greffon builds the plain \
ones with 64 filters in conv2 (v1, v1.5) and v1 with 32 (thin)'
    """
    blocks = _blocks(shapes, extras)
    kernels = {layer: it["kernel"] for layer, it in shapes.items() if len(it.get("kernel", ())) == 4}
    other = (
        _by_additions(blocks, extras)
        or _by_kernels(blocks, kernels)
        or _by_stem(blocks, kernels)
        or _by_norms(blocks, shapes)
    )
    network, reason = other or (called(blocks), "")
    stem = kernels.get("conv1_conv")
    first = kernels.get("conv2_block1_1_conv") or kernels.get("conv2_block1_2_conv")
    return Verdict(
        network,
        blocks,
        first[-1] if first else None,
        f"{stem[0]}x{stem[1]}, {stem[2]} to {stem[3]} channels" if stem else "",
        f"it is {network}: {reason}; {_BUILDS}" if reason else "",
    )


def called(blocks: tuple[int, ...], kind: str = "ResNet") -> str:
    """The network's name by its blocks.

    Example:
        >>> from greffon.weights.naming.judge import called
        >>> called((3, 4, 23, 3)), called((1, 2), "SE-ResNet")
        ('ResNet-101', 'SE-ResNet of blocks 1,2')
    """
    depth = DEPTHS.get(blocks)
    return f"{kind}-{depth}" if depth else f"{kind} of blocks {','.join(map(str, blocks))}"


def _blocks(shapes: Shapes, extras: Sequence[str]) -> tuple[int, ...]:
    """Blocks per stage, counting those of which nothing is a plain block's."""
    layers = list(shapes)
    for extra in extras:
        found = _BLOCK.match(extra)
        if found:
            stage = int(found[2]) + (0 if found[1] == "res" else 1)
            layers.append(f"conv{stage}_block{int(found[3]) + 1}_1_conv")
    return blocks_of(layers)


def _by_additions(blocks: tuple[int, ...], extras: Sequence[str]) -> tuple[str, str] | None:
    for pattern, kind, reason in _ADDITIONS:
        fits = re.compile(pattern)
        if any(fits.search(extra) for extra in extras):
            name, space, version = kind.partition(" V2")
            return f"{called(blocks, name)}{space}{version}", reason
    usual = called(blocks)
    pooled = any(_POOLED_SHORTCUT.search(extra) for extra in extras)
    if any(_DEEP_STEM.search(extra) for extra in extras):
        if pooled:
            return f"{usual} with a ResNet-D stem", "three convolutions in its stem and pooling in its shortcuts"
        return f"{usual} with a deep stem", "its stem has three convolutions"
    if pooled:
        return f"{usual} with pooling in its shortcuts", "its shortcuts average before they halve"
    in_blocks = [extra for extra in extras if _BLOCK.match(extra)]
    if in_blocks:
        return f"{usual} with more in its blocks", f"a plain block has no {in_blocks[0]}"
    return None


def _by_kernels(blocks: tuple[int, ...], kernels: dict[str, Shape]) -> tuple[str, str] | None:
    first, middle, last = (kernels.get(f"conv2_block1_{number}_conv") for number in (1, 2, 3))
    if first and middle and not last and first[:2] == (3, 3):
        depth = _BASIC_DEPTHS.get(blocks)
        name = f"ResNet-{depth}" if depth else f"ResNet-18 or -34 of blocks {','.join(map(str, blocks))}"
        return f"{name} of basic blocks", "its blocks have two 3x3 convolutions"
    if middle and middle[2] != middle[3]:
        groups = f"{middle[3] // max(middle[2], 1)}x{middle[2]}d"
        return f"{called(blocks, 'ResNeXt')} {groups}", "its 3x3 convolutions are grouped"
    if middle and last and last[3] != 4 * middle[3]:
        wide = 2 * middle[3] == last[3]
        name = f"{called(blocks, 'Wide ResNet')}-2" if wide else f"{called(blocks)} with other bottlenecks"
        return name, f"its bottlenecks have {middle[3]} filters for {last[3]} channels, not a quarter of them"
    for stage in range(1, len(blocks)):
        other = kernels.get(f"conv{stage + 2}_block1_2_conv")
        if middle and other and other[3] != middle[3] * 2**stage:
            return f"{called(blocks)} of unusual widths", "its stages do not double the filters"
    if middle and middle[3] not in _USUAL_WIDTHS:
        return f"{called(blocks)} of width {middle[3]}", f"it has {middle[3]} filters in conv2"
    return None


def _by_stem(blocks: tuple[int, ...], kernels: dict[str, Shape]) -> tuple[str, str] | None:
    stem = kernels.get("conv1_conv")
    if stem and stem[:2] != (7, 7):
        return f"{called(blocks)} with a {stem[0]}x{stem[1]} stem", "its stem is for small pictures such as CIFAR's"
    if stem and stem[3] != 64:
        return f"{called(blocks)} with a stem of {stem[3]} channels", "a plain stem gives 64 channels"
    return None


def _by_norms(blocks: tuple[int, ...], shapes: Shapes) -> tuple[str, str] | None:
    norms = [it for layer, it in shapes.items() if layer.endswith("_bn")]
    if norms and all({"gamma", "beta"} <= set(it) and "moving_mean" not in it for it in norms):
        return f"{called(blocks)} with GroupNorm", "its norms keep no statistics, so they are no BatchNorm"
    return None
