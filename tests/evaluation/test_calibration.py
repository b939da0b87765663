from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from greffon.errors import InputError
from greffon.evaluation.calibration import Bin, Calibration, calibrate, fit_temperature, tempered
from greffon.evaluation.scores import Answers, calibration_error


def _made(count=400, sharper=3.0, classes=4, several_labels=False, seed=0):
    """Probabilities that are `sharper` times as sure as they should be, and labels; and the right probabilities."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(count, classes))
    right = tempered(1 / (1 + np.exp(-logits)), 1.0, several_labels=True) if several_labels else _softmax(logits)
    said = 1 / (1 + np.exp(-sharper * logits)) if several_labels else _softmax(sharper * logits)
    if several_labels:
        return said.astype(np.float32), random.uniform(size=right.shape) < right
    labels = (random.uniform(size=(count, 1)) > right.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return said.astype(np.float32), np.eye(classes)[labels]


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("several_labels", [False, True])
@pytest.mark.parametrize("sharper", [0.5, 3.0])
def test_the_temperature_has_the_least_loss_that_a_search_finds(several_labels, sharper):
    said, targets = _made(sharper=sharper, several_labels=several_labels)

    def loss(log_temperature):
        p = tempered(said, np.exp(log_temperature), several_labels=several_labels)
        return -np.log(np.where(targets, p, 1 - p if several_labels else 1.0)).mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    found = fit_temperature(said, targets, several_labels=several_labels)
    assert found == pytest.approx(expected, rel=1e-3)
    assert found == pytest.approx(sharper, rel=0.25)


@pytest.mark.parametrize("several_labels", [False, True])
def test_probabilities_mean_what_they_say_afterwards_on_other_pictures_too(several_labels):
    found = calibrate(*_made(600, several_labels=several_labels), several_labels=several_labels)
    assert found.fitted_on == "validation"
    assert (found.count, found.reason) == (600, "")
    assert found.log_loss_after < found.log_loss_before
    assert found.ece_after < found.ece_before / 2
    said, targets = _made(20_000, several_labels=several_labels, seed=1)
    before = Answers.of(said, targets, several_labels=several_labels)
    after = Answers.of(found.apply(said), targets, several_labels=several_labels)
    assert calibration_error(after) < 0.03 < calibration_error(before)
    assert after.losses.mean() < before.losses.mean()
    np.testing.assert_array_equal(after.called, before.called)


def test_dividing_the_logits_is_what_it_does():
    logits = np.random.default_rng(0).normal(size=(50, 5)) * 8
    found = Calibration(temperature=1.7)
    np.testing.assert_allclose(found.apply(_softmax(logits).astype(np.float32)), _softmax(logits / 1.7), atol=1e-6)
    found = Calibration(temperature=0.6, several_labels=True)
    sigmoid = 1 / (1 + np.exp(-logits / 8))
    np.testing.assert_allclose(found.apply(sigmoid), 1 / (1 + np.exp(-logits / 8 / 0.6)), atol=1e-6)


def test_certain_answers_and_pictures_that_could_not_be_read():
    given = np.array([[1.0, 0.0, 0.0], [np.nan] * 3, [0.0, 0.5, 0.5]], np.float32)
    for several in (False, True):
        with np.errstate(all="raise"):
            values = Calibration(temperature=2.5, several_labels=several).apply(given)
        assert values.dtype == np.float32
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]]).all()
        assert values[0].argmax() == 0
        assert values[2, 1] == values[2, 2]
    assert Calibration(temperature=2.0).apply(np.zeros((0, 3))).shape == (0, 3)


def test_without_a_temperature_nothing_is_changed():
    given = np.array([[0.3, 0.7], [1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(Calibration().apply(given), given)


def test_few_validation_pictures_leave_it_at_1_and_say_why():
    found = calibrate(*_made(99))
    assert (found.temperature, found.fitted_on, found.count) == (1.0, "nothing", 0)
    assert "99 pictures that were not learned from are too few" in found.reason
    assert found.log_loss_after == found.log_loss_before
    assert found.reason in str(found)


def test_few_validation_pictures_and_a_solved_head_take_its_held_out_answers():
    held_out = _made(300, seed=2)
    found = calibrate(*_made(60), out_of_fold=held_out)
    assert (found.fitted_on, found.count) == ("out-of-fold", 300)
    assert found.temperature == fit_temperature(*held_out)
    assert found.log_loss_after < found.log_loss_before
    assert "60 validation pictures are fewer than 100" in found.reason
    assert calibrate(*_made(60), out_of_fold=_made(30)).temperature == 1.0


def test_a_temperature_that_makes_the_validation_loss_worse_is_not_taken():
    found = calibrate(*_made(60, sharper=1.0), out_of_fold=_made(300, sharper=8.0))
    assert (found.temperature, found.fitted_on) == (1.0, "nothing")
    assert "made the validation loss no better" in found.reason
    assert found.log_loss_after == found.log_loss_before


@pytest.mark.parametrize("seed", range(8))
def test_the_validation_loss_is_never_worse(seed):
    found = calibrate(*_made(100, sharper=1.0, seed=seed))
    assert found.log_loss_after <= found.log_loss_before


def test_where_all_are_right_it_does_not_become_surer():
    found = calibrate(np.tile([[0.7, 0.3]], (200, 1)), np.tile([[1, 0]], (200, 1)))
    assert found.temperature == 1.0
    assert "all of 200 pictures are named right" in found.reason


def test_the_diagram_counts_every_answer_once():
    said, targets = _made(300)
    found = calibrate(said, targets)
    for bins, error in ((found.bins_before, found.ece_before), (found.bins_after, found.ece_after)):
        assert len(bins) == 15
        assert sum(one.count for one in bins) == 300
        assert all(one.low < one.said <= one.high + 1e-6 for one in bins if one.count)
        gap = sum(one.count * abs(one.said - one.true) for one in bins if one.count) / 300
        assert gap == pytest.approx(error)
    assert any(one.said is None and one.true is None for one in found.bins_before if not one.count)
    several = calibrate(*_made(200, several_labels=True), several_labels=True)
    assert sum(one.count for one in several.bins_before) == 800


def test_it_goes_through_json():
    found = calibrate(*_made())
    assert isinstance(found.bins_before[0], Bin)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert str(found).startswith(
        f"temperature {found.temperature:.3f}, fitted on 400 validation pictures; on validation"
    )


@pytest.mark.parametrize("values", [{"temperature": 0}, {"temperature": None}, {"other": 1}, {"bins_after": [3]}, []])
def test_something_else_is_no_calibration(values):
    with pytest.raises(InputError, match="no calibration of greffon"):
        Calibration.from_dict(values)


def test_shapes_that_do_not_go_together():
    with pytest.raises(InputError, match="as many labels are expected"):
        calibrate(np.zeros((3, 2)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="one label"):
        calibrate(np.zeros((3, 2)), np.zeros((3, 2)))


def test_no_validation_pictures():
    found = calibrate(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (found.temperature, found.ece_before, found.bins_after) == (1.0, None, ())
