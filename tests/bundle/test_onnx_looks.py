from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from made_up_runs import picture

import greffon
from greffon.backbone.resnet import resnet
from greffon.bundle.onnx_form import keras_answers, onnx_form
from greffon.bundle.runner import OnnxRunner
from greffon.errors import InputError
from greffon.reporting.explain import Explainer

SIDE = 128  # a feature map of 4 x 4, on which grids overlap
PICTURES = np.stack([picture(seed, SIDE, SIDE) for seed in range(3)])


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(3)
    return resnet((1, 1, 1, 1), "thin", input_shape=(SIDE, SIDE, 3))


def _written(backbone, head):
    model = greffon.graft(backbone, 3, head, preprocessing="open_nsfw")
    content, why_not = onnx_form(model, ["a", "b", "c"], PICTURES, keras_answers(model, PICTURES))
    assert content is not None, why_not
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    return model, OnnxRunner(content)


@pytest.mark.parametrize(
    "head",
    [
        greffon.Head(),
        greffon.Head(pool="max", output="sigmoid"),
        greffon.Head(pool="grid3", hidden=8, dropout=0.3),
        greffon.Head(pool="flatten", hidden=8),
    ],
    ids=["avg", "max, several labels", "grid3, hidden", "flatten, hidden"],
)
def test_the_file_says_which_places_speak_for_a_class_as_gradients_do(backbone, head):
    model, runner = _written(backbone, head)
    features, feature_map, class_maps = runner.run([PICTURES], wanted=["features", "feature_map", "class_maps"])
    explainer = Explainer(model)
    expected = explainer.features(PICTURES)
    np.testing.assert_allclose(feature_map, expected, rtol=0, atol=1e-4 * expected.max())
    np.testing.assert_allclose(features, expected.mean(axis=(1, 2)), rtol=0, atol=1e-4 * expected.max())
    for number in range(3):
        given = np.maximum(class_maps[..., number], 0)
        most = given.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(
            given / np.where(most > 0, most, 1), explainer.maps(expected, [number] * 3), rtol=0, atol=1e-4
        )


def test_other_heads_have_features_but_no_maps_of_classes(backbone):
    _, runner = _written(backbone, greffon.Head(hidden=8, activation="gelu"))
    assert runner.outputs == ("probabilities", "feature_map", "features")
    with pytest.raises(InputError, match=r"gives probabilities, feature_map, features; it has no class_maps"):
        runner.run([PICTURES], wanted=["class_maps"])


def test_what_is_not_asked_for_is_not_given(backbone):
    _, runner = _written(backbone, greffon.Head(pool="grid2"))
    (alone,) = runner.run([PICTURES])
    beside, _ = runner.run([PICTURES], wanted=["probabilities", "class_maps"])
    assert alone.shape == (3, 3)
    np.testing.assert_allclose(alone, beside, rtol=0, atol=1e-6)
