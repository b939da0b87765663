"""Weight sets by name: those that are published, and those that the user added on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greffon.errors import InputError
from greffon.recipe import nearest
from greffon.weights.added import added_set, added_sets
from greffon.weights.published import WEIGHT_SETS
from greffon.weights.records import (
    PREPROCESSINGS,
    RGB,
    VARIANTS,
    Accuracy,
    Preprocessing,
    Variant,
    WeightFile,
    WeightSet,
    embedded_path,
)

__all__ = [
    "BGR_LAYER",
    "PREPROCESSINGS",
    "PREPROCESSING_LAYER",
    "RGB",
    "VARIANTS",
    "WEIGHT_SETS",
    "Accuracy",
    "Preprocessing",
    "Restored",
    "Variant",
    "WeightFile",
    "WeightSet",
    "check_variant",
    "embedded_path",
    "find_set",
    "known_sets",
    "preprocessing_in_layer",
    "usual_preprocessing",
    "weight_set",
]

PREPROCESSING_LAYER = "greffon_preprocessing_"
"""What the name of a preprocessing layer inside a model starts with; the rest is the record's name."""
BGR_LAYER = PREPROCESSING_LAYER + "bgr_"
"""The same for a record of the user's own whose backbone was trained on BGR."""

# What files of a variant nearly always want, for those that do not say.
_USUAL_PREPROCESSING: dict[Variant, str] = {"v1": "caffe", "v1.5": "torch", "thin": "open_nsfw"}


@dataclass(frozen=True)
class Restored:
    """What a backbone was filled with; attached to it as `model.greffon_weights`.

    Attributes:
        weights: the weight set's name, or the file's path.
        variant: the network that was built.
        preprocessing: what the weights were trained with; None where the file does not tell.
        sha256: of the file, 64 hex digits; None for random weights.
        notes: what the user should know, one sentence each.
        coverage: share of the backbone's parameters that the file gave, 0..1.
        identity: what the file is, in words; empty for random weights.
        check_up: what the network did with the probe pictures once it was filled; None for random weights.
    """

    weights: str
    variant: Variant
    preprocessing: Preprocessing | None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    coverage: float = 1.0
    identity: str = ""
    check_up: dict[str, Any] | None = None


def weight_set(name: str) -> WeightSet:
    """The record of a weight set, published or added on this machine.

    Raises:
        InputError: no weight set has that name; the nearest one is named.

    Example:
        >>> from greffon.weights.sets import weight_set
        >>> weight_set("thin").variant
        'thin'
    """
    record = find_set(name)
    if record is None:
        names = list(known_sets())
        raise InputError(f"weight set must be one of {', '.join(names)}, got {name!r}{nearest(name, names)}")
    return record


def find_set(name: str) -> WeightSet | None:
    """The record of a weight set, published or added on this machine; None where no set has that name.

    Example:
        >>> from greffon.weights.sets import find_set
        >>> find_set("weights.h5") is None
        True
    """
    return WEIGHT_SETS.get(name) or added_set(name)


def known_sets() -> dict[str, WeightSet]:
    """Every weight set by name: the published ones, then those that were added on this machine."""
    return WEIGHT_SETS | added_sets()


def preprocessing_in_layer(name: str, config: dict[str, Any], *, size: Any = None) -> Preprocessing:
    """The record behind a preprocessing layer in a model or file.

    A record of the user's own comes back with the mean and standard deviation that the layer applies (so with
    `scale` 1), `size` as the model's input, and the resize rule `crop`.

    Args:
        name: of the layer.
        config: of the layer: `mean` and `variance`, three numbers each in RGB order.
        size: side of the model's input in pixels, where it has one.
    """
    known = PREPROCESSINGS.get(name.removeprefix(PREPROCESSING_LAYER))
    if known is not None:
        return known
    bgr = name.startswith(BGR_LAYER)
    mean = [float(value) for value in config["mean"]]
    std = [float(value) ** 0.5 for value in config["variance"]]
    return Preprocessing(
        name.removeprefix(BGR_LAYER if bgr else PREPROCESSING_LAYER),
        channel_order="BGR" if bgr else "RGB",
        size=size if isinstance(size, int) else 224,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def usual_preprocessing(variant: str) -> Preprocessing:
    """What weight files of a variant usually want, for a file that does not say.

    Raises:
        InputError: no such variant.
    """
    return PREPROCESSINGS[_USUAL_PREPROCESSING[check_variant(variant)]]


def check_variant(variant: str) -> Variant:
    """The variant, if it is one.

    Raises:
        InputError: no such variant; the nearest one is named.
    """
    for known in VARIANTS:
        if known == variant:
            return known
    raise InputError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}{nearest(str(variant), VARIANTS)}")
