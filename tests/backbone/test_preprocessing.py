"""Preprocessing as a layer: the numbers of Keras' own functions, and a saved model that tells what it holds."""

import keras
import numpy as np
import pytest
from keras.src.applications import imagenet_utils

from greffon.backbone.preprocessing import preprocessing_layers, preprocessing_of
from greffon.errors import InputError
from greffon.weights.sets import PREPROCESSINGS, Preprocessing

MINE = Preprocessing(
    "mine", resize="pad", size=96, channel_order="BGR", scale=1 / 128, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
)


def _pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)


def _applied(preprocessing, pictures):
    x = pictures
    for layer in preprocessing_layers(preprocessing):
        x = layer(x)
    x = keras.ops.convert_to_numpy(x)
    return x[..., ::-1] if preprocessing.channel_order == "BGR" else x


@pytest.mark.parametrize("name", ["caffe", "torch", "tf"])
def test_the_numbers_of_keras(name):
    expected = imagenet_utils.preprocess_input(_pictures(), data_format="channels_last", mode=name)
    np.testing.assert_allclose(_applied(PREPROCESSINGS[name], _pictures()), expected, atol=2e-5)


def test_the_numbers_of_open_nsfw():
    expected = _pictures()[..., ::-1] - np.array([104, 117, 123], np.float32)
    np.testing.assert_array_equal(_applied(PREPROCESSINGS["open_nsfw"], _pictures()), expected)


def test_none_changes_nothing_but_leaves_its_name():
    np.testing.assert_array_equal(_applied(PREPROCESSINGS["none"], _pictures()), _pictures())
    (layer,) = preprocessing_layers(PREPROCESSINGS["none"])
    assert layer.name == "greffon_preprocessing_none"


def test_a_record_of_ones_own():
    expected = ((_pictures() / 128 - np.array(MINE.mean)) / np.array(MINE.std))[..., ::-1]
    np.testing.assert_allclose(_applied(MINE, _pictures()), expected, rtol=1e-5, atol=1e-6)


def _model(preprocessing):
    inputs = keras.Input((96, 96, 3), dtype="float32", name="pictures")
    x = inputs
    for layer in preprocessing_layers(preprocessing):
        x = layer(x)
    return keras.Model(inputs, keras.layers.Conv2D(2, 3)(x))


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_a_saved_model_tells_what_it_holds(tmp_path, name):
    model = _model(PREPROCESSINGS[name])
    assert not model.layers[1].weights
    assert model.layers[1].name.endswith(f"_{name}")
    model.save(tmp_path / "model.keras")
    opened = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert preprocessing_of(opened) is PREPROCESSINGS[name]
    pictures = np.random.default_rng(1).uniform(0, 255, (1, 96, 96, 3)).astype(np.float32)
    np.testing.assert_array_equal(opened(pictures), model(pictures))


def test_a_saved_model_tells_a_record_of_ones_own(tmp_path):
    model = _model(MINE)
    model.save(tmp_path / "model.keras")
    found = preprocessing_of(keras.models.load_model(tmp_path / "model.keras"))
    assert (found.name, found.channel_order, found.size) == ("mine", "BGR", 96)
    np.testing.assert_allclose(_applied(found, _pictures()), _applied(MINE, _pictures()), rtol=1e-5, atol=1e-6)


def test_it_is_found_inside_a_nested_model():
    model = keras.Sequential([_model(PREPROCESSINGS["torch"]), keras.layers.Flatten()])
    assert preprocessing_of(model) is PREPROCESSINGS["torch"]


def test_other_peoples_models_have_none():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    assert preprocessing_of(model) is None


def test_half_precision_does_not_touch_it():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        got = _applied(PREPROCESSINGS["caffe"], _pictures())
    finally:
        keras.config.set_dtype_policy(before)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, _applied(PREPROCESSINGS["caffe"], _pictures()))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Preprocessing("caffe", channel_order="BGR", mean=(1, 2, 3)), "must have another name"),
        (Preprocessing("my own"), "letters, digits"),
        (Preprocessing("bgr_mine"), "not start with 'bgr_'"),
        (Preprocessing("mine", std=(1, 0, 1)), "must be positive"),
        (Preprocessing("mine", scale=0), "must be positive"),
    ],
)
def test_records_that_cannot_be_used(record, message):
    with pytest.raises(InputError, match=message):
        preprocessing_layers(record)


def test_resize_rule_and_size_may_differ_under_a_known_name():
    record = Preprocessing("tf", resize="stretch", size=160, scale=1 / 127.5, mean=(1.0, 1.0, 1.0))
    assert preprocessing_layers(record)[0].name == "greffon_preprocessing_tf"
