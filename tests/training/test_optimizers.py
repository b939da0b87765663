"""Schedules, rates of groups, decays: what the optimizer of a stage does beside Keras' own, checked step by step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fit_sides import small_network

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.backbone.freeze import freeze  # noqa: E402
from greffon.backbone.graft import graft  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.errors import InputError  # noqa: E402
from greffon.training.optimizers import (  # noqa: E402
    constant_rate,
    make_optimizer,
    pretrained_values,
    rate_factors,
)
from greffon.training.practice import notes_on  # noqa: E402
from greffon.training.schedule import Ramp, ramp_of, rate_of_epoch  # noqa: E402


def value(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


@pytest.fixture(scope="module")
def grafted():
    keras.utils.set_random_seed(0)
    return graft(resnet((1, 1, 1, 1), input_shape=(32, 32, 3)), 3, preprocessing="caffe")


def steps(stage, count=1, *, model=None, epoch=10, pretrained=None, gradient=1.0, rate=0.1):
    """Steps with a constant gradient on a small model: its trainable variables after each, and the optimizer."""
    model = model or small_network()
    optimizer = make_optimizer(stage, model, rate=rate, steps=epoch, pretrained=pretrained)
    variables = model.trainable_variables
    optimizer.build(variables)
    seen = [[value(it) for it in variables]]
    for _ in range(count):
        optimizer.apply([keras.ops.full(it.shape, gradient) for it in variables])
        seen.append([value(it) for it in variables])
    return seen, optimizer, model


# --- schedules ------------------------------------------------------------------------------------------------------


def test_nothing_asked_for_is_keras_own_optimizer():
    for name, kind in (
        ("adam", keras.optimizers.Adam),
        ("sgd", keras.optimizers.SGD),
        ("lbfgs", keras.optimizers.Adam),
    ):
        optimizer = make_optimizer(greffon.Stage(optimizer=name), small_network(), rate=1e-3)
        assert type(optimizer) is kind
        assert optimizer.weight_decay is None
    assert ramp_of(greffon.Stage(), 10) is None


def test_cosine_falls_from_the_peak_to_nothing_behind_a_warm_up():
    factors = Ramp("cosine", warmup=10, steps=110, epoch=10).at(np.arange(110))
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert (np.diff(factors[10:]) < 0).all()
    assert 0 < factors[-1] < 1e-3


def test_one_cycle_rises_falls_and_ends_low():
    factors = Ramp("one-cycle", warmup=0, steps=100, epoch=10).at(np.arange(100))
    assert factors.argmax() == 44
    assert factors.max() == pytest.approx(1.0)
    assert factors[0] < 0.13
    assert factors[89] == pytest.approx(0.1)
    assert factors[-1] == pytest.approx(0.001)
    assert (np.diff(factors[:45]) > 0).all()
    assert (np.diff(factors[44:]) < 0).all()


def test_a_step_beyond_the_last_gets_its_rate():
    ramp = Ramp("cosine", warmup=0, steps=4, epoch=2)
    assert float(ramp.at(9)) == float(ramp.at(3)) > 0
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ramp.at(keras.ops.arange(4))), ramp.at(np.arange(4)), rtol=1e-5
    )


def test_each_step_is_as_long_as_the_schedule_says():
    stage = greffon.Stage(optimizer="sgd", schedule="cosine", warmup=0.5, epochs=1)
    seen, optimizer, _ = steps(stage, 8, epoch=8)
    moved = [float((before[0] - after[0]).mean()) for before, after in itertools.pairwise(seen)]
    np.testing.assert_allclose(moved, 0.1 * ramp_of(stage, 8).at(np.arange(8)), rtol=1e-3)
    assert rate_of_epoch(optimizer, 0) == pytest.approx(np.mean(moved), rel=1e-3)


def test_while_a_rate_is_looked_for_the_schedule_is_left_out():
    stage = greffon.Stage(optimizer="sgd", schedule="one-cycle", epochs=2)
    model = small_network()
    optimizer = make_optimizer(stage, model, rate=0.1, steps=4)
    optimizer.build(model.trainable_variables)
    with constant_rate(optimizer):
        optimizer.learning_rate = 0.03
        assert float(value(optimizer.learning_rate)) == pytest.approx(0.03)
        assert rate_of_epoch(optimizer, 0) == pytest.approx(0.03)
    assert float(value(optimizer.learning_rate)) == pytest.approx(0.0105)
    with constant_rate(keras.optimizers.Adam()):
        pass


def test_a_warm_up_longer_than_the_stage_or_of_a_one_cycle_is_refused():
    with pytest.raises(InputError, match="at most the 2 epochs"):
        greffon.Stage(epochs=2, warmup=3)
    with pytest.raises(InputError, match="rise of its own"):
        greffon.Stage(schedule="one-cycle", warmup=1)


# --- rates of groups ------------------------------------------------------------------------------------------------


def by_layer(model, before, after):
    moved = {}
    for variable, one, other in zip(model.trainable_variables, before, after, strict=True):
        moved[variable.path] = float(np.abs(other - one).max())
    return moved


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_lower_groups_take_shorter_steps(grafted, name):
    freeze(grafted, "all")
    stage = greffon.Stage(optimizer=name, group_decay=0.5)
    start = grafted.get_weights()
    seen, _, _ = steps(stage, 2, model=grafted, rate=0.01)
    moved = by_layer(grafted, seen[1], seen[2])
    grafted.set_weights(start)
    expected = {"head_output": 1.0, "conv5": 0.5, "conv4": 0.25, "conv3": 0.125, "conv2": 0.0625, "conv1": 0.03125}
    for path, step in moved.items():
        if path.endswith("beta"):  # starts at 0: no rounding beside large values
            group = next(it for it in expected if path.startswith(it))
            assert step == pytest.approx(0.01 * expected[group], rel=2e-2), path
    assert {path.split("_")[0] for path in moved} >= {"conv5", "conv4", "conv3", "conv2", "conv1"}
    assert moved["head_output/bias"] == pytest.approx(0.01, rel=1e-2)


def test_without_group_decay_there_are_no_factors(grafted):
    assert rate_factors(grafted, 1.0) == {}


# --- decays ---------------------------------------------------------------------------------------------------------


def test_adamw_decays_kernels_alone():
    model = small_network()
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    seen, optimizer, _ = steps(greffon.Stage(optimizer="adamw", weight_decay=0.5), 1, model=model, gradient=0.0)
    assert type(optimizer) is keras.optimizers.AdamW
    for variable, after in zip(model.trainable_variables, seen[1], strict=True):
        np.testing.assert_allclose(after, 0.95 if len(variable.shape) > 1 else 1.0, rtol=1e-5)


@pytest.mark.parametrize(("stage", "decay"), [({"optimizer": "adamw"}, 0.004), ({"weight_decay": 0.0}, None)])
def test_the_decay_that_nobody_names(stage, decay):
    assert make_optimizer(greffon.Stage(**stage), small_network(), rate=1e-3).weight_decay == decay


def test_decay_follows_schedule_and_group(grafted):
    freeze(grafted, "conv5")
    start = grafted.get_weights()
    stage = greffon.Stage(weight_decay=0.5, group_decay=0.5, schedule="cosine", warmup=1, epochs=4)
    seen, _, _ = steps(stage, 1, model=grafted, gradient=0.0, epoch=2)
    names = [variable.path for variable in grafted.trainable_variables]
    grafted.set_weights(start)
    for name, before, after in zip(names, *seen, strict=True):
        if name.endswith("kernel"):
            rate = 0.1 * 0.5 * (0.5 if name.startswith("conv5") else 1.0)
            np.testing.assert_allclose(after, before * (1 - rate * 0.5), rtol=1e-4)


def test_l2_sp_draws_the_backbone_to_where_it_was_whatever_the_gradient(grafted):
    freeze(grafted, "conv5")
    start = grafted.get_weights()
    pretrained = pretrained_values(grafted)
    for variable in grafted.trainable_variables:
        variable.assign(variable + 1.0)
    seen, optimizer, _ = steps(greffon.Stage(l2_sp=2.0), 3, model=grafted, gradient=0.0, pretrained=pretrained)
    names = [variable.path for variable in grafted.trainable_variables]
    grafted.set_weights(start)
    for number, name in enumerate(names):
        left = (seen[3][number] - seen[0][number] + 1.0).mean()
        assert left == pytest.approx(1.0 if name.startswith("head") else 0.8**3, rel=1e-3), name
    assert len([it for it in optimizer.variables if "anchor" in it.path]) == len(names) - 2


def test_momentum_of_sgd():
    plain, heavy, nesterov = (
        steps(greffon.Stage(optimizer="sgd", **more), 2)[0]
        for more in ({}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True})
    )
    for seen, expected in ((plain, 0.2), (heavy, 0.25), (nesterov, 0.15 + 0.175)):
        np.testing.assert_allclose(seen[0][0] - seen[2][0], expected, rtol=1e-3)


def test_what_does_nothing_is_told():
    assert notes_on(greffon.Stage(optimizer="sgd", momentum=0.9, nesterov=True), [(4,)]) == []
    assert "sgd" in notes_on(greffon.Stage(nesterov=True), [(4,)])[0]
    assert "momentum is 0" in notes_on(greffon.Stage(optimizer="sgd", nesterov=True), [(4,)])[0]


def test_the_running_mean_forgets_its_first_steps_sooner():
    seen, optimizer, model = steps(greffon.Stage(optimizer="sgd", ema=0.5), 6)
    mean = seen[1][0]
    for number in range(1, 6):
        kept = min(0.5, (1 + number) / (10 + number))
        mean = kept * mean + (1 - kept) * seen[number + 1][0]
    weight = model.trainable_variables[0]
    optimizer.swap()
    np.testing.assert_allclose(value(weight), mean, rtol=1e-5)
    optimizer.finalize_variable_values(model.trainable_variables)
    optimizer.swap()
    np.testing.assert_array_equal(value(weight), seen[-1][0])
