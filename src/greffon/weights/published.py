"""The weight sets that are published under a clear licence, or come with Greffon: addresses, hashes, accuracies.

No hash and no size is guessed: each is one that its publisher shows, or None. The first fetch of a file without a hash
pins the SHA-256 of what came.
"""

from __future__ import annotations

from typing import NamedTuple

from greffon.weights.records import PREPROCESSINGS, Accuracy, WeightFile, WeightSet

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_TORCH = "https://download.pytorch.org/models/"
_HUB = "https://huggingface.co/{repository}/resolve/main/model.safetensors"
_KERAS_TABLE = "https://keras.io/api/applications/"
_TIMM_TABLE = "results/results-imagenet.csv of huggingface/pytorch-image-models"


class _Keras(NamedTuple):
    """Hashes as in keras/src/applications/resnet.py; sizes are the content lengths that its downloader shows."""

    name: str
    depth: int
    md5: str
    md5_with_top: str
    top1: float
    sizes: tuple[int | None, int | None] = (None, None)


class _Torchvision(NamedTuple):
    """The eight hex digits in a file's name are the beginning of its SHA-256, which torch.hub checks."""

    name: str
    depth: int
    weights: str
    digits: str
    top1: float
    crop: float


class _Timm(NamedTuple):
    """SHA-256 as the hub's page of the file shows it; accuracies from timm's own table."""

    recipe: str
    depth: int
    top1: float
    size: int
    crop: float
    sha256: str | None = None


_KERAS_SETS = (
    _Keras(
        "imagenet",
        50,
        "4d473c1dd8becc155b73f8504c6f6626",
        "2cb95161c43110f7111970584f804107",
        74.9,
        (94_765_736, 102_967_424),
    ),
    _Keras("imagenet-101", 101, "88cf7a10940856eca736dc7b7e228a21", "f1aeb4b969a6efcfb50fad2f0c20cfc5", 76.4),
    _Keras("imagenet-152", 152, "ee4c566cf9a93f14d82f913c2dc6dd0c", "100835be76be38e30d865e96f2aaae62", 76.6),
)

_TORCHVISION_SETS = (
    _Torchvision("torchvision-v1", 50, "IMAGENET1K_V1", "0676ba61", 76.130, 224 / 256),
    _Torchvision("torchvision-v2", 50, "IMAGENET1K_V2", "11ad3fa6", 80.858, 224 / 232),
    _Torchvision("torchvision-v1-101", 101, "IMAGENET1K_V1", "63fe2227", 77.374, 224 / 256),
    _Torchvision("torchvision-v2-101", 101, "IMAGENET1K_V2", "cd907fc2", 81.886, 224 / 232),
    _Torchvision("torchvision-v1-152", 152, "IMAGENET1K_V1", "394f9c45", 78.312, 224 / 256),
    _Torchvision("torchvision-v2-152", 152, "IMAGENET1K_V2", "f82ba261", 82.284, 224 / 232),
)

# Only the plain ResNets of timm: no ResNet-D, no Gluon variants with other stems, and no weights whose licence
# forbids commercial use (fb_ssl, fb_swsl).
_TIMM_SETS = (
    _Timm("a1", 50, 81.214, 288, 1.0, "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb"),
    _Timm("a1h", 50, 80.676, 224, 1.0),
    _Timm("a2", 50, 80.772, 288, 1.0, "f531f9aca4dde1b89e9a465c5b9e3b916a2d1b20a216acf3b9473d1e1212ecf6"),
    _Timm("a3", 50, 78.048, 224, 0.95),
    _Timm("b1k", 50, 80.706, 288, 1.0, "cd64707e0ef72aa0526ac6d46fba6495ad2088717adb47a62a0b526eb3cd3480"),
    _Timm("b2k", 50, 80.454, 288, 1.0, "0c89502f61808f6fac8c7044eb59c072877c171529fc001bc85403982115232c"),
    _Timm("c1", 50, 80.912, 288, 1.0),
    _Timm("c2", 50, 80.870, 288, 1.0),
    _Timm("d", 50, 80.972, 288, 1.0, "d8ed291891c8ee5777f68136665a4eee2f9ddeb2a9bc88acf4b1676b3bbebf55"),
    _Timm("ra", 50, 79.836, 288, 0.95, "c49195c94e4fe19545a332e706f998d836f63b5d9892cc54526df3ee9b92ba18"),
    _Timm("ram", 50, 79.976, 288, 0.95),
    _Timm("bt", 50, 79.640, 288, 0.95),
    _Timm("a1", 101, 82.322, 288, 1.0, "1ba5b660e7c175b3c27c557fc7dc8b2815be830c516815b0155f61b403f27380"),
    _Timm("a1h", 101, 82.778, 288, 1.0, "1a076c0384295e7d3704f201c5711ff245507db934230bab72ff3014a95f90fe"),
    _Timm("a2", 101, 82.236, 288, 1.0, "d44a7f2e7eaea0bee834ea5e7fd691d239057014628df0bd194c312773b92c83"),
    _Timm("a3", 101, 79.814, 224, 0.95, "846baf57eaff38823a70bf63fe58052d2d6b93bd25d3b89c4d31f6909babba0b"),
    _Timm("a1", 152, 82.732, 288, 1.0),
    _Timm("a1h", 152, 83.450, 288, 1.0),
    _Timm("a2", 152, 82.608, 288, 1.0),
    _Timm("a3", 152, 80.546, 224, 0.95),
)


def _keras(row: _Keras) -> WeightSet:
    stem = f"resnet{row.depth}_weights_tf_dim_ordering_tf_kernels"
    return WeightSet(
        name=row.name,
        variant="v1",
        files=(
            WeightFile(f"{stem}_notop.h5", f"{_KERAS}{stem}_notop.h5", row.sizes[0], row.md5, None, include_top=False),
            WeightFile(f"{stem}.h5", f"{_KERAS}{stem}.h5", row.sizes[1], row.md5_with_top, None, include_top=True),
        ),
        licence="MIT",
        source=f"keras.applications.ResNet{row.depth}: ported from Kaiming He's Caffe release, ImageNet-1k",
        classes=1000,
        preprocessing=PREPROCESSINGS["caffe"],
        depth=row.depth,
        accuracy=Accuracy(row.top1, 224, _KERAS_TABLE),
        format="Keras legacy .h5",
    )


def _torchvision(row: _Torchvision) -> WeightSet:
    name = f"resnet{row.depth}-{row.digits}.pth"
    file = WeightFile(name, _TORCH + name, None, None, None, include_top=True, sha256_prefix=row.digits)
    page = f"https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet{row.depth}.html"
    return WeightSet(
        name=row.name,
        variant="v1.5",
        files=(file,),
        licence="BSD-3-Clause",
        source=f"torchvision ResNet{row.depth}_Weights.{row.weights}, ImageNet-1k",
        classes=1000,
        preprocessing=PREPROCESSINGS["torch"],
        depth=row.depth,
        accuracy=Accuracy(row.top1, 224, page, row.crop, "bilinear"),
        format="PyTorch .pth",
    )


def _timm(row: _Timm) -> WeightSet:
    model = f"resnet{row.depth}.{row.recipe}_in1k"
    return WeightSet(
        name=f"timm-{row.recipe}" + (f"-{row.depth}" if row.depth != 50 else ""),
        variant="v1.5",
        files=(_on_hub(f"timm/{model}", row.sha256),),
        licence="Apache-2.0",
        source=f"timm {model} on the Hugging Face hub, ImageNet-1k",
        classes=1000,
        preprocessing=PREPROCESSINGS["torch"],
        depth=row.depth,
        accuracy=Accuracy(row.top1, row.size, _TIMM_TABLE, row.crop, "bicubic"),
        format="safetensors, torchvision's names",
        licence_file="apache-2.0.txt",
    )


def _on_hub(repository: str, sha256: str | None) -> WeightFile:
    filename = repository.replace("/", "_") + ".safetensors"
    return WeightFile(filename, _HUB.format(repository=repository), None, None, sha256, include_top=True)


_THIN = WeightSet(
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
    format="safetensors, Keras' names",
    licence_file="open_nsfw.txt",
)

_NONE = WeightSet(
    name="none",
    variant="v1",
    files=(),
    licence="none needed",
    source="random initial weights",
    classes=None,
    preprocessing=PREPROCESSINGS["caffe"],
)

_MICROSOFT = WeightSet(
    name="microsoft",
    variant="v1.5",
    files=(_on_hub("microsoft/resnet-50", "9c6061af1f450bb0847e529fd742aa5066017be379c71bbf5546b198e5b13a1e"),),
    licence="Apache-2.0",
    source="microsoft/resnet-50 on the Hugging Face hub, ImageNet-1k",
    classes=1000,
    preprocessing=PREPROCESSINGS["torch"],
    format="safetensors, Hugging Face's names",
    licence_file="apache-2.0.txt",
)

WEIGHT_SETS: dict[str, WeightSet] = {
    record.name: record
    for record in (
        _keras(_KERAS_SETS[0]),
        _THIN,
        _NONE,
        *map(_torchvision, _TORCHVISION_SETS),
        *map(_timm, _TIMM_SETS),
        _MICROSOFT,
        *map(_keras, _KERAS_SETS[1:]),
    )
}
"""Every published weight set, by name."""
