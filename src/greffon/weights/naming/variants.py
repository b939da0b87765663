"""Which variant a file is for, and whether that is sure: shapes alone cannot tell v1 from v1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.weights.sets import VARIANTS, Variant
from greffon.weights.structure import Shapes, modern_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.weights.naming.writers import Writer
    from greffon.weights.read.arrays import Contents


def tell_variant(
    contents: Contents, writer: Writer, layout: Shapes, places: Mapping[str, str]
) -> tuple[bool, Variant, str]:
    """Whether it is sure, which variant a file is, and why.

    Args:
        contents: the file, which may say it, or hold the strides of its convolutions.
        writer: of the file.
        layout: the shapes by Keras' names.
        places: name in the file -> Keras' name.
    """
    configs = dict(contents.configs)
    for name, place in places.items():  # of a graph: the convolution that takes this kernel
        if name in contents.configs and place.endswith("/kernel"):
            configs[place.removesuffix("/kernel")] = contents.configs[name]
    sure, variant, why = keras_variant(layout, contents.metadata, configs)
    if sure or writer.variant is None:
        return sure, variant, why
    biased = any("bias" in it for layer, it in layout.items() if layer.endswith("_conv"))
    if biased and any("gamma" in it for it in layout.values()):
        return False, variant, why
    if writer.variant_sure:
        return True, writer.variant, f"networks from {writer.name} have the stride in the 3x3 convolution"
    return False, writer.variant, "the shapes cannot tell, and its writer knows both"


def keras_variant(
    shapes: Shapes, metadata: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]
) -> tuple[bool, Variant, str]:
    """The same for a file with Keras' names, whose writer tells nothing.

    Shapes cannot tell v1 from v1.5, but biases can: v1 has them, v1.5 has none.
    """
    said = metadata.get("variant")
    for variant in VARIANTS:
        if said == variant:
            return True, variant, "the file says so"
    kernels = {layer: it for layer, it in shapes.items() if len(it.get("kernel", ())) == 4}
    first = {it["kernel"] for it in kernels.values()}
    if (1, 1, 64, 32) in first and (1, 1, 64, 64) not in first:
        return False, "thin", "its width is half of the usual one"
    strides = _stride_in_3x3(configs)
    if strides is not None:
        return True, "v1.5" if strides else "v1", "the file holds the strides"
    backbone = [it for it in kernels.values() if it["kernel"][:2] != (7, 7)] or list(kernels.values())
    without_bias = sum("bias" not in it for it in backbone)
    if backbone and 2 * without_bias > len(backbone):
        return False, "v1.5", "its convolutions have no biases, as v1.5's; the shapes cannot tell"
    return False, "v1", "its convolutions have biases, as v1's; the shapes cannot tell"


def _stride_in_3x3(configs: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether conv3 halves the picture in its 3x3 convolution; None where the file does not say."""
    strides = {modern_name(name): config.get("strides") for name, config in configs.items()}
    in_1x1, in_3x3 = (_larger(strides.get(f"conv3_block1_{number}_conv")) for number in (1, 2))
    if (in_1x1, in_3x3) == (1, 2):
        return True
    return False if (in_1x1, in_3x3) == (2, 1) else None


def _larger(strides: Any) -> int | None:
    if isinstance(strides, (list, tuple)) and strides and all(isinstance(it, int) for it in strides):
        return max(strides)
    return strides if isinstance(strides, int) else None
