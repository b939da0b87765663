"""Convolutions, Dense and pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.frozen.emit.activation import activate
from greffon.frozen.emit.builder import Value
from greffon.frozen.emit.norm import scale_and_shift
from greffon.frozen.emit.plan import NO_PADS
from greffon.frozen.emit.registry import Converters, unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from greffon.frozen.emit.builder import Builder
    from greffon.frozen.emit.plan import Step

    Array = npt.NDArray[Any]
    Pair = tuple[int, int]

converts = Converters()

_ONES = (1, 1)


@converts("layers.Conv2D")
def conv2d(build: Builder, step: Step) -> Value:
    """One Conv, its kernel turned from (height, width, in, out) to (out, in, height, width)."""
    layer = step.layer
    kernel = _weight(build, step, "kernel", lambda: _numpy(layer.kernel).transpose(3, 2, 0, 1), axis=0)
    value = _convolve(build, step, build.value(step.inputs[0], first=True), kernel, groups=layer.groups)
    return activate(build, step, value, layer.activation)


@converts("layers.DepthwiseConv2D")
def depthwise_conv2d(build: Builder, step: Step) -> Value:
    """One Conv with as many groups as channels."""
    layer, value = step.layer, build.value(step.inputs[0], first=True)
    kernel = _weight(build, step, "kernel", lambda: _depthwise(_numpy(layer.kernel)), axis=0)
    value = _convolve(build, step, value, kernel, groups=int(layer.kernel.shape[2]))
    return activate(build, step, value, layer.activation)


@converts("layers.SeparableConv2D")
def separable_conv2d(build: Builder, step: Step) -> Value:
    """A Conv per channel, without bias, then a 1x1 Conv."""
    layer, value = step.layer, build.value(step.inputs[0], first=True)
    spatial = build.weight((id(layer), "depthwise"), lambda: _depthwise(_numpy(layer.depthwise_kernel)))
    value = _convolve(build, step, value, [spatial], groups=int(layer.depthwise_kernel.shape[2]))
    pointwise = _weight(build, step, "pointwise", lambda: _numpy(layer.pointwise_kernel).transpose(3, 2, 0, 1), axis=0)
    name = build.node("Conv", value.name, *pointwise, kernel_shape=_ONES)
    return activate(build, step, _same_but_channels(build, step, name), layer.activation)


@converts("layers.Dense")
def dense(build: Builder, step: Step) -> Value:
    """Gemm on features, a 1x1 Conv on pictures, MatMul on anything else."""
    layer, value = step.layer, build.value(step.inputs[0])
    shape = (*value.shape[:-1], layer.units)
    if value.first:
        weights = _weight(build, step, "conv", lambda: _numpy(layer.kernel).T[:, :, None, None], axis=0)
        value = Value(build.node("Conv", value.name, *weights, kernel_shape=_ONES), shape, first=True)
        return activate(build, step, value, layer.activation)
    kernel, *bias = _weight(build, step, "kernel", lambda: _numpy(layer.kernel), axis=1)
    if value.rank == 2:
        name = build.node("Gemm", value.name, kernel, *bias)
    else:
        name = build.node("MatMul", value.name, kernel)
        name = build.node("Add", name, *bias) if bias else name
    return activate(build, step, Value(name, shape), layer.activation)


@converts("layers.MaxPooling2D")
def max_pooling2d(build: Builder, step: Step) -> Value:
    """MaxPool; what `same` pads never wins, zeros of a ZeroPadding2D may."""
    padded = build.value(step.inputs[0], first=True)
    if any(node.op_type == "Pad" and padded.name in node.output for node in build.nodes):
        # ONNX Runtime before 1.32 would let MaxPool do the padding, where zeros never win.
        build.keep(step.inputs[0], build.apply("Max", padded))
    return _pool(build, step, "MaxPool")


@converts("layers.AveragePooling2D")
def average_pooling2d(build: Builder, step: Step) -> Value:
    """AveragePool; zeros of a ZeroPadding2D count, those of `same` do not."""
    return _pool(build, step, "AveragePool", count_include_pad=int(step.pads != NO_PADS))


@converts("layers.GlobalAveragePooling2D")
def global_average_pooling2d(build: Builder, step: Step) -> Value:
    """The mean over height and width."""
    return _pool_all(build, step, "GlobalAveragePool")


@converts("layers.GlobalMaxPooling2D")
def global_max_pooling2d(build: Builder, step: Step) -> Value:
    """The largest value over height and width."""
    return _pool_all(build, step, "GlobalMaxPool")


# --- weights -------------------------------------------------------------------------------------------------------


def _numpy(tensor: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _depthwise(kernel: Array) -> Array:
    """From (height, width, in, multiplier) to (in * multiplier, 1, height, width)."""
    height, width, channels, multiplier = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)


def _weight(build: Builder, step: Step, role: str, kernel: Any, *, axis: int) -> list[str]:
    """The names of kernel and bias, if any, with the BatchNormalization behind them folded in.

    Args:
        build: where they go.
        step: the layer, with its `norm`.
        role: tells the layer's kernels apart.
        kernel: gives the kernel as ONNX wants it.
        axis: the kernel's axis of output channels.
    """
    layer, norm = step.layer, step.norm
    key = (id(layer), id(norm), role)
    if norm is None:
        names = [build.weight(key, kernel)]
        return [*names, build.weight((*key, "bias"), lambda: _numpy(layer.bias))] if layer.use_bias else names
    scale, shift = scale_and_shift(norm)

    def folded_kernel() -> Array:
        plain = kernel()
        return plain * scale.reshape([-1 if place == axis else 1 for place in range(plain.ndim)])

    def folded_bias() -> Array:
        return shift + (_numpy(layer.bias) * scale if layer.use_bias else 0)

    return [build.weight(key, folded_kernel), build.weight((*key, "bias"), folded_bias)]


# --- windows -------------------------------------------------------------------------------------------------------


def _convolve(build: Builder, step: Step, value: Value, weights: list[str], *, groups: int) -> Value:
    """Every convolution over a window goes through here."""
    layer = step.layer
    window = _window(step, value, layer.kernel_size, layer.strides, layer.dilation_rate)
    window |= {"group": groups, "dilations": tuple(layer.dilation_rate)}
    name = build.node("Conv", value.name, *weights, **window)
    return _same_but_channels(build, step, name)


def _same_but_channels(build: Builder, step: Step, name: str) -> Value:
    return Value(name, build.shape(step.output), first=True)


def _pool(build: Builder, step: Step, kind: str, **attributes: Any) -> Value:
    value = build.value(step.inputs[0], first=True)
    window = _window(step, value, step.layer.pool_size, step.layer.strides, _ONES)
    return Value(build.node(kind, value.name, **window, **attributes), build.shape(step.output), first=True)


def _pool_all(build: Builder, step: Step, kind: str) -> Value:
    """Channels first always: a mean over the last axes is summed in the same order whatever the batch size is."""
    value = build.value(step.inputs[0], first=True)
    pooled = Value(build.node(kind, value.name), (value.shape[0], 1, 1, value.shape[3]), first=True)
    return pooled if step.layer.keepdims else Value(build.node("Flatten", pooled.name), build.shape(step.output))


def _window(step: Step, value: Value, size: Pair, strides: Pair, dilation: Pair) -> dict[str, Any]:
    """ONNX' attributes for a sliding window; what `same` pads is worked out where the size of the picture is known."""
    window: dict[str, Any] = {"kernel_shape": tuple(size), "strides": tuple(strides)}
    pads: Sequence[Pair] = step.pads
    if step.layer.padding == "same":
        reach = [(side - 1) * gap + 1 for side, gap in zip(size, dilation, strict=True)]
        totals = [_same_padding(*axis) for axis in zip(value.shape[1:3], reach, strides, strict=True)]
        if None in totals:
            if any(stride > side for stride, side in zip(strides, reach, strict=True)):
                raise unsupported(step, "pads a picture of unknown size for windows that lie apart")
            return {**window, "auto_pad": "SAME_UPPER"}
        pads = [(total // 2, total - total // 2) for total in totals if total is not None]
    (top, bottom), (left, right) = pads
    return {**window, "pads": (top, left, bottom, right)}


def _same_padding(length: int | None, reach: int, stride: int) -> int | None:
    """Zeros that `same` adds to an axis of this length; None where they depend on an unknown length."""
    if stride == 1 or reach == 1:
        return reach - 1
    if length is None:
        return None
    return max((-(-length // stride) - 1) * stride + reach - length, 0)
