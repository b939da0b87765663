"""Grafting: the grafted model computes what the backbone computes, for pictures as they are."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import greffon
from greffon.backbone.graft import split_parts, ungraft
from greffon.backbone.guard import flatten_warning, folded_norms_warning, reject_scaled_pictures
from greffon.backbone.resnet import resnet
from greffon.errors import InputError
from greffon.weights.sets import PREPROCESSINGS, Preprocessing

SIDE = 64


def small(variant="thin", **options):
    return resnet((1, 1, 1, 1), variant, **({"input_shape": (SIDE, SIDE, 3)} | options))


def values(model):
    return [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]


def same(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def run(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def features_of(model, layer="conv5_block1_out"):
    return keras.Model(model.input, model.get_layer(layer).output)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    model = small()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):  # as after training, so that a wrong copy shows
            layer.set_weights([np.random.default_rng(1).uniform(0.5, 1.5, w.shape) for w in layer.weights])
    return model


@pytest.fixture(scope="module")
def grafted(backbone):
    return greffon.graft(backbone, 4, greffon.Head(hidden=8, dropout=0.5), preprocessing="caffe")


# --- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_features_are_those_of_the_backbone_on_keras_own_preprocessing(backbone, pictures, mode):
    from keras.src.applications.imagenet_utils import preprocess_input

    model = greffon.graft(backbone, 4, preprocessing=mode)
    expected = run(backbone, preprocess_input(pictures.astype("float32"), mode=mode))
    got = run(features_of(model), pictures)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_features_of_the_embedded_weights_in_bgr(pictures):
    backbone = greffon.resnet50("thin", input_shape=(SIDE, SIDE, 3))
    model = greffon.graft(backbone, 4)
    expected = run(backbone, pictures[..., ::-1].astype("float32") - (104, 117, 123))
    got = run(features_of(model, "conv5_block3_out"), pictures)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert model.greffon_weights is backbone.greffon_weights


def test_uint8_and_float_pictures_give_the_same(grafted, pictures):
    assert grafted.input.dtype == "float32"
    from_bytes = grafted.predict(pictures, verbose=0)
    assert np.array_equal(from_bytes, grafted.predict(pictures.astype("float32"), verbose=0))
    assert np.array_equal(run(grafted, pictures), run(grafted, pictures.astype("float32")))


def test_the_backbone_stays_as_it_is(pictures):
    backbone = small()
    before = values(backbone)
    nodes = {layer.name: len(layer._inbound_nodes) for layer in backbone.layers}
    model = greffon.graft(backbone, 4, preprocessing="caffe")
    greffon.freeze(model, "conv5")
    for weight in model.weights:
        weight.assign(weight * 0)
    assert same(values(backbone), before)
    assert {layer.name: len(layer._inbound_nodes) for layer in backbone.layers} == nodes
    assert all(layer.trainable for layer in backbone.layers)


def test_training_the_grafted_model_leaves_the_backbone_alone(pictures):
    backbone = small()
    before = values(backbone)
    model = greffon.graft(backbone, 3, preprocessing="caffe")
    model.compile("sgd", "categorical_crossentropy")
    model.fit(pictures, np.eye(3), verbose=0)
    assert same(values(backbone), before)
    assert not same(list(ungraft(model).values()), before)
    run(backbone, pictures)


def test_layers_keep_names_and_order_and_the_model_is_flat(backbone, grafted):
    names = [layer.name for layer in grafted.layers]
    assert names[:2] == ["pictures", "greffon_preprocessing_caffe"]
    assert names[2:-4] == [layer.name for layer in backbone.layers[1:]]
    assert names[-4:] == ["head_pool", "head_hidden", "head_dropout", "head_output"]
    assert not any(isinstance(layer, keras.Model) for layer in grafted.layers)


def test_flags_of_a_backbone_frozen_before_grafting_are_kept():
    backbone = small()
    greffon.freeze(backbone, 5)
    model = greffon.graft(backbone, 4, preprocessing="caffe")
    trains = {v.path for v in backbone.trainable_variables}
    assert {v.path for v in model.trainable_variables} == trains | {"head_output/kernel", "head_output/bias"}
    assert any(path.endswith("gamma") for path in trains)


# --- saving ----------------------------------------------------------------------------------------------------


def test_a_saved_model_opens_in_keras_without_greffon(grafted, pictures, tmp_path):
    file = tmp_path / "model.keras"
    grafted.save(file)
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "expected.npy", grafted.predict(pictures, verbose=0))
    assert '"module": "greffon' not in zipfile.ZipFile(file).read("config.json").decode()
    code = (
        "import sys, keras, numpy as np; keras.config.disable_unsafe_deserialization() if "
        "hasattr(keras.config, 'disable_unsafe_deserialization') else None\n"
        "model = keras.saving.load_model('model.keras', safe_mode=True)\n"
        "got = model.predict(np.load('pictures.npy'), verbose=0)\n"
        "np.testing.assert_allclose(got, np.load('expected.npy'), atol=1e-6)\n"
        "assert not any(name.startswith('greffon') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "preprocessing", ["caffe", "torch", Preprocessing("mine", channel_order="BGR", mean=(1, 2, 3))]
)
def test_ungraft_gives_the_backbones_weights_bit_for_bit(backbone, preprocessing, tmp_path):
    model = greffon.graft(backbone, 4, preprocessing=preprocessing)
    model.save(tmp_path / "model.keras")
    expected = {
        f"{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight)
        for layer in backbone.layers
        for weight in layer.weights
    }
    for copy in (model, keras.saving.load_model(tmp_path / "model.keras")):
        arrays = ungraft(copy)
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)


def test_grafting_what_ungraft_gave_computes_the_same(grafted, pictures):
    arrays, again = ungraft(grafted), small()
    for layer in again.layers:
        for weight in layer.weights:
            weight.assign(arrays[f"{layer.name}/{weight.name}"])
    model = greffon.graft(again, 4, preprocessing="caffe")
    got = run(features_of(model), pictures)
    assert np.array_equal(got, run(features_of(grafted), pictures))


# --- preprocessing ---------------------------------------------------------------------------------------------


def test_preprocessing_comes_from_the_record_of_the_weights():
    names = [layer.name for layer in greffon.graft(small_with_record("torch"), 4).layers]
    assert names[1] == "greffon_preprocessing_torch"


def small_with_record(name):
    from greffon.weights.sets import Restored

    backbone = small()
    backbone.greffon_weights = Restored("a file", "v1", PREPROCESSINGS.get(name))
    return backbone


@pytest.mark.parametrize("backbone_of", [small, lambda: small_with_record("unknown")])
def test_unknown_preprocessing_is_none_and_is_said(backbone_of, pictures, caplog):
    backbone = backbone_of()
    with caplog.at_level(logging.WARNING, logger="greffon"):
        model = greffon.graft(backbone, 4)
    assert "nothing is known of the preprocessing" in caplog.text
    expected = run(backbone, pictures)
    np.testing.assert_allclose(run(features_of(model), pictures), expected, rtol=1e-5, atol=1e-5)


def test_preprocessing_that_cannot_be_is_refused(backbone, grafted):
    with pytest.raises(InputError, match="did you mean 'caffe'"):
        greffon.graft(backbone, 4, preprocessing="cafe")
    inside = features_of(grafted)
    with pytest.raises(InputError, match="'caffe' inside already"):
        greffon.graft(inside, 4, preprocessing="torch")
    with pytest.raises(InputError, match="RGB pictures, got a backbone of 1 channels"):
        greffon.graft(small(input_shape=(32, 32, 1)), 4, preprocessing="caffe")


def test_a_backbone_with_preprocessing_inside_keeps_it(grafted, pictures, caplog):
    model = greffon.graft(features_of(grafted), 3)
    assert not caplog.records
    expected = run(features_of(grafted), pictures)
    np.testing.assert_allclose(run(features_of(model), pictures), expected, rtol=1e-6, atol=1e-6)
    assert same(list(ungraft(model).values()), list(ungraft(grafted).values()))


def test_bgr_goes_through_padding_only_into_a_convolution_that_reads_the_picture():
    inputs = keras.Input((8, 8, 3))
    depthwise = keras.Model(inputs, layers.DepthwiseConv2D(3, name="first")(layers.ZeroPadding2D()(inputs)))
    with pytest.raises(InputError, match=r"BGR can only .* 'first' \(DepthwiseConv2D\) reads it"):
        greffon.graft(depthwise, 4, preprocessing="caffe")
    two = keras.Model(
        inputs,
        layers.Concatenate()([layers.Conv2D(2, 3, padding="same")(inputs), layers.Conv2D(2, 1)(inputs)]),
    )
    picture = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    model = greffon.graft(two, 4, preprocessing="caffe")
    got = run(features_of(model, two.layers[-1].name), picture)
    expected = run(two, picture[..., ::-1] - (103.939, 116.779, 123.68))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


# --- heads -----------------------------------------------------------------------------------------------------


def adaptive_average(x, cells):
    """What is known as adaptive average pooling: cell i covers floor(i n / g) to ceil((i + 1) n / g)."""
    n, height, width, channels = x.shape
    out = np.empty((n, cells, cells, channels), x.dtype)
    for row in range(cells):
        for column in range(cells):
            rows = slice(row * height // cells, -(-(row + 1) * height // cells))
            columns = slice(column * width // cells, -(-(column + 1) * width // cells))
            out[:, row, column] = x[:, rows, columns].mean((1, 2))
    return out.reshape(n, -1)


@pytest.mark.parametrize(("side", "cells"), [(7, 2), (7, 3), (6, 2), (6, 3), (3, 3), (2, 2), (5, 2)])
def test_grids_are_adaptive_averages_without_parameters(side, cells):
    inputs = keras.Input((side, side, 3))
    backbone = keras.Model(inputs, layers.Conv2D(5, 1, name="conv5_block1_out")(inputs))
    model = greffon.graft(backbone, 4, greffon.Head(pool=f"grid{cells}"), preprocessing="none")
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype("float32")
    got = run(keras.Model(model.input, model.get_layer("head_flatten").output), x)
    np.testing.assert_allclose(got, adaptive_average(run(backbone, x), cells), rtol=1e-4, atol=1e-5)
    assert [layer.count_params() for layer in split_parts(model).head] == [0, 0, cells**2 * 5 * 4 + 4]


@pytest.mark.parametrize(
    ("pool", "names", "features"),
    [
        ("avg", ["head_pool"], 1024),
        ("max", ["head_pool"], 1024),
        ("grid2", ["head_pool", "head_flatten"], 4 * 1024),
        ("flatten", ["head_flatten"], 2 * 2 * 1024),
    ],
)
def test_pools(backbone, pool, names, features):
    model = greffon.graft(backbone, 4, greffon.Head(pool=pool), preprocessing="caffe")
    assert [layer.name for layer in split_parts(model).head] == [*names, "head_output"]
    assert model.get_layer("head_output").kernel.shape == (features, 4)


def test_pools_that_do_not_fit_are_refused(backbone):
    with pytest.raises(InputError, match="at least 3 x 3, got 2 x 2"):
        greffon.graft(backbone, 4, greffon.Head(pool="grid3"), preprocessing="caffe")
    anysize = small(input_shape=(None, None, 3))
    for pool in ("flatten", "grid2"):
        with pytest.raises(InputError, match="known height and width"):
            greffon.graft(anysize, 4, greffon.Head(pool=pool), preprocessing="caffe")
    assert greffon.graft(anysize, 4, preprocessing="caffe").input_shape == (None, None, None, 3)


def test_the_head_as_asked(grafted):
    hidden, dropout, output = (grafted.get_layer(f"head_{name}") for name in ("hidden", "dropout", "output"))
    assert (hidden.units, hidden.activation.__name__, dropout.rate) == (8, "relu", 0.5)
    assert (output.units, output.activation.__name__) == (4, "softmax")


def test_sigmoid_gives_one_probability_per_label(backbone, pictures):
    model = greffon.graft(backbone, 3, greffon.Head(output="sigmoid"), preprocessing="caffe")
    answers = run(model, pictures)
    assert answers.shape == (3, 3)
    assert not np.allclose(answers.sum(1), 1, atol=1e-3)
    assert greffon.graft(backbone, 1, greffon.Head(output="sigmoid"), preprocessing="caffe").output_shape == (None, 1)


def test_the_classifier_is_float32_under_a_half_precision_policy(backbone):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = greffon.graft(backbone, 4, greffon.Head(hidden=8), preprocessing="caffe")
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.get_layer("head_hidden").compute_dtype == "float16"
    assert model.get_layer("head_output").compute_dtype == "float32"
    assert model.output.dtype == "float32"


def test_initial_weights_follow_keras_seed(backbone):
    models = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        models.append(greffon.graft(backbone, 4, preprocessing="caffe").get_layer("head_output").get_weights())
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize("classes", [0, -1, 1, True, 2.5, "ten", ["cat", "dog"]])
def test_classes_out_of_range_are_refused(backbone, classes):
    with pytest.raises(InputError, match="classes must be"):
        greffon.graft(backbone, classes, preprocessing="caffe")


def test_an_unknown_activation_is_answered_with_the_nearest(backbone):
    with pytest.raises(InputError, match="did you mean 'relu'"):
        greffon.graft(backbone, 4, greffon.Head(hidden=8, activation="relo"), preprocessing="caffe")


# --- a layer of the user's own ---------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test_graft")
class Scaled(layers.Layer):
    """Class probabilities with a weight of its own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units, activation="softmax", name="inner")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x / 2)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.dense.units)


def test_an_own_layer_keeps_its_name_and_is_head_also_after_loading(backbone, tmp_path):
    model = greffon.graft(backbone, 4, greffon.Head(layer=Scaled(4, name="my_classifier")), preprocessing="caffe")
    model.save(tmp_path / "model.keras")
    for copy in (model, keras.saving.load_model(tmp_path / "model.keras")):
        assert [layer.name for layer in split_parts(copy).head] == ["head_pool", "my_classifier"]
        table = greffon.freeze(copy)
        assert table.trainable_count == 1024 * 4 + 4
        with pytest.raises(greffon.FreezeError, match="nothing is left to train"):
            greffon.freeze(copy, "!head_*")


def test_an_own_layer_whose_config_has_no_name_keeps_it_too(backbone):
    class Nameless(layers.Layer):
        def __init__(self, units, **options):  # not "kwargs": Keras then leaves the name out of the config
            super().__init__(**options)
            self.dense = layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    layer = Nameless(4, name="mine")
    assert "name" not in layer.get_config()
    assert greffon.graft(backbone, 4, greffon.Head(layer=layer), preprocessing="caffe").layers[-1].name == "mine"


def test_one_head_with_an_own_layer_can_be_grafted_twice(backbone):
    head = greffon.Head(layer=layers.Dense(4, activation="softmax", name="mine"))
    first, second = (greffon.graft(backbone, 4, head, preprocessing="caffe") for _ in range(2))
    assert first.get_layer("mine") is not second.get_layer("mine")
    assert not head.layer.built


def test_weights_of_an_own_layer_that_has_some_are_kept(backbone):
    dense = layers.Dense(4, name="mine")
    dense.build((None, 1024))
    model = greffon.graft(backbone, 4, greffon.Head(layer=dense), preprocessing="caffe")
    assert same(model.get_layer("mine").get_weights(), dense.get_weights())


@pytest.mark.parametrize("with_input", [True, False])
def test_an_own_sequential_is_unfolded(backbone, with_input):
    own = [layers.Dense(6, name="mine_1"), keras.Sequential([layers.Dense(4, name="mine_2")], name="deep")]
    head = greffon.Head(layer=keras.Sequential([keras.Input((1024,)), *own] if with_input else own, name="mine"))
    model = greffon.graft(backbone, 4, head, preprocessing="caffe")
    assert [layer.name for layer in split_parts(model).head] == ["head_pool", "mine_1", "mine_2"]


def test_own_layers_that_do_not_fit_are_refused(backbone):
    def graft(layer, classes=4):
        return greffon.graft(backbone, classes, greffon.Head(layer=layer), preprocessing="caffe")

    with pytest.raises(InputError, match=r"one value per class, \(batch, 4\), got \(None, 3\)"):
        graft(layers.Dense(3))
    with pytest.raises(InputError, match="does not take features of shape"):
        graft(layers.Conv2D(4, 1))
    with pytest.raises(InputError, match="must be a Keras layer, got str"):
        graft("dense")
    with pytest.raises(InputError, match="would be called 'conv1_conv'"):
        graft(layers.Dense(4, name="conv1_conv"))

    class NoConfig(layers.Dense):
        def __init__(self, numbers):
            super().__init__(4)
            self.numbers = numbers

        get_config = layers.Layer.get_config

    with pytest.raises(InputError, match="cannot be copied"):
        graft(NoConfig(np.zeros(3)))


# --- other people's backbones ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: small(pooling="avg"), lambda: small(include_top=True, classes=7)])
def test_a_backbone_with_pooling_or_classifier_is_refused_by_name(make):
    backbone = make()
    with pytest.raises(InputError) as error:
        greffon.graft(backbone, 4, preprocessing="caffe")
    assert "avg_pool (GlobalAveragePooling2D)" in str(error.value)
    cut = keras.Model(backbone.input, backbone.get_layer("conv5_block1_out").output)
    assert "m.get_layer('conv5_block1_out').output" in str(error.value)
    assert greffon.graft(cut, 4, preprocessing="caffe").output_shape == (None, 4)


def test_what_is_no_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(InputError, match="Functional or Sequential"):
        greffon.graft(Own(), 4)
    with pytest.raises(InputError, match="does not know its input shape"):
        greffon.graft(keras.Sequential([layers.Conv2D(3, 3)]), 4)
    two = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    with pytest.raises(InputError, match="one input and one output, got 2 and 1"):
        greffon.graft(keras.Model(two, layers.Add()(two)), 4)


class Times(layers.Layer):
    """Takes its factor in the call, as graphs can."""

    def call(self, x, factor=1.0):
        return x * factor


def test_nested_models_shared_layers_and_bare_operations_are_copied_as_called():
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    inner_in = keras.Input((8, 8, 3))
    inner = keras.Model(inner_in, layers.BatchNormalization(name="norm")(shared(inner_in)), name="inner")
    deeper = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 9, name="scale"), inner], name="deeper")
    inputs = keras.Input((8, 8, 3))
    x = deeper(inputs)
    x = layers.Add(name="sum")([x, shared(x)]) + 2.0 * inputs
    x = layers.MultiHeadAttention(2, 4, name="attention")(Times(name="times")(x, factor=3.0), key=x, value=x)
    backbone = keras.Model(inputs, x, name="outer")
    model = greffon.graft(backbone, 4, preprocessing="none")
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert [layer.name for layer in split_parts(model).backbone] == [
        *("scale", "shared", "norm", "sum", "times", "attention")
    ]
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    got = run(features_of(model, "attention"), x)
    np.testing.assert_allclose(got, run(backbone, x), rtol=1e-5, atol=1e-5)
    assert {"shared/kernel", "norm/moving_mean", "attention/query/kernel"} < set(ungraft(model))


def test_an_adapted_normalization_in_the_backbone_still_normalizes():
    normal = layers.Normalization(name="normal")
    normal.adapt(np.random.default_rng(0).normal(50, 20, (64, 4, 4, 3)))
    inputs = keras.Input((4, 4, 3))
    backbone = keras.Model(inputs, layers.Conv2D(3, 1, name="conv")(normal(inputs)))
    x = np.random.default_rng(1).normal(50, 20, (2, 4, 4, 3)).astype("float32")
    got = run(features_of(greffon.graft(backbone, 4, preprocessing="none"), "conv"), x)
    np.testing.assert_allclose(got, run(backbone, x), rtol=1e-5, atol=1e-5)


def test_a_name_that_two_nested_models_have_is_told_apart():
    inner = [
        keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(3, 1, name="conv")], name=name) for name in ("a", "b")
    ]
    backbone = keras.Sequential([keras.Input((4, 4, 3)), *inner])
    model = greffon.graft(backbone, 4, preprocessing="none")
    assert [layer.name for layer in split_parts(model).backbone] == ["conv", "b_conv"]


def test_mobilenet_from_keras_applications():
    backbone = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    model = greffon.graft(backbone, 4, preprocessing="tf")
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    got = run(features_of(model, "out_relu"), x)
    expected = run(backbone, keras.applications.mobilenet_v2.preprocess_input(x.copy()))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# --- parts -----------------------------------------------------------------------------------------------------


def named(layers_):
    return [layer.name for layer in layers_]


def test_parts_of_a_grafted_model(grafted, backbone):
    parts = split_parts(grafted)
    assert named(parts.preprocessing) == ["pictures", "greffon_preprocessing_caffe"]
    assert named(parts.backbone) == named(backbone.layers[1:])
    assert named(parts.head) == ["head_pool", "head_hidden", "head_dropout", "head_output"]
    assert parts.first_index == 1


def test_parts_of_a_sequential_with_a_nested_backbone(backbone):
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.Sequential([layers.RandomFlip(name="flip")], name="augmentation"),
            backbone,
            layers.Flatten(name="flat"),
            layers.Dense(4, name="last"),
        ]
    )
    parts = split_parts(model)
    assert named(parts.preprocessing) == ["flip"]
    assert named(parts.backbone) == named(backbone.layers)
    assert named(parts.head) == ["flat", "last"]
    assert parts.path(parts.backbone[1]) == f"{backbone.name}/conv1_pad"


def test_pooling_of_a_nested_backbone_belongs_to_the_head():
    base = small(pooling="avg")
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, layers.Dense(4, name="last")(base(inputs, training=False)))
    parts = split_parts(keras.Sequential([model]))
    assert parts.backbone[-1].name == "conv5_block1_out"
    assert named(parts.head) == ["avg_pool", "last"]


def test_a_nested_head_on_a_flat_backbone_is_a_head():
    base = small(input_shape=(32, 32, 3))
    head = keras.Sequential([layers.Flatten(name="flat"), layers.Dense(4, name="last")])
    parts = split_parts(keras.Model(base.input, head(base.output)))
    assert (len(parts.backbone), named(parts.head)) == (len(base.layers), ["flat", "last"])


def test_parts_of_flat_models(backbone):
    top = split_parts(small(include_top=True, classes=7))
    assert (top.backbone[-1].name, named(top.head)) == ("conv5_block1_out", ["avg_pool", "predictions"])
    bare = split_parts(backbone)
    assert (len(bare.backbone), bare.head, bare.preprocessing) == (len(backbone.layers), [], [])
    mlp = split_parts(keras.Sequential([keras.Input((4,)), *(layers.Dense(3, name=name) for name in "abc")]))
    assert (named(mlp.backbone), named(mlp.head)) == (["a", "b"], ["c"])


# --- guards ----------------------------------------------------------------------------------------------------


def test_scaled_floats_are_refused(grafted, pictures):
    scaled = pictures / np.float32(255)
    with pytest.raises(InputError, match=r"0\.\.255.*floats of at most 1"):
        reject_scaled_pictures(grafted, [scaled, scaled])
    with pytest.raises(InputError, match="divided by 255"):
        reject_scaled_pictures(grafted, [(keras.ops.convert_to_tensor(scaled), np.zeros(3))])
    with pytest.raises(InputError, match="divided by 255"):
        reject_scaled_pictures(grafted, [{"pictures": scaled.astype("float16")}])


def test_other_pictures_and_other_models_are_never_refused(grafted, backbone, pictures):
    dark = np.zeros((2, SIDE, SIDE, 3), np.float32)
    reject_scaled_pictures(grafted, [dark, pictures.astype("float32")])
    reject_scaled_pictures(grafted, [np.zeros_like(pictures)])
    reject_scaled_pictures(grafted, [])
    reject_scaled_pictures(grafted, [np.full((1, SIDE, SIDE, 3), np.nan, np.float32)])
    reject_scaled_pictures(backbone, [dark])
    reject_scaled_pictures(greffon.graft(backbone, 4, preprocessing="none"), [dark])


def test_flatten_on_few_pictures_is_warned_of_with_both_counts(caplog):
    backbone = small("v1", input_shape=(224, 224, 3))
    head = greffon.Head(pool="flatten", hidden=256, dropout=0.5)
    with caplog.at_level(logging.WARNING, logger="greffon"):
        model = greffon.graft(backbone, 10, head, preprocessing="caffe")
    assert "25,690,368 parameters" in caplog.text
    text = flatten_warning(model, 200)
    assert "7x7x2048" in text
    assert "25,690,368" in text
    assert "524,544" in text
    assert "128,452 for each of 200 pictures" in text
    assert flatten_warning(model, 30_000) is None


def test_flatten_by_hand_is_found_and_other_heads_are_not(backbone, caplog):
    def by_hand(*head):
        return keras.Sequential([keras.Input((SIDE, SIDE, 3)), backbone, *head])

    assert "16,388" in flatten_warning(by_hand(layers.Flatten(), layers.Dense(4)), 10)
    assert flatten_warning(by_hand(layers.GlobalAveragePooling2D(), layers.Flatten(), layers.Dense(4)), 1) is None
    with caplog.at_level(logging.WARNING, logger="greffon"):
        model = greffon.graft(backbone, 4, greffon.Head(pool="grid2"), preprocessing="caffe")
    assert flatten_warning(model, 1) is None
    assert not caplog.records


def test_config_of_a_grafted_model_is_json(grafted):
    assert json.loads(grafted.to_json())["config"]["name"] == grafted.name


def test_norms_that_were_folded_into_convolutions_are_told():
    assert "frozen" in folded_norms_warning(greffon.graft(greffon.resnet50("thin", input_shape=(32, 32, 3)), 2))
    fresh = resnet((1, 1, 1, 1), "thin", input_shape=(32, 32, 3))
    assert folded_norms_warning(greffon.graft(fresh, 2, preprocessing="caffe")) is None
