"""The head: pooling, hidden units, dropout, the classifier."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from greffon.backbone.blocks import pool_blocks
from greffon.backbone.clone import Copier, as_graph
from greffon.errors import InputError
from greffon.recipe import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.recipe import Head


def grow(features: Any, classes: int, head: Head, copier: Copier) -> Any:
    """The head's layers on a feature map (n, h, w, channels)."""
    from keras import layers

    x = pool_blocks(features, head.channels) if head.pool == "blocks" else _pool(features, head.pool)
    if head.layer is not None:
        return _own_layer(x, classes, head.layer, copier)
    if head.hidden:
        x = layers.Dense(head.hidden, activation=_checked_activation(head.activation), name="head_hidden")(x)
    if head.dropout:
        x = layers.Dropout(head.dropout, name="head_dropout")(x)
    # In float32 whatever the precision policy: a half-precision softmax cannot tell 0.9996 from 1.
    return layers.Dense(classes, activation=head.output, dtype="float32", name="head_output")(x)


def pool_layers(pool: str, sides: Sequence[int | None]) -> list[Any]:
    """The layers that make a vector of a feature map.

    Args:
        pool: of `Head`.
        sides: height and width of the map.

    Raises:
        InputError: the map has no known size, or one that is too small.
    """
    from keras import layers

    if pool == "avg":
        return [layers.GlobalAveragePooling2D(data_format="channels_last", name="head_pool")]
    if pool == "max":
        return [layers.GlobalMaxPooling2D(data_format="channels_last", name="head_pool")]
    flat = layers.Flatten(data_format="channels_last", name="head_flatten")
    if pool == "blocks":
        raise InputError("pool='blocks' takes more than the last feature map: see pool_blocks")
    if pool == "auto":
        raise InputError("pool='auto' is for greffon.train, which compares them on your pictures: choose one here")
    height, width = sides
    if height is None or width is None:
        raise InputError(
            f"pool={pool!r} needs a backbone whose feature map has a known height and width, got {tuple(sides)}: "
            "build it with an input_shape such as (224, 224, 3), or pool by avg or max"
        )
    if pool == "flatten":
        return [flat]
    cells = int(pool.removeprefix("grid"))
    if min(height, width) < cells:
        raise InputError(
            f"pool={pool!r} needs a feature map of at least {cells} x {cells}, got {height} x {width}: "
            "use larger pictures, or pool by avg or max"
        )
    # As many windows as cells, evenly spaced, overlapping where the side is no multiple: on 7 x 7 exactly what is
    # known as adaptive pooling.
    strides = (height // cells, width // cells)
    size = (height - (cells - 1) * strides[0], width - (cells - 1) * strides[1])
    return [layers.AveragePooling2D(size, strides, data_format="channels_last", name="head_pool"), flat]


def _pool(features: Any, pool: str) -> Any:
    for layer in pool_layers(pool, features.shape[1:3]):
        features = layer(features)
    return features


def _own_layer(x: Any, classes: int, layer: Any, copier: Copier) -> Any:
    """A copy of the user's own layer, so that one Head can be grafted twice; a model of theirs is unfolded."""
    import keras

    if not isinstance(layer, keras.layers.Layer):
        raise InputError(f"Head.layer must be a Keras layer, got {type(layer).__name__}")
    try:
        y = _call_own(layer, x, copier)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Head.layer {layer.name!r} does not take features of shape {x.shape}: {error}") from error
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) != 2 or shape[-1] != classes:
        raise InputError(
            f"Head.layer {layer.name!r} must give one value per class, (batch, {classes}), got "
            f"{tuple(shape) if shape is not None else y!r}"
        )
    return y


def _call_own(layer: Any, x: Any, copier: Copier, prefix: str = "") -> Any:
    import keras

    if isinstance(layer, keras.Sequential):  # its layers one by one: it need not know its input shape yet
        for inner in layer.layers:
            x = _call_own(inner, x, copier, f"{prefix}{layer.name}_")
        return x
    if isinstance(layer, keras.Model):
        return copier.run(as_graph(layer, "Head.layer"), x, f"{prefix}{layer.name}_")
    return copier.copy(layer, prefix)(x)


def _checked_activation(activation: str) -> str:
    import keras

    try:
        keras.activations.get(activation)
    except (ValueError, TypeError):
        known = [name for name in dir(keras.activations) if not name.startswith("_")]
        raise InputError(
            f"Head.activation must be the name of a Keras activation, got {activation!r}{nearest(activation, known)}"
        ) from None
    return activation


def checked_classes(classes: int, head: Head) -> int:
    """The number of classes, as an int.

    Raises:
        InputError: it is no number, or too small for the head's output.
    """
    try:
        number = 0 if isinstance(classes, bool) else operator.index(classes)
    except TypeError:
        raise InputError(f"classes must be how many classes there are, got {classes!r}") from None
    least = 2 if head.output == "softmax" and head.layer is None else 1
    if number < least:
        hint = ", or use Head(output='sigmoid') for one yes-or-no label" if number == 1 else ""
        raise InputError(
            f"classes must be a whole number of at least {least} with {head.output}, got {classes!r}{hint}"
        )
    return number
