"""Whether a layer gives the same output for the same picture in every step, as long as its weights stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from greffon.frozen.graph import FlatGraph, Node

    Arrays = list[np.ndarray[Any, Any]]

# Layers that give the same row for the same row whatever `training` is. Others are tried out.
_STEADY = (
    "Activation, Add, Average, AveragePooling1D, AveragePooling2D, AveragePooling3D, CenterCrop, Concatenate, Conv1D, "
    "Conv1DTranspose, Conv2D, Conv2DTranspose, Conv3D, Cropping1D, Cropping2D, Dense, DepthwiseConv1D, "
    "DepthwiseConv2D, Dot, ELU, EinsumDense, Flatten, GlobalAveragePooling1D, GlobalAveragePooling2D, "
    "GlobalMaxPooling1D, GlobalMaxPooling2D, GroupNormalization, Identity, LayerNormalization, LeakyReLU, "
    "MaxPooling1D, MaxPooling2D, MaxPooling3D, Maximum, Minimum, Multiply, Normalization, PReLU, Permute, ReLU, "
    "Rescaling, RepeatVector, Reshape, Resizing, SeparableConv1D, SeparableConv2D, Softmax, Subtract, "
    "UnitNormalization, UpSampling1D, UpSampling2D, ZeroPadding1D, ZeroPadding2D, ZeroPadding3D"
)
_STEADY_KINDS = tuple(getattr(keras.layers, name) for name in _STEADY.split(", ") if hasattr(keras.layers, name))


def why_unsteady(node: Node, graph: FlatGraph) -> str | None:
    """Why `fit` can get another output from a layer none of whose weights train.

    Returns:
        What the layer does, to be read after its name; None where its output stands still.
    """
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer):
        return None  # a bare operation (x + y, ops.relu) has neither weights nor state
    if isinstance(layer, keras.layers.BatchNormalization):
        return "is not frozen and uses the statistics of each batch" if layer.trainable else None
    if layer.activity_regularizer is not None:
        return "has an activity regularizer, which counts in the loss although it is frozen"
    if isinstance(layer, keras.layers.Masking | keras.layers.Embedding):
        return "gives a mask, which is not kept with the activation"
    if len(layer.variables) > len(layer.weights):  # the rest is the state of random generators
        return "draws at random in every step, although it is frozen"
    if type(layer) in _STEADY_KINDS:
        return None
    return _found_by_trial(node, graph)


def _found_by_trial(node: Node, graph: FlatGraph) -> str | None:
    """Run an unknown layer as `fit` does, several times, and see what changes. Its variables stay as they are."""
    layer, values = node.operation, _random_inputs(node, graph)
    before = _copies(layer.variables)
    try:
        first, losses = _outcome(node, values, training=True), list(layer.losses)
        moved = not all(map(np.array_equal, before, _copies(layer.variables)))
        second = _outcome(node, values, training=True)
        inference = _outcome(node, values, training=False)
        alone = _outcome(node, {tensor: value[:1] for tensor, value in values.items()}, training=True)
    except Exception as error:  # whatever a layer of the user's raises, it is not one that can be computed once
        return f"could not be examined ({type(error).__name__}: {error})"
    finally:
        for old, variable in zip(before, layer.variables, strict=True):
            variable.assign(old)
    reasons = {
        "draws at random in every step, although it is frozen": not _same(first, second),
        "adds to the loss, although it is frozen": bool(losses),
        "changes its state in every step, although it is frozen": moved,
        "gives another output in training than in inference": not _same(first, inference),
        "looks across the pictures of a batch": not _same([output[:1] for output in first], alone),
    }
    return next((why for why, found in reasons.items() if found), None)


def _random_inputs(node: Node, graph: FlatGraph) -> dict[int, Any]:
    random = np.random.default_rng(0)
    specs = {tensor: graph.specs[tensor] for tensor in node.inputs}
    shapes = {tensor: (3, *(8 if side is None else side for side in spec.shape[1:])) for tensor, spec in specs.items()}
    return {
        tensor: keras.ops.cast(random.uniform(0.0, 4.0, size=shapes[tensor]), spec.dtype)
        for tensor, spec in specs.items()
    }


def _outcome(node: Node, values: dict[int, Any], *, training: bool) -> Arrays:
    return [keras.ops.convert_to_numpy(output) for output in node.run(values, training=training)]


def _copies(variables: list[Any]) -> Arrays:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _same(first: Arrays, second: Arrays) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(first, second, strict=True)
    )
