"""Pictures with numbers that are none, and pictures of another scale, as `greffon.fit` is given them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import greffon
from greffon.backbone.resnet import resnet
from greffon.errors import InputError
from greffon.training import given
from greffon.training.given import PictureGuard

SIDE = 32


@pytest.fixture(scope="module")
def model():
    return greffon.graft(resnet((1, 1, 1, 1), input_shape=(SIDE, SIDE, 3)), 2, preprocessing="caffe")


@pytest.fixture(scope="module")
def other():
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])


def pictures(count=12, low=0.0, high=255.0, dtype="float32"):
    return np.linspace(low, high, count * SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3).astype(dtype)


def looked_at(model, x, what="pictures", batch=None):
    notes = []
    guard = PictureGuard(model, notes.append, what)
    if batch is None:
        guard.look_at_all([x])
        return notes
    for start in range(0, len(x), batch):
        guard.look([x[start : start + batch]])
    guard.close()
    return notes


@pytest.mark.parametrize("batch", [None, 1, 5])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_counted_and_the_first_picture_is_named(other, monkeypatch, batch, value):
    monkeypatch.setattr(given, "_CHUNK", 5 * SIDE * SIDE * 3 * 4)
    x = pictures()
    x[[3, 4, 11], 2, 2, 1] = value
    with pytest.raises(InputError, match="NaN or infinite") as refused:
        looked_at(other, x, "validation pictures", batch)
    first = {None: "3 of 12 validation pictures hold", 1: "1 of 4 validation pictures holds", 5: "2 of 5 "}[batch]
    assert first in str(refused.value) and "number 3 (counted from 0)" in str(refused.value)


def test_only_pictures_are_looked_at():
    inputs = [keras.Input((SIDE, SIDE, 3)), keras.Input((4,))]
    both = keras.Model(inputs, keras.layers.Concatenate()([keras.layers.Flatten()(inputs[0]), inputs[1]]))
    PictureGuard(both, print).look_at_all([pictures(), np.full((12, 4), np.nan)])


@pytest.mark.parametrize("batch", [None, 1, 12])
@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0, 1, "divided by 255 already"),
        (-1, 1, "divided by 255 already"),
        (-2.1, 2.6, "normalised already"),
        (-123.7, 151.1, "mean had been subtracted"),
        (0, 65535, "more than 8 bits"),
    ],
)
def test_other_scales_are_refused_where_the_model_prepares_pictures_itself(model, other, batch, low, high, said):
    random = np.random.default_rng(0)
    x = random.uniform(low, high, (12, SIDE, SIDE, 3)).astype("float32")
    with pytest.raises(InputError, match=r"must be RGB values of 0\.\.255") as refused:
        looked_at(model, x, batch=batch)
    assert said in str(refused.value)
    assert looked_at(other, x, batch=batch) == []


def test_sixteen_bits_are_refused_in_whole_numbers_too(model):
    with pytest.raises(InputError, match="more than 8 bits"):
        looked_at(model, pictures(high=65535, dtype="uint16"))
    assert looked_at(model, pictures(high=1, dtype="uint8")) == looked_at(model, pictures(high=1, dtype="int64")) == []


@pytest.mark.parametrize("batch", [None, 2])
def test_what_resizing_overshoots_by_is_warned_of_once(model, batch):
    (note,) = looked_at(model, pictures(low=-12, high=270), batch=batch)
    assert "values from -12 to" in note and "clip them" in note
    assert looked_at(model, pictures(), batch=batch) == []
