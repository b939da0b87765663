"""Pictures sent through a network layer by layer, with an eye on what reaches every BatchNorm.

Nothing is traced and no layer is called in training mode, so the network stays as it is; its inputs may be smaller
than the size that it was built for.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras

    from greffon.weights.sets import Preprocessing

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Moments(NamedTuple):
    """Mean and variance per channel."""

    mean: Floats
    variance: Floats


@dataclass
class Passage:
    """What was seen while pictures went through a network.

    Attributes:
        norms: per BatchNorm what reached it.
        arriving: per 1x1 convolution that begins a block, the mean per channel of what reached it.
        dead: share of channels that were nowhere above 0, per ReLU at the end of a block, 0..1.
        largest: largest value behind those; infinite or NaN where one value was.
        features: of the last layer with height and width, averaged over these: (n, channels).
        top: what the network gives in the end, where that has no height and width and could be computed.
    """

    norms: dict[str, Moments] = field(default_factory=dict)
    arriving: dict[str, Floats] = field(default_factory=dict)
    dead: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    features: Floats | None = None
    top: Floats | None = None


def prepared(pictures: Any, preprocessing: Preprocessing, *, channels: int = 3) -> Floats:
    """RGB pictures of 0..255 as a network with that preprocessing takes them.

    Args:
        pictures: uint8 (n, height, width, 3).
        preprocessing: the record.
        channels: of the network; if not 3, it gets the mean of the three in every one.

    Returns:
        float32 (n, height, width, channels).
    """
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    values = (pictures.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std
    if channels != 3:
        return np.repeat(values.mean(axis=-1, keepdims=True, dtype=np.float32), channels, axis=-1)
    return np.ascontiguousarray(values[..., ::-1]) if preprocessing.channel_order == "BGR" else values


def channels_of(model: keras.Model) -> int:
    """How many channels the pictures of a network have.

    Raises:
        InputError: it is no network from one picture (height, width, channels) to something.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or not isinstance(shape[-1], int):
        raise InputError(f"a check-up needs a network that takes (height, width, channels), got input shape {shape}")
    return shape[-1]


def send(model: keras.Model, pictures: Floats, *, renewed: bool = False, norms: int | None = None) -> Passage:
    """Send prepared pictures through a flat Functional network.

    Args:
        model: the network, channels last.
        pictures: float32 (n, height, width, channels), prepared.
        renewed: BatchNorm normalises with the mean and variance of what reaches it in place of the stored ones. Then
            what every layer gets depends little on the pictures' kind and on what went wrong in front of it. Layers
            are then looked at, and without it values.
        norms: stop after so many BatchNorm layers; None: go to the end.

    Returns:
        `norms` and `arriving` with `renewed`; without it `dead`, `largest`, `features` and `top`.
    """
    seen = Passage()
    calls = list(_calls(model))
    waiting = Counter(id(it) for _, inputs, _ in calls for it in inputs or ())
    values: dict[int, Any] = {}
    last = None
    with _no_gradients():
        for operation, inputs, output in calls:
            if norms is not None and len(seen.norms) >= norms:
                break
            given = [values.get(id(it)) for it in inputs or ()]
            for it in inputs or ():
                waiting[id(it)] -= 1
                if not waiting[id(it)]:  # else all activations would be in memory at once
                    values.pop(id(it), None)
            if inputs is None:
                values[id(output)] = _tensor(pictures)
            elif all(it is not None for it in given):
                result = values[id(output)] = _call(operation, given, seen, renewed=renewed)
                last = result if result is not None and len(result.shape) == 4 else last
        if not renewed:
            _look_at_the_end(last, values.get(id(model.outputs[0])), seen)
    return seen


def is_norm(operation: Any) -> bool:
    """Whether a layer is a BatchNorm over the last axis."""
    return hasattr(operation, "moving_variance") and operation.axis in {-1, 3}


def is_convolution(operation: Any) -> bool:
    """Whether a layer is a plain two-dimensional convolution."""
    return type(operation).__name__ == "Conv2D"


def _calls(model: Any) -> Iterator[tuple[Any, list[Any] | None, Any]]:
    """Every call in an order in which it can be made: layer, its input tensors (None: it is the input), its output."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            yield node.operation, None if node.is_input else node.input_tensors, node.outputs[0]


def _call(operation: Any, given: list[Any], seen: Passage, *, renewed: bool) -> Any:
    """One layer's answer; None where it cannot be had for pictures of this size."""
    value: Any = given[0] if len(given) == 1 else given
    if renewed and is_norm(operation):
        return _renewed_norm(operation, value, seen)
    if renewed and is_convolution(operation) and operation.name.endswith("_1_conv"):
        _look_at_convolution(operation, value, seen)
    if type(operation).__name__ == "Dense" and value.shape[-1] != operation.kernel.shape[0]:
        return None  # behind a Flatten of another size
    result = operation(value, training=False) if is_norm(operation) else operation(value)
    if not renewed:
        _look_at_values(operation, result, seen)
    return result


def _renewed_norm(norm: Any, value: Any, seen: Passage) -> Any:
    from keras import ops

    moments = _moments(value)
    seen.norms[norm.name] = moments
    # As one factor and one summand per channel: on pictures this small, calls cost as much as numbers do.
    factor = 1 / np.sqrt(moments.variance + np.float32(norm.epsilon))
    if norm.gamma is not None:
        factor = factor * _array(norm.gamma)
    summand = -moments.mean * factor + (0 if norm.beta is None else _array(norm.beta))
    return value * ops.cast(factor, value.dtype) + ops.cast(summand, value.dtype)


def _look_at_convolution(convolution: Any, value: Any, seen: Passage) -> None:
    from keras import ops

    seen.arriving[convolution.name] = _array(ops.mean(ops.cast(value, "float32"), axis=(0, 1, 2)))


def _look_at_values(operation: Any, result: Any, seen: Passage) -> None:
    from keras import ops

    relu = getattr(getattr(operation, "activation", None), "__name__", "") == "relu"
    if not relu or len(result.shape) != 4 or operation.name.endswith(("_1_relu", "_2_relu")):
        return  # what goes wrong inside a block shows at its end
    highest = _array(ops.max(result, axis=(0, 1, 2)))
    seen.dead[operation.name] = float((highest <= 0).mean())
    seen.largest[operation.name] = float(highest.max())


def _look_at_the_end(last: Any, end: Any, seen: Passage) -> None:
    from keras import ops

    if last is not None:
        seen.features = _array(ops.mean(ops.cast(last, "float32"), axis=(1, 2)))
    if end is not None and len(end.shape) == 2:
        seen.top = _array(ops.cast(end, "float32"))


def _moments(value: Any) -> Moments:
    from keras import ops

    mean, variance = ops.moments(ops.cast(value, "float32"), axes=(0, 1, 2))
    return Moments(_array(mean), _array(variance))


def _tensor(pictures: Floats) -> Any:
    from keras import ops

    return ops.convert_to_tensor(pictures)


def _array(value: Any) -> Floats:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(value), np.float32)


@contextmanager
def _no_gradients() -> Iterator[None]:
    """No memory of activations, which torch would keep for a backward pass that never comes."""
    import keras

    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield
