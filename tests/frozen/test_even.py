from __future__ import annotations

import numpy as np
import pytest

from greffon.backbone.resnet import resnet
from greffon.frozen.build import build_engine
from greffon.frozen.cost import macs
from greffon.frozen.cut import find_cut
from greffon.frozen.even import EvenPositions, Restrided, at_even_positions
from greffon.frozen.graph import GraphModel, flatten


def network(variant, side=64, blocks=(1, 2, 1, 1)):
    """Frozen, with weights and statistics that leave no layer dead."""
    random = np.random.default_rng(0)
    model = resnet(blocks=blocks, variant=variant, input_shape=(side, side, 3))
    for weight in model.weights:
        weight.assign(random.uniform(0.5, 1.5, weight.shape) * (0.1 if len(weight.shape) > 1 else 1))
    for layer in model.layers:
        layer.trainable = False
    return model


def pictures(side, count=2):
    return np.random.default_rng(1).uniform(0, 255, (count, side, side, 3)).astype("float32")


def difference(found, expected):
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())


@pytest.mark.parametrize("variant", ["v1", "thin"])
@pytest.mark.parametrize("side", [64, 97])
def test_the_outputs_are_those_of_keras(variant, side):
    model, x = network(variant, side), pictures(side)
    graph = at_even_positions(flatten(model))
    expected = model.predict(x, verbose=0)
    assert difference(GraphModel(graph)(x), expected) < 1e-5
    engine = build_engine(graph)
    assert engine.name == "onnx", engine.why_not_onnx
    assert difference(engine.run([x])[0], expected) < 1e-5


def test_what_is_saved_at_full_depth():
    graph = flatten(resnet(variant="v1"))
    halved = at_even_positions(graph, moving=lambda norm: False)
    assert round(macs(graph) / 1e6) == 3856
    assert round(macs(halved) / 1e6) == 3480
    assert sum(isinstance(node.operation, EvenPositions) for node in halved.nodes) == 3
    assert sum(isinstance(node.operation, Restrided) for node in halved.nodes) == 9


def test_a_network_that_reads_everything_stays_as_it_is():
    graph = flatten(network("v1.5"))
    assert at_even_positions(graph) is graph


def test_nothing_moves_through_statistics_of_the_batch():
    model = network("v1")
    frozen = at_even_positions(flatten(model))
    model.get_layer("conv2_block1_3_bn").trainable = True
    moving = at_even_positions(flatten(model))
    assert macs(frozen) < macs(moving) < macs(flatten(model))
    norm = next(node for node in moving.nodes if node.operation is model.get_layer("conv2_block1_3_bn"))
    assert moving.specs[norm.inputs[0]].shape[1:3] == (16, 16)  # all positions, as Keras gives them
    x = pictures(64, count=4)
    expected = [np.asarray(output) for output in flatten(model).run([x], training=True)]
    model_again = network("v1")  # the moving statistics have moved
    model_again.get_layer("conv2_block1_3_bn").trainable = True
    found = at_even_positions(flatten(model_again)).run([x], training=True)
    assert difference(found[0], expected[0]) < 1e-5


def test_a_cut_in_front_of_conv5_has_a_quarter_of_the_bytes():
    model = network("v1")
    for layer in model.layers:
        layer.trainable = layer.name.startswith("conv5")
    cut = find_cut(model)
    assert cut.shapes == [(2, 2, 1024)]  # Keras' own tensor is (4, 4, 1024)
    values = cut.trunk.run([pictures(64)])
    assert difference(cut.tail.run(values)[0], model(pictures(64))) < 1e-5


def test_the_variables_are_shared_and_train():
    import keras

    model = network("v1")
    model.get_layer("conv5_block1_1_conv").trainable = True
    tail = GraphModel(find_cut(model).tail)
    assert {v.path for v in tail.trainable_variables} == {v.path for v in model.trainable_variables}
    kernel = model.get_layer("conv5_block1_1_conv").kernel
    before = np.array(keras.ops.convert_to_numpy(kernel))
    tail.compile(keras.optimizers.SGD(0.1), "mse")
    shapes = [tail.graph.specs[tensor].shape[1:] for tensor in tail.graph.inputs]
    assert shapes == [(2, 2, 1024), (2, 2, 2048)]  # the input at its even positions, and the frozen shortcut
    x = [np.ones((2, *shape), "float32") for shape in shapes]
    tail.train_on_batch(x, np.zeros((2, *model.output_shape[1:]), "float32"))
    assert not np.array_equal(before, keras.ops.convert_to_numpy(kernel))


def test_layers_keep_one_call_each():
    model = network("v1")
    at_even_positions(flatten(model))
    assert model.get_layer("conv3_block1_1_conv").output.shape[1:3] == (8, 8)
    assert model.get_layer("conv3_block1_1_conv").strides == (2, 2)
