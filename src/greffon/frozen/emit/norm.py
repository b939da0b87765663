"""BatchNormalization, Normalization and Rescaling: a factor and a summand per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.frozen.emit.registry import Converters, unsupported

if TYPE_CHECKING:
    import numpy.typing as npt

    from greffon.frozen.emit.builder import Builder, Value
    from greffon.frozen.emit.plan import Step

    Array = npt.NDArray[np.float64]

converts = Converters()


def scale_and_shift(norm: Any) -> tuple[Array, Array]:
    """What a BatchNormalization with stored statistics multiplies by and then adds, in double precision."""
    scale = 1 / np.sqrt(_numpy(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * _numpy(norm.gamma)
    shift = -_numpy(norm.moving_mean) * scale
    return scale, shift + _numpy(norm.beta) if norm.center else shift


@converts("layers.BatchNormalization")
def batch_normalization(build: Builder, step: Step) -> Value:
    """The operator of the same name on pictures, which ONNX Runtime keeps in its own layout; else Mul and Add."""
    norm, value = step.layer, build.value(step.inputs[0])
    axis = norm.axis % value.rank
    scale, shift = scale_and_shift(norm)
    if value.rank == 4 and axis == 3:
        value = build.turn(value, first=True)
        channels = scale.shape
        parts = (scale, shift, np.zeros(channels), np.ones(channels))
        return build.apply("BatchNormalization", value, *(build.constant(part) for part in parts), epsilon=0.0)
    shape = [-1 if place == axis else 1 for place in range(value.rank)]
    return affine(build, value, scale.reshape(shape), shift.reshape(shape))


@converts("layers.Normalization")
def normalization(build: Builder, step: Step) -> Value:
    """Subtract the mean, divide by the standard deviation; or the other way round."""
    layer, value = step.layer, build.value(step.inputs[0])
    if layer.mean is None:
        raise unsupported(step, "has not been built")
    mean, deviation = _numpy(layer.mean), np.maximum(np.sqrt(_numpy(layer.variance)), keras.backend.epsilon())
    if layer.invert:
        return affine(build, value, deviation, mean)
    # Not as one factor and summand: of two large numbers with a small difference, the difference comes first.
    return affine(build, affine(build, value, None, -mean), 1 / deviation, None)


@converts("layers.Rescaling")
def rescaling(build: Builder, step: Step) -> Value:
    """Multiply, then add; numbers or one per channel."""
    layer = step.layer
    scale, offset = (np.asarray(part, np.float64) for part in (layer.scale, layer.offset))
    return affine(build, build.value(step.inputs[0]), scale, offset)


def affine(build: Builder, value: Value, scale: Array | None, shift: Array | None) -> Value:
    """Multiply and add constants that broadcast in Keras' order; what changes nothing is left out."""
    if scale is not None and np.any(np.float32(scale) != 1):
        value = build.apply("Mul", value, build.constant(value.stored(scale)))
    if shift is not None and np.any(np.float32(shift) != 0):
        value = build.apply("Add", value, build.constant(value.stored(shift)))
    return value


def _numpy(tensor: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64)
