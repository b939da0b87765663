"""Preprocessing as layers in front of a backbone, so that nothing is left for the user to forget."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError
from greffon.weights.sets import BGR_LAYER, PREPROCESSING_LAYER, PREPROCESSINGS, Preprocessing, preprocessing_in_layer

if TYPE_CHECKING:
    import keras


def preprocessing_layers(preprocessing: Preprocessing) -> list[keras.Layer]:
    """The layers that turn RGB pictures of 0..255 into what a backbone wants, still in RGB order.

    The channel order is not theirs: where the record says BGR, whoever puts them in front of a backbone
    permutes the input channels of its first convolution, which is exact. They come before the backbone's own
    zero padding, so that the border is what it was in training.

    Args:
        preprocessing: the record.

    Returns:
        Keras layers without weights, float32 to float32, of any height and width. There is one even where
        nothing has to be done, so that a saved model always tells what it was made with.

    Raises:
        InputError: the record has a known name and other values, or values that cannot be used.

    Example:
        >>> from greffon.backbone.preprocessing import preprocessing_layers
        >>> from greffon.weights.sets import PREPROCESSINGS
        >>> [layer.name for layer in preprocessing_layers(PREPROCESSINGS["caffe"])]
        ['greffon_preprocessing_caffe']
    """
    from keras import layers

    _check(preprocessing)
    # (x * scale - mean) / std == (x - mean / scale) / (std / scale): one layer, one subtraction, one division.
    mean = [value / preprocessing.scale for value in preprocessing.mean]
    variance = [(value / preprocessing.scale) ** 2 for value in preprocessing.std]
    # float32 whatever the precision policy: 255 and a mean of 123.68 are not to be rounded to half precision.
    return [
        layers.Normalization(axis=-1, mean=mean, variance=variance, dtype="float32", name=_layer_name(preprocessing))
    ]


def preprocessing_of(model: keras.Model) -> Preprocessing | None:
    """The preprocessing inside a model, or None if Greffon put none in.

    A record of the user's own comes back with the mean and standard deviation that the layer applies (so with
    `scale` 1), `size` as the model's input, and the resize rule `crop`.

    Args:
        model: any Keras model; nested models are looked into.

    Example:
        >>> import keras
        >>> from greffon.backbone.preprocessing import preprocessing_layers, preprocessing_of
        >>> from greffon.weights.sets import PREPROCESSINGS
        >>> model = keras.Sequential([keras.Input((64, 64, 3)), *preprocessing_layers(PREPROCESSINGS["torch"])])
        >>> preprocessing_of(model).name
        'torch'
    """
    for layer in model._flatten_layers(include_self=False):
        if layer.name.startswith(PREPROCESSING_LAYER):
            return preprocessing_in_layer(layer.name, layer.get_config(), size=layer.input.shape[1])
    return None


def _layer_name(preprocessing: Preprocessing) -> str:
    own_bgr = preprocessing.name not in PREPROCESSINGS and preprocessing.channel_order == "BGR"
    return (BGR_LAYER if own_bgr else PREPROCESSING_LAYER) + preprocessing.name


def _check(preprocessing: Preprocessing) -> None:
    name = preprocessing.name
    known = PREPROCESSINGS.get(name)
    same = known is not None and _values(known) == _values(preprocessing)
    if known is not None and not same:
        raise InputError(
            f"the name {name!r} stands for {known}; a preprocessing with other values must have another name, "
            f"got {preprocessing}"
        )
    if known is None and (not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name.startswith("bgr_")):
        raise InputError(
            f"the name of a preprocessing must be letters, digits, '_', '.' or '-' and not start with 'bgr_', "
            f"got {name!r}"
        )
    if preprocessing.scale <= 0 or min(preprocessing.std) <= 0:
        raise InputError(f"scale and std of a preprocessing must be positive, got {preprocessing}")


def _values(preprocessing: Preprocessing) -> tuple[Any, ...]:
    """What the layer depends on; resize rule and size may differ under the same name."""
    return (preprocessing.channel_order, preprocessing.scale, preprocessing.mean, preprocessing.std)
