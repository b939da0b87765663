"""Layers that move, repeat or cut out numbers, and those that do nothing outside training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greffon.frozen.emit.builder import Value
from greffon.frozen.emit.registry import Converters, unsupported

if TYPE_CHECKING:
    from greffon.frozen.emit.builder import Builder, Shape
    from greffon.frozen.emit.plan import Step

converts = Converters()

# Layers that act in training only. Their inference is the identity; so is `Identity` always.
TRAINING_ONLY = (
    "layers.ActivityRegularization",
    "layers.AlphaDropout",
    "layers.Dropout",
    "layers.GaussianDropout",
    "layers.GaussianNoise",
    "layers.RandomBrightness",
    "layers.RandomContrast",
    "layers.RandomFlip",
    "layers.RandomRotation",
    "layers.RandomTranslation",
    "layers.RandomZoom",
    "layers.SpatialDropout1D",
    "layers.SpatialDropout2D",
    "layers.SpatialDropout3D",
)


@converts("layers.Identity", *TRAINING_ONLY)
def identity(build: Builder, step: Step) -> Value:
    """The input itself."""
    return build.value(step.inputs[0])


@converts("even.EvenPositions")
def even_positions(build: Builder, step: Step) -> Value:
    """Every second row and column: a pool of single values does no more."""
    value = build.value(step.inputs[0], first=True)
    name = build.node("MaxPool", value.name, kernel_shape=(1, 1), strides=(2, 2))
    return Value(name, build.shape(step.output), first=True)


@converts("layers.Flatten")
def flatten(build: Builder, step: Step) -> Value:
    """In Keras' order: channels change fastest."""
    value, shape = build.value(step.inputs[0]), build.shape(step.output)
    if value.rank == 2:
        return value
    return _reshape(build, value, shape)


@converts("layers.Reshape")
def reshape(build: Builder, step: Step) -> Value:
    """Any shape with at most one unknown size."""
    value, shape = build.value(step.inputs[0]), build.shape(step.output)
    if shape[1:].count(None) > 1:
        raise unsupported(step, "reshapes to more than one unknown size")
    return value if shape == value.shape and None not in shape[1:] else _reshape(build, value, shape)


@converts("layers.Permute")
def permute(build: Builder, step: Step) -> Value:
    """One Transpose, from the layout that the input has to the layout that pictures have inside."""
    value, shape = build.value(step.inputs[0]), build.shape(step.output)
    axes, first = (0, *step.layer.dims), len(shape) == 4
    result = Value("", shape, first=first)
    order = [0] * len(shape)
    for place, axis in enumerate(axes):
        order[result.axis(place)] = value.axis(axis)
    return Value(build.node("Transpose", value.name, perm=order), shape, first=first)


@converts("layers.ZeroPadding2D")
def zero_padding2d(build: Builder, step: Step) -> Value:
    """Zeros around a picture, where no layer behind it could take them over."""
    value = build.value(step.inputs[0], first=True)
    (top, bottom), (left, right) = step.layer.padding
    pads = build.numbers((0, 0, top, left, 0, 0, bottom, right))
    return Value(build.node("Pad", value.name, pads), build.shape(step.output), first=True)


@converts("layers.Cropping2D")
def cropping2d(build: Builder, step: Step) -> Value:
    """A Slice of height and width."""
    value = build.value(step.inputs[0], first=True)
    starts = [before for before, _ in step.layer.cropping]
    ends = [-after if after else 2**31 - 1 for _, after in step.layer.cropping]
    name = build.node("Slice", value.name, *(build.numbers(part) for part in (starts, ends, (2, 3))))
    return Value(name, build.shape(step.output), first=True)


@converts("layers.UpSampling2D")
def up_sampling2d(build: Builder, step: Step) -> Value:
    """Repeat each pixel, or interpolate between pixel centres."""
    layer, value = step.layer, build.value(step.inputs[0], first=True)
    modes = {
        "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    }
    if layer.interpolation not in modes:
        raise unsupported(step, f"interpolates by {layer.interpolation!r}, which is not known")
    scales = build.constant((1.0, 1.0, *layer.size))
    name = build.node("Resize", value.name, "", scales, **modes[layer.interpolation])
    return Value(name, build.shape(step.output), first=True)


def _reshape(build: Builder, value: Value, shape: Shape) -> Value:
    """Reshape in Keras' order; where height and width are one, the order of the channels is the same in both."""
    if value.shape[1:3] != (1, 1) or value.rank != 4:
        value = build.turn(value, first=False)
    if len(shape) == 4 and shape[1:3] == (1, 1):
        sizes = (0, -1 if shape[3] is None else shape[3], 1, 1)
        return build.reshape(value, shape, sizes, first=True)
    return build.reshape(value, shape, [0, *(-1 if size is None else size for size in shape[1:])])
