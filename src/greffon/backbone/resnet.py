"""The graph called ResNet-50, in its three variants, at any depth.

One builder gives a flat Functional model. The variants differ in five places, all in `_VARIANTS`; everything
else, layer names and their order included, is that of `keras.applications.ResNet50`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from greffon.errors import InputError
from greffon.recipe import nearest
from greffon.say import say
from greffon.weights.sets import Variant, check_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import keras

Pooling = Literal["avg", "max"]
Side = int | None
BLOCKS: dict[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Bottleneck blocks per stage, by the number that the network is called after."""

_SMALLEST_SIDE = 32


@dataclass(frozen=True)
class _Traits:
    """Where the networks called ResNet-50 differ.

    Attributes:
        width: filters of the first stage's bottleneck; every later stage has twice as many.
        stride_in_3x3: a stage halves the picture in its 3x3 convolution instead of its first 1x1.
        bias: whether convolutions have one.
        epsilon: of BatchNorm.
        pool_padding: zero rows and columns around the stem's pooling: ((top, bottom), (left, right)).
    """

    width: int
    stride_in_3x3: bool
    bias: bool
    epsilon: float
    pool_padding: tuple[tuple[int, int], tuple[int, int]]


_V1 = _Traits(width=64, stride_in_3x3=False, bias=True, epsilon=1.001e-5, pool_padding=((1, 1), (1, 1)))
_VARIANTS: dict[Variant, _Traits] = {
    "v1": _V1,
    "v1.5": replace(_V1, stride_in_3x3=True, bias=False, epsilon=1e-5),
    "thin": replace(_V1, width=32, pool_padding=((0, 1), (0, 1))),
}


def resnet50(
    weights: str | Path | None = "imagenet",
    *,
    variant: str | None = None,
    include_top: bool = False,
    input_shape: tuple[Side, Side, int] = (224, 224, 3),
    pooling: Pooling | None = None,
    classes: int = 1000,
    name: str | None = None,
    allow_missing: Sequence[str] = (),
) -> keras.Model:
    """A ResNet-50 with weights, as bare as `keras.applications.ResNet50`: no preprocessing, no new head.

    Args:
        weights: a weight set's name (`imagenet`, `thin`, `none`, ...), a weight file, or None for random weights.
            `imagenet` is downloaded if it is not cached. Files are those of Keras, PyTorch, TensorFlow, safetensors,
            ONNX or npz; what the file is and what of it fits is printed before it is loaded.
        variant: `v1`, `v1.5` or `thin`; None: what the weights were made for.
        include_top: with the classifier of `classes` units.
        input_shape: height, width and channels of the pictures. Height and width may be None where
            `include_top` is False.
        pooling: without the classifier, what follows the last block: None, "avg" or "max".
        classes: units of the classifier.
        name: of the model.
        allow_missing: names, or globs such as `conv5_block3_*`, of layers or tensors that the weight file may
            lack; they keep their random values.

    Returns:
        A flat Functional model: float32 pictures (n, height, width, channels), prepared as the weights want it,
        to features (n, height / 32, width / 32, 2048; 1024 for `thin`), to (n, features) with `pooling`, or to
        class probabilities (n, classes). `model.greffon_weights` is the record of its weights.

    Raises:
        InputError: an argument is out of range, or the weights cannot be had.
        WeightFileError: the file cannot be read or does not fit; the message lists everything that differs.

    Example:
        >>> import greffon
        >>> backbone = greffon.resnet50(weights="thin")
        >>> backbone.output_shape
        (None, 7, 7, 1024)
    """
    return build_resnet(
        50,
        weights,
        variant=variant,
        include_top=include_top,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        name=name,
        allow_missing=allow_missing,
    )


def build_resnet(
    depth: int,
    weights: str | Path | None = None,
    *,
    variant: str | None = None,
    include_top: bool = False,
    classes: int = 1000,
    allow_missing: Sequence[str] = (),
    tell: Callable[[str], None] = say,
    **options: Any,
) -> keras.Model:
    """`resnet50` at any of the usual depths; `tell` is given what a weight file is and what of it fits."""
    from greffon.weights.restore import find_weights

    found = find_weights(weights, depth=depth, variant=variant, include_top=include_top, classes=classes)
    model = resnet(BLOCKS[depth], found.variant, include_top=include_top, classes=classes, **options)
    model.greffon_weights = found.restore(model, allow_missing=allow_missing, tell=tell, undo=False)
    return model


resnet101 = partial(build_resnet, 101)
"""`resnet50` at 101 layers, with random weights unless a file is given; takes the same arguments."""
resnet152 = partial(build_resnet, 152)
"""`resnet50` at 152 layers, with random weights unless a file is given; takes the same arguments."""


def resnet(
    blocks: Sequence[int] = BLOCKS[50],
    variant: str = "v1",
    *,
    include_top: bool = False,
    input_shape: tuple[Side, Side, int] = (224, 224, 3),
    pooling: Pooling | None = None,
    classes: int = 1000,
    name: str | None = None,
) -> keras.Model:
    """A bottleneck ResNet of any depth with random weights.

    Args:
        blocks: bottleneck blocks of conv2, conv3, ...; one number per stage.
        variant: `v1`, `v1.5` or `thin`.
        include_top: with the classifier of `classes` units.
        input_shape: height, width and channels; height and width may be None without the classifier.
        pooling: without the classifier, what follows the last block: None, "avg" or "max".
        classes: units of the classifier.
        name: of the model; None: `resnet50`, or `resnet` at other depths.

    Returns:
        A flat Functional model; see `resnet50`.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> from greffon.backbone.resnet import resnet
        >>> resnet((1, 1, 1, 1), "thin", input_shape=(64, 64, 3), pooling="avg").output_shape
        (None, 1024)
    """
    from keras import Model, layers

    traits = _VARIANTS[check_variant(variant)]
    blocks = _checked_blocks(blocks)
    _check_output(include_top=include_top, pooling=pooling, classes=classes)
    pictures = layers.Input(shape=_checked_input_shape(input_shape, include_top=include_top))
    x = _stem(pictures, traits)
    for stage, count in enumerate(blocks):
        x = _stage(x, traits, stage, count)
    if include_top:
        x = layers.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool")(x)
        x = layers.Dense(classes, activation="softmax", name="predictions")(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(data_format="channels_last", name="max_pool")(x)
    return Model(pictures, x, name=name or _usual_name(blocks))


def _stem(pictures: Any, traits: _Traits) -> Any:
    from keras import layers

    x = _pad(pictures, ((3, 3), (3, 3)), "conv1_pad")
    x = layers.Conv2D(64, 7, strides=2, use_bias=traits.bias, data_format="channels_last", name="conv1_conv")(x)
    x = _norm(x, traits, "conv1_bn")
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = _pad(x, traits.pool_padding, "pool1_pad")
    return layers.MaxPooling2D(3, strides=2, data_format="channels_last", name="pool1_pool")(x)


def _stage(x: Any, traits: _Traits, stage: int, count: int) -> Any:
    filters = traits.width * 2**stage
    for number in range(1, count + 1):
        first = number == 1
        x = _block(
            x,
            traits,
            filters,
            stride=2 if first and stage > 0 else 1,
            projected=first,
            name=f"conv{stage + 2}_block{number}",
        )
    return x


def _block(x: Any, traits: _Traits, filters: int, *, stride: int, projected: bool, name: str) -> Any:
    """One bottleneck: 1x1, 3x3, 1x1 and the shortcut, in the order in which Keras creates them."""
    from keras import layers

    shortcut = x
    if projected:
        shortcut = _conv(x, traits, 4 * filters, 1, stride=stride, name=f"{name}_0")
    in_1x1, in_3x3 = (1, stride) if traits.stride_in_3x3 else (stride, 1)
    x = _conv(x, traits, filters, 1, stride=in_1x1, name=f"{name}_1")
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    x = _conv(x, traits, filters, 3, stride=in_3x3, name=f"{name}_2")
    x = layers.Activation("relu", name=f"{name}_2_relu")(x)
    x = _conv(x, traits, 4 * filters, 1, stride=1, name=f"{name}_3")
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _conv(x: Any, traits: _Traits, filters: int, kernel: int, *, stride: int, name: str) -> Any:
    from keras import layers

    padding = "same" if kernel > 1 else "valid"
    if kernel > 1 and stride > 1:
        # "same" would pad a picture of even side at the bottom and right only; these weights were trained with
        # one row and column on every side.
        x = _pad(x, ((1, 1), (1, 1)), f"{name}_pad")
        padding = "valid"
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=traits.bias,
        data_format="channels_last",
        name=f"{name}_conv",
    )(x)
    return _norm(x, traits, f"{name}_bn")


def _norm(x: Any, traits: _Traits, name: str) -> Any:
    from keras import layers

    return layers.BatchNormalization(axis=3, epsilon=traits.epsilon, name=name)(x)


def _pad(x: Any, padding: tuple[tuple[int, int], tuple[int, int]], name: str) -> Any:
    from keras import layers

    return layers.ZeroPadding2D(padding=padding, data_format="channels_last", name=name)(x)


def _usual_name(blocks: tuple[int, ...]) -> str:
    for depth, usual in BLOCKS.items():
        if usual == blocks:
            return f"resnet{depth}"
    return "resnet"


def _checked_blocks(blocks: Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(blocks)
    if not numbers or any(not isinstance(count, int) or count < 1 for count in numbers):
        raise InputError(
            f"blocks must be one whole number of at least 1 per stage, such as (3, 4, 6, 3), got {blocks!r}"
        )
    return numbers


def _checked_input_shape(shape: tuple[Side, Side, int], *, include_top: bool) -> tuple[Side, Side, int]:
    usual = "such as (224, 224, 3)"
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise InputError(f"input_shape must be (height, width, channels), {usual}, got {shape!r}")
    height, width, channels = shape
    for side in (height, width):
        if side is None and include_top:
            raise InputError(
                f"input_shape must have a height and a width where include_top is True, {usual}, got {shape!r}"
            )
        if side is not None and (not isinstance(side, int) or side < _SMALLEST_SIDE):
            raise InputError(
                f"height and width in input_shape must be at least {_SMALLEST_SIDE} pixels, or None, got {shape!r}"
            )
    if not isinstance(channels, int) or channels < 1:
        raise InputError(f"channels, the last number in input_shape, must be at least 1, {usual}, got {shape!r}")
    return height, width, channels


def _check_output(*, include_top: bool, pooling: str | None, classes: int) -> None:
    if pooling not in {None, "avg", "max"}:
        raise InputError(
            f"pooling must be None, 'avg' or 'max', got {pooling!r}{nearest(str(pooling), ('avg', 'max'))}"
        )
    if include_top and pooling is not None:
        raise InputError(f"pooling={pooling!r} needs include_top=False: the classifier has its own average pooling")
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"classes must be a whole number of at least 1, got {classes!r}")
