"""Who wrote a file, as the names in it tell, and what preprocessing and which variant follow from that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greffon.weights.naming.prefixes import Reading
    from greffon.weights.sets import Variant

_UNKNOWN = "cannot be known from the file"
_TORCH = "torch"


@dataclass(frozen=True)
class Writer:
    """A program that writes weight files.

    Attributes:
        name: in words.
        preprocessing: that all its published weights were trained with; None where they differ.
        because: why that is so, or why it cannot be known; a clause.
        variant: that it writes; None where its names do not tell.
        variant_sure: False where it also writes another with the same names.
        projection: `fc` is a projection head, not a classifier.
        note: what its user should know.
    """

    name: str
    preprocessing: str | None
    because: str
    variant: Variant | None = "v1.5"
    variant_sure: bool = True
    projection: bool = False
    note: str = ""


def _imagenet(who: str) -> str:
    return f"{who} with ImageNet's mean and standard deviation"


_CAFFE_OR_TORCH = (
    f"{_UNKNOWN}: such detectors are trained with torch's or with caffe's preprocessing, as their configuration says"
)
_SSL_TORCH = _imagenet("its authors train")
_STRIDE_UNSURE = (
    "Detectors of this kind come in two styles with the same shapes: stride in the 3x3 convolution (pytorch: v1.5) or "
    "in the 1x1 (caffe, MSRA: v1 without biases); the file does not say which."
)
_DILATED = (
    "A segmentation network usually dilates conv4 and conv5 instead of halving the picture there: Greffon's features "
    "from these weights are not the ones that they were trained to give."
)

GREFFON = Writer("greffon", None, f"{_UNKNOWN}: it does not say", variant=None)
KERAS = Writer(
    "Keras applications",
    None,
    f"{_UNKNOWN}: Keras' own ImageNet weights want caffe, but whoever trained these may have used another",
    variant=None,
)
OPEN_NSFW = Writer("open_nsfw (Yahoo)", "open_nsfw", "open_nsfw was trained so", variant=None)
ONNX = Writer("an ONNX export", None, f"{_UNKNOWN}: it was exported without its preprocessing", variant_sure=False)
MXNET = Writer("MXNet, exported to ONNX", _TORCH, _imagenet("MXNet's ResNets are trained"), variant=None)
TENSORFLOW = Writer("a TensorFlow checkpoint", None, f"{_UNKNOWN}: a checkpoint holds variables only", variant=None)
SIMCLR_TF = Writer(
    "SimCLR (TensorFlow)",
    None,
    f"{_UNKNOWN} for sure: SimCLR takes pictures of 0..1 with no mean, for which there is no record",
    note="SimCLR pads the pooling of its stem at the bottom and right, v1.5 on all sides: features differ a little.",
)
SLIM = Writer("TF-slim", None, "TF-slim's ResNet V1 subtracts the mean of VGG, in RGB", variant=None)
BIT = Writer("BiT (Big Transfer)", "tf", "BiT takes pictures of -1..1", variant=None)
TIMM = Writer("timm", _TORCH, _imagenet("timm's ResNets are trained"))
HUGGING_FACE = Writer(
    "Hugging Face ResNetForImageClassification", _TORCH, _imagenet("Hugging Face's ResNets are trained")
)
HUGGING_FACE_BARE = Writer("Hugging Face ResNetModel", _TORCH, _imagenet("Hugging Face's ResNets are trained"))
_PLAIN = Writer("torchvision or timm", _TORCH, _imagenet("both train their ImageNet classifiers"))
_PLAIN_OWN = Writer(
    "PyTorch, with torchvision's names",
    None,
    f"{_UNKNOWN}: PyTorch's ResNets nearly always want torch, but this is not one of ImageNet's classifiers",
)
_DETECTRON2 = Writer(
    "a detection backbone (detectron2)",
    None,
    _CAFFE_OR_TORCH,
    variant="v1",
    variant_sure=False,
    note=_STRIDE_UNSURE,
)
_SEQUENTIAL = Writer(
    "a Sequential of torchvision's layers (lightly and others)",
    None,
    f"{_UNKNOWN}: torchvision's layers in a Sequential nearly always want torch",
)

_BARLOW = Writer("Barlow Twins", _TORCH, _SSL_TORCH)
_BARLOW_TOO = re.compile(r"projector\.\d+\.weight")

# Signs of PyTorch writers among the prefixes and the names beside the backbone; the first that fits decides.
_SIGNS: tuple[tuple[str, Writer], ...] = (
    (
        r"^\S*backbone\.body\.stem\.",
        Writer(
            "a detection backbone (maskrcnn-benchmark)",
            None,
            _CAFFE_OR_TORCH,
            variant="v1",
            variant_sure=False,
            note=_STRIDE_UNSURE,
        ),
    ),
    (
        r"backbone\.0\.body\.|class_embed\.|\btransformer\.",
        Writer("a detection backbone (DETR)", _TORCH, _imagenet("DETR trains")),
    ),
    (
        r"roi_heads\.|\brpn\.head|backbone\.fpn\.",
        Writer("a detection backbone (torchvision)", _TORCH, _imagenet("torchvision's detectors work")),
    ),
    (
        r"decode_head\.|classifier\.\d+\.convs\.|aux_classifier\.|\baspp\b",
        Writer(
            "a segmentation network (torchvision, mmsegmentation and others)",
            None,
            f"{_UNKNOWN}: segmentation networks nearly always want torch",
            note=_DILATED,
        ),
    ),
    (
        r"\bneck\.|bbox_head\.|rpn_head\.|roi_head\.|proposal_generator\.",
        Writer("a detection backbone (mmdetection)", None, _CAFFE_OR_TORCH, variant_sure=False, note=_STRIDE_UNSURE),
    ),
    (
        r"encoder_[qk]\.|base_encoder\.|momentum_encoder\.|(?:^|\.)queue(?:_ptr)?$",
        Writer("MoCo", _TORCH, _SSL_TORCH, projection=True),
    ),
    (r"(?:^|\.)(?:teacher|student)[._]|head\.last_layer", Writer("DINO", _TORCH, _SSL_TORCH, projection=True)),
    (r"prototypes|projection_head\.", Writer("SwAV", _TORCH, _SSL_TORCH, projection=True)),
    (r"online_(?:network|encoder)|target_(?:network|encoder)", Writer("BYOL", _TORCH, _SSL_TORCH, projection=True)),
    (r"_feature_blocks\.", Writer("VISSL", _TORCH, _imagenet("VISSL trains"), projection=True)),
    (r"(?:^|\.)bn\.running_mean$", _BARLOW),
    (
        r"projector\.|projection\.|projection_|contrastive_head|convnet\.",
        Writer(
            "SimCLR, VICReg or another self-supervised training with a projector",
            None,
            f"{_UNKNOWN}: some of these take ImageNet's mean and standard deviation, SimCLR none",
            projection=True,
        ),
    ),
)
_SIGN_PATTERNS = tuple((re.compile(pattern, re.MULTILINE | re.DOTALL), writer) for pattern, writer in _SIGNS)


def writer_of(reading: Reading, *, classes: int | None) -> Writer:
    """Who wrote a file in which a ResNet was found.

    Args:
        reading: what was found.
        classes: units of what looks like its classifier.
    """
    dialect = reading.dialect.name
    if dialect == "Keras":
        return KERAS
    if dialect == "Hugging Face":
        return HUGGING_FACE if classes is not None else HUGGING_FACE_BARE
    if dialect == "detectron2":
        return _DETECTRON2
    beside = _beside(reading)
    for pattern, writer in _SIGN_PATTERNS:
        if pattern.search(beside) and (writer is not _BARLOW or _BARLOW_TOO.search(beside)):
            return writer
    if dialect == "Sequential":
        return _SEQUENTIAL
    return _PLAIN if classes == 1000 else _PLAIN_OWN


def _beside(reading: Reading) -> str:
    stem: Iterable[str] = (name for name, place in reading.places.items() if place == "conv1_conv/kernel")
    return "\n".join([reading.prefix, *reading.others, *stem, *reading.outside])
