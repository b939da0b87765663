"""Graphs of models on the same layers, joined."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen.graph import GraphModel, flatten  # noqa: E402
from greffon.frozen.union import union  # noqa: E402


def test_what_models_share_is_there_once_and_computes_the_same():
    inputs = keras.Input((6, 6, 3))
    features = layers.ReLU()(layers.Conv2D(4, 3)(inputs))
    pooled = layers.GlobalAveragePooling2D()(features)
    models = [
        keras.Model(inputs, layers.Dense(2)(pooled)),
        keras.Model(inputs, layers.Dense(3)(layers.Flatten()(features))),
        keras.Model(inputs, pooled),
    ]
    graph, outputs = union([flatten(model) for model in models])
    assert [type(node.operation).__name__ for node in graph.nodes] == [
        "Conv2D", "ReLU", "GlobalAveragePooling2D", "Dense", "Flatten", "Dense",
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    for model, tensors in zip(models, outputs, strict=True):
        ours = GraphModel(graph.between(graph.inputs, tensors))(x)
        np.testing.assert_array_equal(ours, model(x))


def test_a_layer_called_twice_is_two_calls():
    inputs = keras.Input((4,))
    dense = layers.Dense(4)
    once = dense(inputs)
    graph, outputs = union([flatten(keras.Model(inputs, once)), flatten(keras.Model(inputs, dense(once)))])
    assert len(graph.nodes) == 2
    assert outputs == [graph.nodes[0].outputs, graph.nodes[1].outputs]
