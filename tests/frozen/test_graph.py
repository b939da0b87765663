"""A model as a flat list of calls gives the model's own numbers, and the model does not notice."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.errors import InputError  # noqa: E402
from greffon.frozen.graph import GraphModel, flat_inputs, flatten, is_graph, output_structure  # noqa: E402


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def assert_same_output(model, x, *, training=False):
    graph = flatten(model)
    inputs = [keras.ops.convert_to_tensor(array) for array in flat_inputs(model, x)]
    expected = keras.tree.flatten(model(x, training=training))
    given = graph.run(inputs, training=training)
    assert len(given) == len(expected)
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


class OwnCall(keras.Model):
    """Functional by its constructor, not by what it does."""

    def call(self, inputs, training=None):
        return -super().call(inputs, training=training)


class Opaque(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_nested_two_levels_is_unfolded_in_order():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="deep"), layers.ReLU(name="relu")], name="inner")
    middle_in = keras.Input((6,))
    middle = keras.Model(middle_in, layers.Dense(4, name="mid")(inner(middle_in)) + 1.0, name="middle")
    model = keras.Sequential([keras.Input((6,)), middle, layers.Dense(2, name="last")])
    paths = [node.path for node in flatten(model).nodes]
    assert paths[:3] == ["middle/inner/deep", "middle/inner/relu", "middle/mid"]
    assert paths[-1] == "last"
    assert len(paths) == 5  # the addition is a call too
    assert_same_output(model, numbers(3, 6))


def test_layer_and_model_called_twice_share_their_layers():
    shared = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="shared")], name="twice")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], layers.Concatenate()([shared(a), shared(shared(b))]))
    graph = flatten(model)
    calls = [node for node in graph.nodes if node.path == "twice/shared"]
    assert len(calls) == 3
    assert len({id(node.operation) for node in calls}) == 1
    assert [layer.name for layer in graph.layers].count("shared") == 1
    assert_same_output(model, [numbers(2, 4), numbers(2, 4, seed=1)])


def test_dictionaries_of_inputs_and_outputs():
    # Named against the alphabet: Keras flattens dictionaries by sorted keys.
    wide, deep = keras.Input((3,), name="wide"), keras.Input((5,), name="deep")
    model = keras.Model(
        {"wide": wide, "deep": deep}, {"z": layers.Dense(2)(wide), "a": layers.Dense(4)(layers.ReLU()(deep))}
    )
    x = {"wide": numbers(2, 3), "deep": numbers(2, 5)}
    assert_same_output(model, x)
    given = GraphModel(flatten(model), output=output_structure(model))([x["deep"], x["wide"]])
    assert {name: tuple(value.shape) for name, value in given.items()} == {"z": (2, 2), "a": (2, 4)}


def test_nested_model_called_with_a_dictionary_by_name():
    p, q = keras.Input((3,), name="p"), keras.Input((3,), name="q")
    nested = keras.Model([q, p], layers.Subtract(name="subtract")([q, p]), name="nested")
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], nested({"p": b, "q": a}))
    assert [node.path for node in flatten(model).nodes] == ["nested/subtract"]
    assert_same_output(model, [numbers(2, 3), numbers(2, 3, seed=1)])


def test_nested_model_of_several_inputs_is_unfolded():
    p, q = keras.Input((3,)), keras.Input((3,))
    nested = keras.Model([q, p], layers.Subtract(name="subtract")([q, p]), name="nested")
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], nested([layers.Dense(3, name="dense")(b), a]))
    assert [node.path for node in flatten(model).nodes] == ["dense", "nested/subtract"]
    assert_same_output(model, [numbers(2, 3), numbers(2, 3, seed=1)])


def test_nested_model_gets_the_dtype_that_it_wants():
    nested = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(2, 3)], name="nested")
    pictures = keras.Input((4, 4, 3), dtype="uint8")
    model = keras.Model(pictures, nested(pictures))
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    assert_same_output(model, x)


def test_base_for_pictures_of_any_size_gets_the_outer_models_shapes():
    base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3, strides=2, padding="same")])
    model = keras.Sequential([keras.Input((16, 16, 3)), base, layers.Flatten()])
    graph = flatten(model)
    assert [tuple(graph.specs[node.outputs[0]].shape) for node in graph.nodes] == [(None, 8, 8, 2), (None, 128)]
    assert_same_output(model, numbers(2, 16, 16, 3))


def test_subclassed_parts_stay_one_call():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Doubled(name="doubled")(Opaque()(inputs))))
    assert [type(node.operation).__name__ for node in flatten(model).nodes] == ["Opaque", "Doubled", "Dense"]
    assert_same_output(model, numbers(2, 4))


def test_nested_model_with_a_call_of_its_own_is_not_unfolded():
    inner = keras.Input((4,))
    own = OwnCall(inner, layers.Dense(3)(inner), name="own")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.ReLU()(own(inputs)))
    assert next(node.path for node in flatten(model).nodes) == "own"
    assert_same_output(model, numbers(2, 4))


def test_nested_model_with_a_regularizer_stays_one_call():
    nested = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="nested")
    nested.activity_regularizer = keras.regularizers.L2(0.1)
    model = keras.Sequential([keras.Input((4,)), nested, layers.Dense(2)])
    assert next(node.path for node in flatten(model).nodes) == "nested"


def test_training_is_decided_when_the_graph_is_run():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.BatchNormalization()(inputs, training=False))
    (node,) = flatten(model).nodes
    assert "training" not in node.kwargs
    assert node.takes_training
    x = keras.ops.convert_to_tensor(numbers(8, 4) + 3)
    in_training = keras.ops.convert_to_numpy(node.run({node.inputs[0]: x}, training=True)[0])
    assert abs(in_training.mean()) < 1e-3  # the batch's own statistics


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Opaque, "must be a Functional or Sequential"),
        (lambda: keras.Sequential([layers.Dense(2)]), "does not know its input shape"),
    ],
)
def test_what_is_no_graph_is_refused(make, message):
    model = make()
    assert not is_graph(model)
    with pytest.raises(InputError, match=message):
        flatten(model)


def test_between_keeps_what_is_needed_and_refuses_what_cannot_be_computed():
    inputs = keras.Input((4,))
    left, right = layers.Dense(3, name="left")(inputs), layers.Dense(3, name="right")(inputs)
    graph = flatten(keras.Model(inputs, [layers.Add(name="sum")([left, right]), right]))
    by_path = {node.path: node.outputs[0] for node in graph.nodes}
    part = graph.between(graph.inputs, [by_path["left"]])
    assert [node.path for node in part.nodes] == ["left"]
    tail = graph.between([by_path["left"], by_path["right"]], graph.outputs)
    assert [node.path for node in tail.nodes] == ["sum"]
    with pytest.raises(ValueError, match="do not depend on the inputs"):
        graph.between([by_path["left"]], graph.outputs)


def test_graph_model_leaves_the_layers_calls_alone():
    base = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(2, 3, name="conv"), layers.Flatten()])
    model = keras.Sequential([keras.Input((6, 6, 3)), base, layers.Dense(2, name="dense")])
    conv, dense = base.get_layer("conv"), model.get_layer("dense")
    before = [(len(layer._inbound_nodes), layer.output.shape) for layer in (conv, dense)]
    twin = GraphModel(flatten(model))
    twin.compute_output_spec(keras.KerasTensor((2, 6, 6, 3)))
    np.testing.assert_allclose(twin.predict_on_batch(numbers(2, 6, 6, 3)), model.predict_on_batch(numbers(2, 6, 6, 3)))
    assert [(len(layer._inbound_nodes), layer.output.shape) for layer in (conv, dense)] == before
    assert {id(weight) for weight in twin.weights} == {id(weight) for weight in model.weights}


def test_graph_model_keeps_each_inputs_dtype_under_mixed_precision():
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((4,), dtype="float32")
    model = keras.Model(inputs, layers.Dense(2, dtype="float32")(inputs))
    x = np.full((1, 4), 1.0001, "float32")  # has no float16
    twin = GraphModel(flatten(model), dtype=policy)
    np.testing.assert_array_equal(twin.predict_on_batch(x), model.predict_on_batch(x))


def test_flat_inputs_reads_as_keras_does():
    a, b = keras.Input((1,), name="a"), keras.Input((2,), name="b")
    listed = keras.Model([b, a], layers.Concatenate()([a, b]))
    named = keras.Model({"a": a, "b": b}, layers.Concatenate()([a, b]))
    assert flat_inputs(listed, {"a": 1, "b": 2, "more": 3}) == [2, 1]
    assert flat_inputs(named, {"b": 2, "a": 1}) == [1, 2]
    assert flat_inputs(listed, (1, 2)) == [1, 2]
    with pytest.raises(InputError, match="without 'b'"):
        flat_inputs(listed, {"a": 1})
    with pytest.raises(InputError, match="has 2 inputs, got 3"):
        flat_inputs(listed, [1, 2, 3])
