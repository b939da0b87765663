"""The weight sets that Greffon knows: frozen records of where weights come from and what they expect."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from greffon.errors import InputError
from greffon.recipe import nearest

Variant = Literal["v1", "v1.5", "thin"]
VARIANTS: tuple[Variant, ...] = ("v1", "v1.5", "thin")
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What has to be done to an RGB picture of 0..255 before a backbone sees it.

    `(picture * scale - mean) / std` per channel, then the channels in `channel_order`.

    Attributes:
        name: what the preprocessing is called on the command line and in layer names.
        resize: how a picture becomes square: the middle of it, stretched, or padded.
        size: side of the network's input that the weights were trained with, in pixels.
        channel_order: the order in which the backbone's first convolution takes the channels.
        scale: multiplies the values 0..255, before the mean is subtracted.
        mean: subtracted after scaling; always in RGB order, whatever `channel_order`.
        std: divides after the mean; always in RGB order, whatever `channel_order`.
    """

    name: str
    resize: Literal["crop", "stretch", "pad"] = "crop"
    size: int = 224
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0
    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)


PREPROCESSINGS: dict[str, Preprocessing] = {
    record.name: record
    for record in (
        Preprocessing("caffe", channel_order="BGR", mean=(123.68, 116.779, 103.939)),
        Preprocessing("torch", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocessing("tf", scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
        Preprocessing("open_nsfw", channel_order="BGR", mean=(123.0, 117.0, 104.0)),
        Preprocessing("none"),
    )
}

PREPROCESSING_LAYER = "greffon_preprocessing_"
"""What the name of a preprocessing layer inside a model starts with; the rest is the record's name."""
BGR_LAYER = PREPROCESSING_LAYER + "bgr_"
"""The same for a record of the user's own whose backbone was trained on BGR."""

# What files of a variant nearly always want, for those that do not say.
_USUAL_PREPROCESSING: dict[Variant, str] = {"v1": "caffe", "v1.5": "torch", "thin": "open_nsfw"}


@dataclass(frozen=True)
class WeightFile:
    """One file of a weight set.

    Attributes:
        filename: its name in the cache folder.
        url: where it is published; None for a file that comes with Greffon.
        size: in bytes; None where unknown.
        md5: as published, 32 hex digits; None where nobody published one.
        sha256: 64 hex digits; None where not known yet (`fetch` writes down what it got).
        include_top: whether the file holds the classifier too.
    """

    filename: str
    url: str | None
    size: int | None
    md5: str | None
    sha256: str | None
    include_top: bool


@dataclass(frozen=True)
class WeightSet:
    """A named set of weights and everything that a user has to know about it.

    Attributes:
        name: what `weights=` and `--weights` take.
        variant: the network that the weights belong to.
        files: where they are; empty for `none`.
        licence: of the weights, not of the code that made them.
        source: who trained them and where they are published.
        classes: of the classifier, where one of the files has it.
        preprocessing: what the backbone was trained with.
        depth: layers with weights that the network is named after (50, 101, 152).
    """

    name: str
    variant: Variant
    files: tuple[WeightFile, ...]
    licence: str
    source: str
    classes: int | None
    preprocessing: Preprocessing
    depth: int = 50

    def file(self, *, include_top: bool = False) -> WeightFile:
        """The file with, or without, the classifier.

        Raises:
            InputError: the set has no such file.
        """
        for file in self.files:
            if file.include_top == include_top:
                return file
        what = "with a classifier: use include_top=False" if include_top else "without a classifier"
        raise InputError(f"the weight set {self.name!r} has no file {what}")


_KERAS_RESNET = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"

WEIGHT_SETS: dict[str, WeightSet] = {
    record.name: record
    for record in (
        WeightSet(
            name="imagenet",
            variant="v1",
            files=(
                # Hashes as published in keras/src/applications/resnet.py. Keras publishes no SHA-256. The sizes
                # are the content lengths that its downloader shows.
                WeightFile(
                    filename="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
                    url=_KERAS_RESNET + "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
                    size=94_765_736,
                    md5="4d473c1dd8becc155b73f8504c6f6626",
                    sha256=None,
                    include_top=False,
                ),
                WeightFile(
                    filename="resnet50_weights_tf_dim_ordering_tf_kernels.h5",
                    url=_KERAS_RESNET + "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
                    size=102_967_424,
                    md5="2cb95161c43110f7111970584f804107",
                    sha256=None,
                    include_top=True,
                ),
            ),
            licence="MIT",
            source="keras.applications.ResNet50: ported from Kaiming He's Caffe release, ImageNet-1k",
            classes=1000,
            preprocessing=PREPROCESSINGS["caffe"],
        ),
        WeightSet(
            name="thin",
            variant="thin",
            files=(
                WeightFile(
                    filename="open_nsfw_thin_fp16.safetensors",
                    url=None,
                    size=11_788_776,
                    md5=None,
                    sha256="3bc10cba9edd91abc48c6875351b5109a89e7058ace63be8145569d5d053b321",
                    include_top=False,
                ),
            ),
            licence="BSD-2-Clause",
            source="yahoo/open_nsfw resnet_50_1by2: ImageNet-1k, then tuned for content moderation; comes with Greffon",
            classes=None,
            preprocessing=PREPROCESSINGS["open_nsfw"],
        ),
        WeightSet(
            name="none",
            variant="v1",
            files=(),
            licence="none needed",
            source="random initial weights",
            classes=None,
            preprocessing=PREPROCESSINGS["caffe"],
        ),
    )
}


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
    """The record of a weight set.

    Raises:
        InputError: no weight set has that name; the nearest one is named.

    Example:
        >>> from greffon.weights.sets import weight_set
        >>> weight_set("thin").variant
        'thin'
    """
    record = WEIGHT_SETS.get(name)
    if record is None:
        raise InputError(
            f"weight set must be one of {', '.join(WEIGHT_SETS)}, got {name!r}{nearest(name, WEIGHT_SETS)}"
        )
    return record


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


def embedded_path(file: WeightFile) -> Path:
    """Where a file that comes with Greffon lies."""
    return Path(str(resources.files("greffon"))) / "assets" / "weights" / file.filename
