"""Whether a layer gives the same output for the same picture in every step, as long as its weights stand still."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from greffon.frozen.even import EvenPositions, Restrided
from greffon.frozen.graph import Ref

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_STEADY_KINDS = (
    EvenPositions,
    Restrided,
    *(getattr(keras.layers, name) for name in _STEADY.split(", ") if hasattr(keras.layers, name)),
)


def why_unsteady(node: Node, graph: FlatGraph) -> str | None:
    """Why `fit` can get another output from a layer none of whose weights train.

    Returns:
        What the layer does, to be read after its name; None where its output stands still.
    """
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer):
        return None  # a bare operation (x + y, ops.relu) has neither weights nor state
    why = _by_its_options(layer)
    if why or type(layer) in _STEADY_KINDS:
        return why
    key = _alike(node, graph)
    if key is None:
        return _found_by_trial(node, graph)
    if key not in _found:
        _found[key] = _found_by_trial(node, graph)
    return _found[key]


# What trials of Keras' own layers found in this process: the 53 BatchNormalizations of a ResNet-50 are one case.
_found: dict[str, str | None] = {}


def _alike(node: Node, graph: FlatGraph) -> str | None:
    """Equal for calls of Keras' own layers that differ in name, weights and sizes alone; None for any other layer."""
    layer = node.operation
    if type(layer) is not getattr(keras.layers, type(layer).__name__, None) or len(layer._flatten_layers()) > 1:
        return None
    options = {name: value for name, value in layer.get_config().items() if name != "name"}
    ranks = [len(graph.specs[tensor].shape) for tensor in node.inputs]
    call = keras.tree.map_structure(lambda leaf: "tensor" if isinstance(leaf, Ref) else leaf, (node.args, node.kwargs))
    key = repr((type(layer).__name__, layer.trainable, sorted(options.items()), ranks, call))
    return None if " at 0x" in key else key  # an address says nothing of what lies there


def _by_its_options(layer: keras.layers.Layer) -> str | None:
    inside = layer._flatten_layers()
    if any(isinstance(part, keras.layers.BatchNormalization) and part.trainable for part in inside):
        return "is not frozen and uses the statistics of each batch"
    if any(part.activity_regularizer is not None for part in inside):
        return "has an activity regularizer, which counts in the loss although it is frozen"
    if isinstance(layer, keras.layers.Masking | keras.layers.Embedding) and getattr(layer, "mask_zero", True):
        return "gives a mask, which is not kept with the activation"
    return None


def _found_by_trial(node: Node, graph: FlatGraph) -> str | None:
    """Run an unknown layer as `fit` does, several times, and see what changes. It is left as it was."""
    layer, values = node.operation, _random_inputs(node, graph)
    seeds = [variable for variable in layer.variables if not any(variable is weight for weight in layer.weights)]
    state = [*layer.weights, *layer.metrics_variables]
    with _left_as_they_were([*seeds, *state]):
        before = _copies(seeds), _copies(state)
        try:
            first, losses = _outcome(node, values, training=True), list(layer.losses)
            drawn, moved = not _equal(before[0], _copies(seeds)), not _equal(before[1], _copies(state))
            second = _outcome(node, values, training=True)
            inference = _outcome(node, values, training=False)
            alone = _outcome(node, {tensor: value[:1] for tensor, value in values.items()}, training=True)
        except Exception as error:  # whatever a layer of the user's raises, it is not one that can be computed once
            return f"could not be examined ({type(error).__name__}: {error})"
        finally:
            layer._clear_losses()
    reasons = {
        "changes its state in every step, although it is frozen": moved,
        "draws at random in every step, although it is frozen": drawn or not _same(first, second),
        "adds to the loss, although it is frozen": bool(losses),
        "gives another output in training than in inference": not _same(first, inference),
        "looks across the pictures of a batch": not _same([output[:1] for output in first], alone),
    }
    return next((why for why, found in reasons.items() if found), None)


@contextlib.contextmanager
def _left_as_they_were(variables: list[Any]) -> Iterator[None]:
    """Put back what running a layer changes: its variables, and the generators that all code shares."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    variables = [*variables, *([generator.state] if generator else [])]
    before = _copies(variables)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  # layers may draw from it
    try:
        yield
    finally:
        for old, variable in zip(before, variables, strict=True):
            variable.assign(old)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _random_inputs(node: Node, graph: FlatGraph) -> dict[int, Any]:
    numbers = np.random.default_rng(0)
    specs = {tensor: graph.specs[tensor] for tensor in node.inputs}
    return {
        tensor: keras.ops.cast(numbers.uniform(0.0, 4.0, size=_trial_shape(spec)), spec.dtype)
        for tensor, spec in specs.items()
    }


def _trial_shape(spec: keras.KerasTensor) -> tuple[int, ...]:
    """Three rows; sides that are open are as long as a small picture's."""
    open_side = 64 if len(spec.shape) == 4 else 8
    return (3, *(open_side if side is None else side for side in spec.shape[1:]))


def _outcome(node: Node, values: dict[int, Any], *, training: bool) -> Arrays:
    outputs = node.run(values, training=training)
    if any(get_keras_mask(output) is not None for output in outputs):
        raise TypeError("it gives a mask, which is not kept with the activation")
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def _copies(variables: list[Any]) -> Arrays:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _equal(first: Arrays, second: Arrays) -> bool:
    return all(map(np.array_equal, first, second))


def _same(first: Arrays, second: Arrays) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )
