"""A frozen normalisation goes into the frozen convolution in front of it: the same outputs, the same gradients."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen.even import at_even_positions  # noqa: E402
from greffon.frozen.fold import FoldedConvolution, fold_frozen  # noqa: E402
from greffon.frozen.graph import GraphModel, flatten  # noqa: E402


def network(**conv_options):
    """A convolution that trains, a frozen pair, a head; with statistics that are not the initial ones."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(6, 3, name="first")(inputs)
    x = layers.Conv2D(4, 3, name="second", **conv_options)(x)
    norm = layers.BatchNormalization(name="norm")
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(x)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    random = np.random.default_rng(0)
    for weight in norm.weights:
        weight.assign(random.uniform(0.5, 2.0, weight.shape))
    model.get_layer("second").trainable = norm.trainable = False
    return model


def kinds(graph):
    return [type(node.operation).__name__ for node in graph.nodes]


@pytest.mark.parametrize(
    "options", [{}, {"use_bias": False}, {"padding": "same", "strides": 2}, {"dilation_rate": 2}, {"groups": 2}]
)
def test_outputs_and_gradients_are_those_of_the_two_layers(options):
    tf = pytest.importorskip("tensorflow")
    model = network(**options)
    folded = fold_frozen(flatten(model))
    assert "BatchNormalization" not in kinds(folded)
    assert kinds(folded).count("FoldedConvolution") == 1
    x = tf.constant(np.random.default_rng(1).normal(size=(5, 9, 9, 3)), tf.float32)
    results = []
    for network_ in (model, GraphModel(folded)):
        with tf.GradientTape() as tape:
            y = network_(x, training=True)
            loss = tf.reduce_sum(y * y)
        variables = model.trainable_variables
        results.append([y.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, variables))])
    assert len(results[0]) == 5
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("moves", ["second", "norm"])
def test_what_trains_is_left_alone(moves):
    model = network()
    model.get_layer(moves).trainable = True
    graph = flatten(model)
    assert fold_frozen(graph) is graph


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"activity_regularizer": "l2"}])
def test_what_stands_between_keeps_them_apart(options):
    graph = flatten(network(**options))
    assert fold_frozen(graph) is graph


def test_an_output_that_is_read_elsewhere_keeps_them_apart():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 1)(inputs)
    model = keras.Model(inputs, layers.Add()([layers.BatchNormalization()(x), x]))
    model.trainable = False
    graph = flatten(model)
    assert fold_frozen(graph) is graph


def test_a_convolution_with_other_strides_is_folded_too():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="in")(inputs)
    pair = layers.BatchNormalization()(layers.Conv2D(5, 1, strides=2, name="halving")(layers.ReLU()(x)))
    model = keras.Model(inputs, pair)
    model.trainable = False
    model.get_layer("in").trainable = True
    graph = at_even_positions(flatten(model))
    assert "Restrided" in kinds(graph)
    folded = fold_frozen(graph)
    assert kinds(folded) == ["ZeroPadding2D", "Restrided", "ReLU", "FoldedConvolution"]  # the first one trains
    assert isinstance(folded.nodes[-1].operation, FoldedConvolution)
    x = np.random.default_rng(2).normal(size=(3, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(GraphModel(folded)(x), model(x), rtol=2e-5, atol=1e-6)
