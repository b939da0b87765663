"""One stage that unfreezes much becomes several; BatchNorm gets the statistics of the user's pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from short import short_backbone

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.backbone.freeze import freeze, trainable_state  # noqa: E402
from greffon.backbone.graft import graft  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.errors import FreezeError, InputError  # noqa: E402
from greffon.recipe import RECIPES  # noqa: E402
from greffon.training import norm_statistics as adapting  # noqa: E402
from greffon.training import purpose  # noqa: E402
from greffon.training.adapt_norms import adapt_norms  # noqa: E402
from greffon.training.gradual import gradual_stages  # noqa: E402

PROBE = greffon.Stage(name="probe", optimizer="lbfgs")
DEEP = greffon.Stage(name="deep", unfreeze="conv4", epochs=4, patience=2, learning_rate=1e-4, group_decay=0.5)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return graft(resnet((1, 1, 2, 2), variant="v1", input_shape=(32, 32, 3)), 3, preprocessing="tf")


def trains(model, stage):
    freeze(model, stage.unfreeze)
    return {layer.name.rsplit("_", 2)[0] for layer in model.layers if any(v.trainable for v in layer.weights)}


@pytest.mark.parametrize(
    ("gradual", "expected"),
    [
        ("block", [["conv5_block2"], ["conv5_block1"], ["conv4_block2"], ["conv4_block1"]]),
        ("group", [["conv5_block1", "conv5_block2"], ["conv4_block1", "conv4_block2"]]),
    ],
)
def test_each_step_unfreezes_one_part_more(model, gradual, expected):
    stage = DEEP.replace(unfreeze=("conv4", "conv5"), gradual=gradual)
    flags = trainable_state(model)
    stages = gradual_stages(greffon.Recipe(stages=(PROBE, stage)), model).stages
    assert trainable_state(model) == flags
    assert stages[0] == PROBE
    assert stages[-1] == stage.replace(gradual="no", carry_best=True)
    assert len({it.name for it in stages}) == len(expected) + 1
    wanted = set()
    for step, more in zip(stages[1:], expected, strict=True):
        wanted |= set(more)
        assert {it for it in trains(model, step) if it.startswith("conv")} == wanted
        assert (step.epochs, step.patience, step.group_decay, step.carry_best) == (4, 2, 0.5, True)


def test_a_first_stage_begins_with_the_head(model):
    first = gradual_stages(greffon.Recipe(stages=(DEEP.replace(gradual="group"),)), model).stages[0]
    assert (first.name, first.unfreeze, first.carry_best) == ("deep-head", "none", False)


def test_what_there_is_one_part_of_stays_one_stage(model):
    stage = DEEP.replace(unfreeze="conv5_block2", gradual="block")
    stages = gradual_stages(greffon.Recipe(stages=(PROBE, stage)), model).stages
    assert [it.name for it in stages] == ["probe", "deep"]
    recipe = greffon.Recipe(stages=(PROBE, DEEP))
    assert gradual_stages(recipe, model) is recipe


def test_rules_that_freeze_again_stay_and_wrong_ones_are_refused(model):
    stage = DEEP.replace(unfreeze=("conv5", "!conv5_*_bn"), gradual="block")
    step = gradual_stages(greffon.Recipe(stages=(PROBE, stage)), model).stages[1]
    assert step.unfreeze == ("conv5", "!conv5_*_bn", "!conv5_block1")
    with pytest.raises(FreezeError):
        gradual_stages(greffon.Recipe(stages=(DEEP.replace(unfreeze="conv9", gradual="block"),)), model)


def test_the_named_recipe(model):
    stages = gradual_stages(RECIPES["gradual"], model).stages
    assert [it.name for it in stages] == ["probe", "unfrozen-conv5_block2", "unfrozen"]


# --- BatchNorm ------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples():
    pixels = np.random.default_rng(1).integers(100, 255, (40, 32, 32, 3), dtype=np.uint8)
    return SimpleNamespace(train=np.arange(32), load=lambda rows: [pixels[rows]], pixels=pixels)


def statistics(model):
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return norms, [
        np.stack([np.array(keras.ops.convert_to_numpy(v)) for v in (norm.moving_mean, norm.moving_variance)])
        for norm in norms
    ]


@pytest.mark.parametrize("batch", [64, 8])
def test_the_first_norm_has_the_statistics_of_all_pictures_exactly(model, samples, monkeypatch, batch):
    monkeypatch.setattr(adapting, "_BATCH", batch)
    start, flags = model.get_weights(), trainable_state(model)
    norms, before = statistics(model)
    assert adapt_norms(model, samples, seed=0) == 32
    _, after = statistics(model)
    inputs = keras.Model(model.input, norms[0].input)(samples.pixels[:32].astype("float32"))
    seen = np.asarray(inputs)
    np.testing.assert_allclose(after[0][0], seen.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after[0][1], seen.var((0, 1, 2)), rtol=1e-3)
    assert all((one != other).any() for one, other in zip(before, after, strict=True))
    changed = [not np.array_equal(one, other) for one, other in zip(start, model.get_weights(), strict=True)]
    assert sum(changed) == 2 * len(norms), "nothing else moves"
    assert trainable_state(model) == flags
    assert norms[0].momentum == 0.99
    model.set_weights(start)


def test_with_one_batch_inference_is_what_training_was(model, samples):
    start = model.get_weights()
    adapt_norms(model, samples, seed=0)
    x = samples.pixels[:32].astype("float32")
    freeze(model, "all", batch_norm="train")
    in_training = np.asarray(model(x, training=True))
    model.set_weights(start)
    adapt_norms(model, samples, seed=0)
    np.testing.assert_allclose(np.asarray(model(x)), in_training, rtol=1e-3, atol=1e-5)
    model.set_weights(start)


def test_the_same_seed_gives_the_same_bits(model, samples, monkeypatch):
    monkeypatch.setattr(adapting, "_BATCH", 8)
    start, seen = model.get_weights(), []
    for seed in (3, 3, 4):
        model.set_weights(start)
        adapt_norms(model, samples, seed=seed)
        seen.append(np.concatenate([it.ravel() for it in statistics(model)[1]]))
    model.set_weights(start)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_a_backbone_without_norms_is_refused(samples):
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    plain = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(features)))
    with pytest.raises(InputError, match="no BatchNormalization"):
        adapt_norms(plain, samples, seed=0)


def test_weights_without_statistics_of_their_own_are_refused(samples):
    thin = graft(greffon.resnet50("thin", input_shape=(32, 32, 3)), 3)
    before = thin.get_weights()
    with pytest.raises(InputError, match="folded into the convolutions"):
        adapt_norms(thin, samples, seed=0)
    for old, new in zip(before, thin.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.large
def test_a_training_has_the_steps_as_stages_and_the_adapted_statistics(tmp_path, monkeypatch):
    from greffon.pictures.demo import demo_pictures
    from greffon.training.progress import Reporter

    stage = greffon.Stage(
        name="deep", unfreeze=("conv5", "!conv5_block1"), gradual="block", epochs=1, learning_rate=1e-4
    )
    recipe = greffon.Recipe(
        weights="thin", image_size=32, near_copies="ignore", stages=(stage,), norm_statistics="adapted"
    )
    monkeypatch.setattr(purpose, "build_backbone", short_backbone((1, 1, 1, 3)))
    run = greffon.train(demo_pictures(tmp_path / "pictures"), out=tmp_path / "run", recipe=recipe, reporter=Reporter())
    written = greffon.Recipe.from_yaml(run.path / "recipe.yaml")
    assert [it.name for it in written.stages] == ["deep-head", "deep-conv5_block3", "deep"]
    assert any("BatchNorm has the statistics" in note for note in run.summary["notes"])
    trained = keras.saving.load_model(run.path / "model.keras").get_layer("conv2_block1_1_bn")
    untouched = [
        bool((values == start).all()) for values, start in zip(trained.get_weights(), (1, 0, 0, 1), strict=True)
    ]
    assert untouched == [True, True, False, False]  # gamma and beta are frozen, mean and variance the pictures'
