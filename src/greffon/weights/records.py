"""What is known of weights: the records that the tables of published and added weight sets are made of."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from greffon.errors import InputError

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


@dataclass(frozen=True)
class Accuracy:
    """How often a classifier names ImageNet's validation pictures rightly, as its publisher measured it.

    Greffon itself takes the whole middle square of a picture and resizes it bicubically (`greffon.pictures.resize`);
    most publishers cut off a margin. So these numbers compare weights; they are not what Greffon was measured to give.

    Attributes:
        top1: percent.
        size: side of the pictures that it was measured with, in pixels.
        source: where the number is published.
        crop: share of the shorter side that was looked at, 0..1; None where the source does not say.
        interpolation: of the resizing, `bilinear` or `bicubic`; None where the source does not say.
    """

    top1: float
    size: int
    source: str
    crop: float | None = None
    interpolation: str | None = None


@dataclass(frozen=True)
class WeightFile:
    """One file of a weight set.

    Attributes:
        filename: its name in the cache folder.
        url: where it is published; None for a file that comes with Greffon or was added on this machine.
        size: in bytes; None where unknown.
        md5: as published, 32 hex digits; None where nobody published one.
        sha256: as published, 64 hex digits; None where nobody published one (`fetch` writes down what it got).
        include_top: whether the file holds the classifier too.
        sha256_prefix: the first digits of the SHA-256, where that is all that is published.
        added: whether it is the user's own, in the cache, with nowhere to fetch it from.
    """

    filename: str
    url: str | None
    size: int | None
    md5: str | None
    sha256: str | None
    include_top: bool
    sha256_prefix: str | None = None
    added: bool = False

    @property
    def published_hash(self) -> str:
        """What its content is checked against, in words; `unverified` where nothing is published."""
        if self.sha256:
            return "SHA-256"
        if self.md5:
            return "MD5"
        return f"{len(self.sha256_prefix)} digits of SHA-256" if self.sha256_prefix else "unverified"


@dataclass(frozen=True)
class WeightSet:
    """A named set of weights and everything that a user has to know about it.

    Attributes:
        name: what `weights=` and `--weights` take.
        variant: the network that the weights belong to.
        files: where they are; empty for `none`.
        licence: of the weights, not of the code that made them; an SPDX identifier where there is one.
        source: who trained them and where they are published.
        classes: of the classifier, where one of the files has it.
        preprocessing: what the backbone was trained with.
        depth: layers with weights that the network is named after (50, 101, 152).
        accuracy: on ImageNet's validation pictures; None where nobody published it.
        format: of the files, in words.
        licence_file: its text among the licences that come with Greffon; None where it does not come with it.
    """

    name: str
    variant: Variant
    files: tuple[WeightFile, ...]
    licence: str
    source: str
    classes: int | None
    preprocessing: Preprocessing
    depth: int = 50
    accuracy: Accuracy | None = None
    format: str = ""
    licence_file: str | None = None

    def file(self, *, include_top: bool = False) -> WeightFile:
        """The file with the classifier, or the one without; where only the former exists, it does for both.

        Raises:
            InputError: the set has no such file.
        """
        for file in self.files:
            if file.include_top == include_top:
                return file
        if include_top or not self.files:
            what = "with a classifier: use include_top=False" if include_top else "at all"
            raise InputError(f"the weight set {self.name!r} has no file {what}")
        return self.files[0]


def embedded_path(file: WeightFile) -> Path:
    """Where a file that comes with Greffon lies."""
    return assets() / "weights" / file.filename


def assets() -> Path:
    """The folder of what comes with Greffon."""
    return Path(str(resources.files("greffon"))) / "assets"
