"""The head: pooling, hidden units, dropout, the classifier."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from greffon.backbone.blocks import EACH_BLOCK, pool_blocks
from greffon.backbone.clone import Copier, as_graph
from greffon.backbone.pool import pool_layers
from greffon.errors import InputError
from greffon.recipe import nearest

if TYPE_CHECKING:
    from greffon.recipe import Head


__all__ = ["checked_classes", "grow", "pool_layers"]


def grow(features: Any, classes: int, head: Head, copier: Copier) -> Any:
    """The head's layers on a feature map (n, h, w, channels)."""
    from keras import layers

    x = _pool(features, head)
    if head.layer is not None:
        return _own_layer(x, classes, head.layer, copier)
    if head.hidden:
        x = layers.Dense(head.hidden, activation=_checked_activation(head.activation), name="head_hidden")(x)
    if head.dropout:
        x = layers.Dropout(head.dropout, name="head_dropout")(x)
    # In float32 whatever the precision policy: a half-precision softmax cannot tell 0.9996 from 1.
    return layers.Dense(classes, activation=head.output, dtype="float32", name="head_output")(x)


def _pool(features: Any, head: Head) -> Any:
    if head.pool in EACH_BLOCK:
        return pool_blocks(features, head.channels, pool=EACH_BLOCK[head.pool])
    for layer in pool_layers(head.pool, features.shape[1:3]):
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
