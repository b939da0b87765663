"""What a weight file tells about the network that it belongs to, beside its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.sets import PREPROCESSING_LAYER, VARIANTS, Preprocessing, Variant, preprocessing_in_layer
from greffon.weights.structure import modern_name, shapes_of

if TYPE_CHECKING:
    from greffon.weights.read.arrays import WeightArrays


def variant_of(weights: WeightArrays) -> tuple[bool, Variant]:
    """The variant, and whether the file says so itself (else it is what its shapes suggest).

    Shapes cannot tell v1 from v1.5, but biases can: v1 has them, v1.5 has none.
    """
    said = weights.metadata.get("variant")
    for variant in VARIANTS:
        if said == variant:
            return True, variant
    kernels = {layer: it for layer, it in shapes_of(weights.arrays).items() if len(it.get("kernel", ())) == 4}
    first = {it["kernel"] for it in kernels.values()}
    if (1, 1, 64, 32) in first and (1, 1, 64, 64) not in first:
        return False, "thin"
    strides = _stride_in_3x3(weights.configs)
    if strides is not None:
        return True, "v1.5" if strides else "v1"
    backbone = [it for layer, it in kernels.items() if it["kernel"][:2] != (7, 7)] or list(kernels.values())
    without_bias = sum("bias" not in it for it in backbone)
    return False, "v1.5" if backbone and 2 * without_bias > len(backbone) else "v1"


def unfold_preprocessing(weights: WeightArrays) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """Undo what grafting did to a backbone's first convolution, where the file is of a grafted model.

    A grafted model takes RGB; where the backbone was trained on BGR, its first kernel's input channels were
    swapped, and are swapped back here, in `weights`.

    Returns:
        The preprocessing inside the model, and a note; None and none where there is no such layer.

    Raises:
        WeightFileError: the preprocessing is the user's own and the file does not hold its values.
    """
    names = [name for name in weights.layer_names if name.startswith(PREPROCESSING_LAYER)]
    if not names:
        return None, ()
    try:
        preprocessing = preprocessing_in_layer(names[0], weights.configs.get(names[0], {}))
    except KeyError:
        raise WeightFileError(
            f"the file is of a grafted model with a preprocessing of its own ({names[0]}), whose values it does "
            "not hold: use the whole model (.keras)"
        ) from None
    if preprocessing.channel_order == "BGR":
        kernel = weights.arrays.get("conv1_conv/kernel")
        if kernel is None:
            raise WeightFileError("the file is of a grafted model, but has no conv1_conv/kernel")
        weights.arrays["conv1_conv/kernel"] = kernel[:, :, ::-1, :].copy()
    return preprocessing, (f"The file is of a grafted model with the preprocessing {preprocessing.name!r}.",)


def _stride_in_3x3(configs: dict[str, dict[str, Any]]) -> bool | None:
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
