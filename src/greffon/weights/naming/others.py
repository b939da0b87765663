"""Weight files that are no ResNet that Greffon builds, and how one sees it: by the names of their tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from greffon.weights.structure import Shape

# Names that no other network has -> the network. The first that fits any name decides, so special ones come first.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"relative_position_bias_table", "a Swin Transformer"),
    (r"\bcls_token\b|class_token|pos_embed|position_embeddings|\bvit\.encoder|patch_embed|self_attention", "a ViT"),
    (r"denseblock\d|denselayer\d|dense_block|\bpool2_conv/", "DenseNet"),
    (r"normal_\w{0,40}_?\d|reduction_\w{1,40}_\d|cell_\d+\.", "NASNet"),
    (r"convnext|layer_scale|\.dwconv\.|\bgrn\b|stages\.\d\.blocks\.\d+\.conv_dw", "ConvNeXt"),
    (r"expanded_conv_squeeze_excite|expanded_conv_\d+_", "MobileNetV3"),
    (r"expanded_conv|block_\d+_(?:expand|depthwise|project)|features\.\d+\.conv\.\d\.0\.", "MobileNetV2"),
    (r"conv_dw_\d+|conv_pw_\d+", "MobileNet"),
    (r"dwconv2|_squeeze_excite|block\d[a-z]_|_depthwise_conv\.|features\.\d\.\d\.block\.\d\.fc1", "EfficientNet"),
    (r"features\.\d+\.block\.\d\.0\.|blocks\.\d\.\d\.conv_dw", "MobileNetV3 or EfficientNet"),
    (r"[Mm]ixed_?\d[a-d]?\b|[Mm]ixed_\d|inception_?\d[a-e]|Conv2d_\d[ab]_", "Inception"),
    (r"sepconv\d|separable_conv", "Xception"),
    (r"squeeze\.|expand[13]x[13]", "SqueezeNet"),
    (r"stage\d\.\d+\.branch\d", "ShuffleNet"),
    (r"trunk_output|s\d\.b\d\.f\.|regnet", "RegNet"),
    (r"layers\.\d+\.\d+\.layers\.\d", "MNASNet"),
    (r"\bblock[1-5]_conv[1-4]\b|features\.(?:24|28|34)\.weight|\bvgg", "VGG"),
    (r"features\.10\.weight", "AlexNet"),
)
_BIT = re.compile(r"standardized_conv2d|resnet/block\d+/unit\d+/[abc]/|resnet/root_block")
_V2 = re.compile(
    r"preact_bn|\bpost_bn\b|bottleneck_v2|postnorm|stages\.\d\.blocks\.\d+\.norm3|encoder\.stages\.\d\.layers\.\d+\.norm1"
)
_SLIM_V1 = re.compile(r"resnet_v1_(\d{1,4})/(?:block\d|conv1|logits)")
_OPTIMIZER = re.compile(
    r"momentum_buffer|exp_avg|\boptimizer|\.OPTIMIZER_SLOT|/Adam(?:_1)?\b|/(?:momentum|velocity|RMSProp)\b|_velocity\b|"
    r"\bm/|\bv/|param_groups"
)
_HEAD_TENSORS = 8  # more than a head of four layers has


def is_optimizer(name: str) -> bool:
    """Whether a tensor is an optimizer's, not a network's."""
    return _OPTIMIZER.search(name) is not None


def slim_depth(names: Collection[str]) -> int | None:
    """50 for a checkpoint of TF-slim's resnet_v1_50; None for any other file."""
    found = next((it for it in map(_SLIM_V1.search, names) if it), None)
    return int(found[1]) if found else None


def is_bit(names: Collection[str]) -> bool:
    """Whether the names are those of BiT (Big Transfer) as its authors published it."""
    return any(_BIT.search(name) for name in names)


def is_densenet(names: Collection[str]) -> bool:
    """Whether the names are those of Keras' DenseNet, which resemble its ResNets'."""
    first = {name.partition("/")[0] for name in names if name.startswith("conv2_block1_")}
    return "conv2_block1_0_bn" in first and not first & {"conv2_block1_0_conv", "conv2_block1_3_conv"}


def what_else(shapes: Mapping[str, Shape]) -> str:
    """In a few words, what a file is that is no ResNet with residual blocks of the known names.

    Args:
        shapes: by name.

    Example:
        >>> from greffon.weights.naming.others import what_else
        >>> what_else({"features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1)})
        'it looks like DenseNet'
        >>> what_else({"fc.weight": (10, 2048), "fc.bias": (10,)})
        'it is a head alone: 2 tensors'
    """
    network = _looks_like(shapes)
    if network:
        return f"it looks like {network}"
    network_part = [name for name in shapes if not is_optimizer(name)]
    if not network_part or (2 * len(network_part) < len(shapes) and all(len(it) < 4 for it in shapes.values())):
        return "it holds an optimizer, without the network that it trained"
    if len(network_part) <= _HEAD_TENSORS and all(len(shapes[name]) <= 2 for name in network_part):
        return f"it is a head alone: {len(network_part)} tensors"
    first = ", ".join(list(shapes)[:3])
    return f"its tensors are called {first}{', ...' if len(shapes) > 3 else ''}"


def _looks_like(names: Collection[str]) -> str:
    if is_bit(names):
        return "a BiT ResNet V2 (Big Transfer)"
    if any(_V2.search(name) for name in names):
        return "a ResNet V2"
    if is_densenet(names):
        return "DenseNet"
    if _numbered_without_gamma(names):
        return "Inception"
    fits = (network for pattern, network in _OTHERS if any(re.search(pattern, name) for name in names))
    return next(fits, "")


def _numbered_without_gamma(names: Collection[str]) -> bool:
    """Keras' Inceptions number their layers, and their BatchNorm has no gamma."""
    norms = {name.rpartition("/")[2] for name in names if re.match(r"batch_normalization(?:_\d+)?/", name)}
    return "beta" in norms and "gamma" not in norms
