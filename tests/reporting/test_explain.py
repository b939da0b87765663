"""Grad-CAM against closed forms: of a linear head the map is the weights of the class at each place."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

import greffon
from greffon.backbone.resnet import resnet
from greffon.errors import InputError
from greffon.reporting.explain import Explainer

SIDE, CLASSES = 96, 3


@pytest.fixture(scope="module")
def backbone():
    import keras

    keras.utils.set_random_seed(1)
    return resnet((1, 1, 1, 1), "thin", input_shape=(SIDE, SIDE, 3))


@pytest.fixture
def grafted(backbone):
    """Grafts a head onto the one backbone, which no test changes."""
    return lambda head: greffon.graft(backbone, CLASSES, head, preprocessing="caffe")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype(np.float32)


def numbers(variable):
    import keras

    return keras.ops.convert_to_numpy(variable)


def closed_form(features, kernel, classes, cells=1, softmax=True):
    """Every place's features by the weights of its cell, what speaks against the class cut off, the most made 1."""
    if softmax:
        kernel = kernel - kernel.mean(axis=1, keepdims=True)
    height, width = features.shape[1:3]
    weights = kernel.reshape(cells, cells, features.shape[3], CLASSES).repeat(height // cells, 0)
    weights = weights.repeat(width // cells, 1)
    raw = np.stack([(one * weights[..., number]).sum(-1) for one, number in zip(features, classes, strict=True)])
    assert (raw > 0).any(axis=(1, 2)).all()
    assert (raw < 0).any()  # else nothing would be cut off
    raw = raw.clip(0)
    return raw / raw.max(axis=(1, 2), keepdims=True)


def about_nothing_common(model, features, name="head_output"):
    """Weights that ask for what differs between places: without training all places look nearly the same."""
    layer = next(layer for layer in model.layers if name in layer.name)
    common = features.mean(axis=(0, 1, 2))
    kernel = numbers(layer.kernel)
    kernel = kernel - np.outer(common, common @ kernel) / (common @ common)
    layer.kernel.assign(kernel)
    return kernel


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_behind_an_average_it_is_the_weights_of_the_class(grafted, pictures, output):
    model = grafted(greffon.Head(output=output))
    explainer = Explainer(model)
    features = explainer.features(pictures)
    assert features.shape == (3, 3, 3, 1024)
    classes = [0, 2, 1]
    kernel = about_nothing_common(model, features)
    expected = closed_form(features, kernel, classes, softmax=output == "softmax")
    maps = explainer.maps(features, classes)
    np.testing.assert_allclose(maps, expected, atol=1e-4)
    assert not np.allclose(maps, explainer.maps(features, [1, 0, 2]), atol=1e-2)  # another class, another map


def test_behind_a_flattened_map_each_place_has_its_own_weights(grafted, pictures):
    model = grafted(greffon.Head(pool="flatten"))
    explainer = Explainer(model)
    features = explainer.features(pictures)
    kernel = numbers(model.get_layer("head_output").kernel)
    expected = closed_form(features, kernel, [0, 1, 2], cells=3)
    np.testing.assert_allclose(explainer.maps(features, [0, 1, 2]), expected, atol=1e-4)


def test_the_features_are_what_the_backbone_gives(grafted, pictures):
    import keras

    model = grafted(greffon.Head())
    last = model.get_layer("conv5_block1_out").output
    expected = keras.Model(model.input, last).predict(pictures, verbose=0)
    np.testing.assert_allclose(Explainer(model).features(pictures), expected, rtol=1e-3, atol=1e-3)


def test_a_sure_answer_is_explained_too(grafted, pictures):
    """The probability has no slope left where it is 1, the score in front of it has."""
    model = grafted(greffon.Head())
    layer = model.get_layer("head_output")
    explainer = Explainer(model)
    features = explainer.features(pictures)
    kernel = about_nothing_common(model, features)
    layer.bias.assign([100.0, 0.0, 0.0])
    assert model.predict(pictures, verbose=0)[:, 0].min() == 1.0
    np.testing.assert_allclose(explainer.maps(features, [0, 0, 0]), closed_form(features, kernel, [0, 0, 0]), atol=1e-4)


def test_what_is_added_to_all_scores_changes_nothing(grafted, pictures):
    model = grafted(greffon.Head())
    explainer = Explainer(model)
    features = explainer.features(pictures)
    kernel = about_nothing_common(model, features)
    before = explainer.maps(features, [0, 1, 2])
    model.get_layer("head_output").kernel.assign(kernel + np.random.default_rng(1).normal(size=(len(kernel), 1)))
    np.testing.assert_allclose(explainer.maps(features, [0, 1, 2]), before, atol=2e-3)


def test_hidden_units_and_a_head_that_ends_in_a_softmax_layer(grafted, pictures):
    import keras

    hidden = Explainer(grafted(greffon.Head(hidden=8, dropout=0.5)))
    maps = hidden.maps(hidden.features(pictures), [0, 1, 2])
    assert ((maps >= 0) & (maps <= 1)).all()
    assert np.isfinite(maps).all()
    dense = keras.layers.Dense(CLASSES, name="scores")
    model = grafted(greffon.Head(layer=keras.Sequential([dense, keras.layers.Softmax(name="last")])))
    explainer = Explainer(model)
    features = explainer.features(pictures)
    kernel = about_nothing_common(model, features, "scores")
    np.testing.assert_allclose(explainer.maps(features, [2, 1, 0]), closed_form(features, kernel, [2, 1, 0]), atol=1e-4)


def test_nothing_speaks_for_a_class_whose_weights_are_all_against_it(grafted, pictures):
    model = grafted(greffon.Head(output="sigmoid"))
    layer = model.get_layer("head_output")
    layer.kernel.assign(-np.abs(numbers(layer.kernel)))
    explainer = Explainer(model)
    assert not explainer.maps(explainer.features(pictures), [0, 1, 2]).any()


def test_wrong_questions(grafted, pictures):
    import keras

    explainer = Explainer(grafted(greffon.Head()))
    features = explainer.features(pictures)
    with pytest.raises(InputError, match="below 3"):
        explainer.maps(features, [0, 1, 3])
    with pytest.raises(InputError, match="one class for each of 3"):
        explainer.maps(features, [0])
    assert explainer.maps(features[:0], []).shape == (0, 3, 3)
    with pytest.raises(InputError, match="no feature map"):
        Explainer(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")]))


@pytest.mark.large
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_all_of_this_on_another_backend(backend):
    import keras

    if importlib.util.find_spec(backend) is None or keras.backend.backend() == backend:
        pytest.skip(f"needs {backend}, beside another backend")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not large", __file__]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": backend}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
