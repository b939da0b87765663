"""What users get wrong around a grafted model: pictures scaled twice, and a Flatten head for few pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from greffon.backbone.parts import output_shape, split_parts
from greffon.backbone.preprocessing import preprocessing_of
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import keras

_PARAMETERS_PER_PICTURE = 1000
"""A flattened head with more parameters than this for each picture can learn the pictures by heart."""


def reject_scaled_pictures(model: keras.Model, batches: Iterable[Any]) -> None:
    """Refuse pictures that were divided by 255 before they reach a model that does its own preprocessing.

    Args:
        model: only one whose preprocessing Greffon put in is guarded; one with the preprocessing `none` is not.
        batches: the first few batches of pictures: arrays or tensors (n, height, width, 3), or (pictures, labels).
            Integers are never refused.

    Raises:
        InputError: they are floats and none is above 1.0.

    Example:
        >>> import numpy as np, greffon
        >>> from greffon.backbone.graft import reject_scaled_pictures
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(64, 64, 3)), classes=10)
        >>> reject_scaled_pictures(model, [np.full((2, 64, 64, 3), 200.0)])
    """
    import keras
    import numpy as np

    record = preprocessing_of(model)
    if record is None or record.name == "none":
        return
    largest = None
    for batch in batches:
        pictures = _pictures_in(batch)
        if "float" not in keras.backend.standardize_dtype(pictures.dtype):
            return
        values = np.asarray(keras.ops.convert_to_numpy(pictures), dtype="float32")
        values = values[~np.isnan(values)]
        if values.size:
            largest = max(float(values.max()), -np.inf if largest is None else largest)
        if largest is not None and largest > 1.0:
            return
    if largest is not None:
        raise InputError(
            f"pictures must be RGB values of 0..255: this model does its own preprocessing ({record.name}). "
            f"Got floats of at most {largest:.4g}, as if they had been divided by 255 already. "
            "Take that step out, or multiply by 255"
        )


def flatten_warning(model: keras.Model, pictures: int) -> str | None:
    """What to tell a user whose head flattens the feature map and who has few pictures.

    Args:
        model: grafted, or anybody's.
        pictures: how many there are to train on.

    Returns:
        One sentence with both parameter counts; None where the head does not flatten a feature map of more than
        one value per channel, or where there are more than a picture for every 1,000 of its parameters.
    """
    sizes = _flatten_sizes(model)
    if sizes is None or sizes.flattened <= _PARAMETERS_PER_PICTURE * pictures:
        return None
    each = sizes.flattened / max(pictures, 1)
    return f"{_flatten_sentence(sizes)} That is {each:,.0f} for each of {pictures:,} pictures."


def flatten_note(model: keras.Model) -> str | None:
    """`flatten_warning` before the number of pictures is known; None for heads small enough for 1,000 pictures."""
    sizes = _flatten_sizes(model)
    if sizes is None or sizes.flattened <= _PARAMETERS_PER_PICTURE * 1000:
        return None
    return f"{_flatten_sentence(sizes)} It can learn few pictures by heart."


def folded_norms_warning(model: keras.Model) -> str | None:
    """What to tell a user who lets BatchNorm normalise anew, where it was folded into the convolutions; else None."""
    from greffon.weights.statistics import norms_of, without_statistics

    if without_statistics(norms_of(model), model) != "folded":
        return None
    return (
        "BatchNorm of these weights is the identity, since it was folded into the convolutions. With batch_norm "
        "'train' unfrozen layers normalise again, which takes away what the folded ones did; 'frozen' keeps it."
    )


class _Sizes(NamedTuple):
    shape: tuple[int, ...]
    flattened: int
    averaged: int


def _flatten_sizes(model: keras.Model) -> _Sizes | None:
    """Parameters of the first layer behind a Flatten, and what they would be behind an average."""
    import keras

    parts = split_parts(model)
    weighted = [layer for layer in parts.head if layer.weights]
    if not parts.backbone or not weighted or not isinstance(parts.head[0], keras.layers.Flatten):
        return None
    shape, first = output_shape(parts.backbone[-1]), weighted[0]
    if shape is None or len(shape) != 4 or None in shape[1:] or not isinstance(first, keras.layers.Dense):
        return None
    height, width, channels = (int(side or 0) for side in shape[1:])
    if height * width == 1 or first.kernel.shape[0] != height * width * channels:
        return None
    bias = first.units if first.use_bias else 0
    return _Sizes((height, width, channels), first.count_params(), channels * first.units + bias)


def _flatten_sentence(sizes: _Sizes) -> str:
    height, width, channels = sizes.shape
    return (
        f"the head reads the flattened {height}x{width}x{channels} feature map: {sizes.flattened:,} parameters in its "
        f"first layer, where pool 'avg' would have {sizes.averaged:,}."
    )


def _pictures_in(batch: Any) -> Any:
    if isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    if isinstance(batch, dict) and batch:
        batch = batch.get("pictures", next(iter(batch.values())))
    return batch
