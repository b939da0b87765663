"""Changes of pooled activations: in training only, repeatable, within their bounds, also under XLA."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from greffon.errors import InputError
from greffon.frozen.feature_augment import FeatureAugment, check_pooled
from greffon.recipe import Recipe

X = np.random.default_rng(0).gamma(0.5, 1.0, (6, 2048)).astype("float32")


def changed(augment, x=X, **options):
    return keras.ops.convert_to_numpy(augment(x, training=True, **options))


@pytest.mark.parametrize("training", [False, None])
def test_inference_gives_what_comes(training):
    augment = FeatureAugment(noise=0.5, brightness=0.5)
    np.testing.assert_array_equal(augment(X, training=training), X)


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_array_equal(changed(FeatureAugment()), X)


def test_noise_is_a_share_of_each_pictures_standard_deviation():
    x = X * np.array([1, 2, 5, 10, 0, 1], "float32")[:, None]
    noise = changed(FeatureAugment(noise=0.3), x) - x
    np.testing.assert_allclose(noise.std(axis=1), 0.3 * x.std(axis=1), rtol=0.06, atol=1e-7)
    assert abs(noise[0].mean()) < 0.03
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.1  # each picture has its own


def test_brightness_stays_within_the_pictures_range():
    y = changed(FeatureAugment(brightness=0.2))
    low, high = X.min(axis=1, keepdims=True), X.max(axis=1, keepdims=True)
    assert (y >= low - 1e-6).all()
    assert (y <= high + 1e-6).all()
    share = (y - X) / (high - low)
    assert 0.19 < share.max() <= 0.2 + 1e-6
    assert share.min() >= -0.2 - 1e-6
    assert share[0].std() > 0.02


def test_a_picture_of_one_value_has_no_range():
    flat = np.full((2, 8), 3, "float32")
    np.testing.assert_allclose(changed(FeatureAugment(noise=0.5, brightness=0.5), flat), flat)


def test_a_seed_gives_the_same_steps_and_no_two_are_alike():
    first, second, other = (FeatureAugment(0.1, 0.1, seed=seed) for seed in (3, 3, 4))
    steps = [changed(first) for _ in range(3)]
    for step in steps:
        np.testing.assert_array_equal(changed(second), step)
    assert not np.array_equal(steps[0], steps[1])
    assert not np.array_equal(changed(other), steps[0])


def test_it_has_no_weights_and_takes_lists_and_half_precision():
    augment = FeatureAugment(noise=0.1, brightness=0.1)
    assert augment.weights == []
    assert augment.trainable_variables == []
    assert augment.compute_output_shape((None, 8)) == (None, 8)
    (only,) = augment([X.astype("float16")], training=True)
    assert keras.backend.standardize_dtype(only.dtype) == "float32"


@pytest.mark.parametrize("jit", [True, False])
def test_a_model_trains_through_it(jit):
    keras.utils.set_random_seed(0)
    augment = FeatureAugment(noise=0.1, brightness=0.1, seed=1)
    model = keras.Sequential([keras.Input((2048,)), augment, keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", jit_compile=jit)
    state = keras.ops.convert_to_numpy(augment.generator.state).copy()
    losses = model.fit(X, np.array([0, 1] * 3), epochs=8, batch_size=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.array_equal(keras.ops.convert_to_numpy(augment.generator.state), state)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.predict(X, verbose=0))


def test_maps_of_features_are_refused():
    with pytest.raises(InputError, match=r"\(batch, channels\), got \(2, 3, 3, 4\)"):
        changed(FeatureAugment(noise=0.1), np.zeros((2, 3, 3, 4), "float32"))


@pytest.mark.parametrize("options", [{"noise": -0.1}, {"brightness": 1.5}, {"brightness": -0.5}])
def test_wrong_strengths_are_refused(options):
    with pytest.raises(InputError, match=r"noise must be at least 0 and brightness from 0 to 1"):
        FeatureAugment(**options)


@pytest.mark.parametrize("shapes", [[(7, 7, 1024)], [(1024,), (1024,)], [(224, 224, 3)]])
def test_a_cut_that_is_not_pooled_is_refused_with_the_way_out(shapes):
    recipe = Recipe(feature_noise=0.1, feature_brightness=0.2)
    with pytest.raises(InputError, match=r"feature_noise 0.1 and feature_brightness 0.2: .*'block'.*--unfreeze none"):
        check_pooled(recipe, shapes, stage="block", where="conv5_block2_out")
    check_pooled(Recipe(), shapes, stage="block", where="conv5_block2_out")


def test_a_pooled_cut_is_taken():
    check_pooled(Recipe(feature_brightness=0.2), [(1024,)], stage="head", where="head_pool")
