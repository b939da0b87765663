"""Many trainings on the same pictures: each gives what it gives alone, and the trunk runs once."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.errors import FreezeError, InputError  # noqa: E402
from greffon.frozen.engine import Engine  # noqa: E402

SHAPE, CLASSES, SEED = (32, 32, 3), 3, 3


@pytest.fixture(scope="module")
def pictures():
    """21 + 9: batches of 8 have a smaller last one."""
    random = np.random.default_rng(0)
    x = random.integers(0, 255, (30, *SHAPE), dtype=np.uint8)
    y = np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, 30)]
    return (x[:21], y[:21]), (x[21:], y[21:])


def build(head=None):
    keras.utils.set_random_seed(1)
    backbone = resnet(variant="v1", blocks=(1, 1, 1, 1), input_shape=SHAPE)
    return greffon.graft(backbone, CLASSES, head or greffon.Head(dropout=0.4), preprocessing="caffe")


def alone(stage, pictures, model=None):
    """What Keras makes of the same stage."""
    (x, y), validation = pictures
    model = model or build()
    greffon.freeze(model, stage.unfreeze, batch_norm=stage.batch_norm)
    optimizer = keras.optimizers.get({"class_name": stage.optimizer, "config": {"learning_rate": stage.learning_rate}})
    accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    model.compile(optimizer, "categorical_crossentropy", metrics=[accuracy], jit_compile=False)
    keras.utils.set_random_seed(SEED)
    options = {"epochs": stage.epochs, "batch_size": stage.batch_size, "validation_data": validation, "verbose": 0}
    return model.fit(x, y, **options).history, model


def stages(**options):
    options = {"epochs": 3, "batch_size": 8, "patience": None, "keep_best": False} | options
    return [
        greffon.Stage(name=f"{options.get('unfreeze', 'head')} {rate}", learning_rate=rate, **options)
        for rate in (1e-2, 1e-3, 3e-4)
    ]


def many(trials, pictures, model=None, **options):
    (x, y), validation = pictures
    return greffon.fit_many(model or build(), trials, x, y, validation_data=validation, seed=SEED, verbose=0, **options)


def assert_as_alone(result, pictures, model=None, rtol=2e-4):
    expected, trained = alone(result.trial.stage, pictures, model)
    assert len(result.history) == len(expected["loss"])
    for name, values in expected.items():
        np.testing.assert_allclose([row[name] for row in result.history], values, rtol=rtol, atol=1e-6, err_msg=name)
    restored = result.restore()
    x = pictures[1][0].astype("float32")
    np.testing.assert_allclose(restored(x), trained(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "optimizer", ["adam", *(pytest.param(name, marks=pytest.mark.large) for name in ("adamw", "sgd"))]
)
def test_heads_trained_at_once_are_as_trained_alone(pictures, optimizer):
    results = many(stages(optimizer=optimizer), pictures)
    assert [result.at_once for result in results] == [3, 3, 3]
    for result in results if optimizer == "adam" else results[1:2]:
        assert_as_alone(result, pictures)


@pytest.mark.large
def test_a_hidden_layer_with_dropout_too(pictures):
    head = greffon.Head(hidden=8, dropout=0.5)
    for result in many(stages()[:2], pictures, build(head)):
        assert result.at_once == 2
    assert_as_alone(result, pictures, build(head))


@pytest.mark.large
def test_deeper_trials_run_one_after_the_other_and_are_as_alone(pictures):
    results = many(stages(unfreeze="conv5")[:2], pictures)
    assert [result.at_once for result in results] == [1, 1]
    for result in results:
        assert_as_alone(result, pictures, rtol=1e-3)


def test_all_cuts_are_filled_in_one_pass_and_the_model_is_as_before(pictures, monkeypatch):
    rows = []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, inputs: (rows.append(len(inputs[0])), run(self, inputs))[1])
    model = build()
    greffon.freeze(model, "conv4")
    flags = {layer.name: layer.trainable for layer in model.layers}
    before = [np.array(weight) for weight in model.get_weights()]
    depths = ({}, {"unfreeze": "conv5"}, {"unfreeze": "conv4", "batch_norm": "train"})
    trials: list = [stages(epochs=1, **depth)[0] for depth in depths]
    trials.append(greffon.Trial(greffon.Stage(name="grid", epochs=1), greffon.Head(pool="max")))
    many(trials, pictures, model)
    assert sum(rows) == 30
    assert {layer.name: layer.trainable for layer in model.layers} == flags
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    many(trials, pictures, model)
    assert sum(rows) == 30


def test_other_heads_share_the_backbone(pictures):
    head = greffon.Head(pool="max", hidden=6)
    results = many([*stages()[:1], greffon.Trial(greffon.Stage(name="max", epochs=2, batch_size=8), head)], pictures)
    assert [layer.name for layer in results[1].restore().layers[-3:]] == ["head_pool", "head_hidden", "head_output"]
    keras.utils.set_random_seed(SEED)
    assert results[1].model.output_shape == (None, CLASSES)
    assert results[0].model.get_layer("conv5_block1_out") is results[1].model.get_layer("conv5_block1_out")


@pytest.mark.large
def test_heads_that_pool_all_blocks(pictures):
    """The model's own; beside it one on the last block, and one on some channels."""
    own, some = greffon.Head(pool="blocks"), greffon.Head(pool="blocks", channels=(0, 7, 300, 2000))
    other = greffon.Trial(greffon.Stage(name="avg", epochs=1, batch_size=8), greffon.Head(pool="avg"))
    narrow = greffon.Trial(greffon.Stage(name="narrow", epochs=1, batch_size=8), some)
    first, _, beside, narrowed = many([*stages()[:2], other, narrow], pictures, build(own))
    assert (first.at_once, beside.at_once) == (2, 1)
    assert_as_alone(first, pictures, build(own), rtol=1e-3)
    assert beside.model.get_layer("head_pool").input.shape[-1] == 2048
    assert narrowed.model.get_layer("head_output").input.shape[-1] == 4


@pytest.mark.large
def test_deeper_trials_of_a_head_that_pools_all_blocks(pictures):
    own = greffon.Head(pool="blocks")
    (result,) = many(stages(unfreeze="conv5")[:1], pictures, build(own))
    assert_as_alone(result, pictures, build(own), rtol=1e-3)


def test_each_model_stops_by_its_own_patience_and_keeps_its_best(pictures):
    rates = {"fast": 3.0, "slow": 1e-3}
    trials = [
        greffon.Stage(name=name, learning_rate=rate, epochs=8, patience=2, batch_size=8, optimizer="sgd")
        for name, rate in rates.items()
    ]
    together = many(trials, pictures)
    assert together[0].at_once == 2
    for trial, result in zip(trials, together, strict=True):
        (single,) = many([trial], pictures)
        assert single.at_once == 1
        assert (len(single.history), single.best) == (len(result.history), result.best)
        losses = [row["val_loss"] for row in result.history]
        assert result.best == int(np.argmin(losses)) + 1
        assert len(losses) == min(8, result.best + 2)
        assert result.val_loss == min(losses)
        model = result.restore()
        x, y = pictures[1]
        loss = keras.losses.categorical_crossentropy(y, model(x.astype("float32"))).numpy().mean()
        assert loss == pytest.approx(min(losses), rel=1e-4)


def test_bad_input_is_refused_and_nothing_is_changed(pictures):
    (x, y), validation = pictures
    some = greffon.Head(pool="blocks2", kept_share=0.2)
    model = build()
    before = [np.array(weight) for weight in model.get_weights()]
    cases = [
        (InputError, "different names", {"trials": [*stages(), *stages()]}),
        (InputError, "at least one", {"trials": []}),
        (InputError, "float16", {"activations": "float8"}),
        (InputError, "as pictures", {"y": y[:5]}),
        (InputError, "validation_data", {"validation_data": None}),
        (InputError, "shapes", {"validation_data": (validation[0][:, :16], validation[1])}),
        (InputError, "255", {"x": x / 255.0}),
        (InputError, "kept_share is for", {"trials": [greffon.Trial(stages()[0], some)]}),
        (InputError, "pool='auto' is for", {"trials": [greffon.Trial(stages()[0], greffon.Head(pool="auto"))]}),
        (FreezeError, "conv9", {"trials": [greffon.Stage(unfreeze="conv9")]}),
    ]
    for error, message, change in cases:
        given = {"trials": stages(), "x": x, "y": y, "validation_data": validation} | change
        with pytest.raises(error, match=message):
            greffon.fit_many(model, given.pop("trials"), given.pop("x"), given.pop("y"), verbose=0, **given)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
