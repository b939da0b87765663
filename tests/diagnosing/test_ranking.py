"""Comparing, ranking and carrying on, without any network."""

from __future__ import annotations

import numpy as np
import pytest

from greffon.diagnosing.compare import Change, compared, rightness
from greffon.diagnosing.needed import extrapolated
from greffon.diagnosing.result import Diagnosis, Finding, not_tested, ranked


def test_causes_are_ranked_by_what_they_cost_whether_too_good_or_too_bad():
    findings = [
        not_tested("a", "why"),
        Finding("b", "not found", "", Change(0.1, 0.9)),
        Finding("c", "found", "", Change(0.5, 0.6)),
        Finding("d", "found", "", Change(0.9, 0.5)),
        Finding("e", "found", "", decides=True),
    ]
    assert [it.cause for it in ranked(findings)] == ["e", "d", "c", "b", "a"]
    found = Diagnosis(ranked(findings), 10, 3, 0.5)
    assert [it.cause for it in found.found] == ["e", "d", "c"]
    assert not found.ok
    assert "a could not be tested: why" in str(found)
    assert found.to_dict()["findings"][1]["gain"] == pytest.approx(-0.4)


def test_chance_is_no_gain_and_copies_are_one_picture():
    random = np.random.default_rng(0)
    before, after = random.random((2, 200)) < 0.7
    assert not compared(before, after).helps
    gained = np.zeros(60)
    gained[:12] = 1
    assert compared(np.zeros(60), gained).helps
    assert not compared(np.zeros(60), gained, groups=np.r_[np.zeros(12), np.arange(1, 49)]).helps


def test_weights_make_classes_count_alike():
    change = compared(np.array([1, 1, 1, 0]), np.array([1, 1, 1, 1]), weights=np.array([1, 1, 1, 3]))
    assert (change.now, change.without) == (0.5, 1.0)


def test_several_labels_are_right_by_share():
    answers, targets = np.array([[0.9, 0.2, 0.6, 0.1]]), np.array([[1, 0, 0, 0]])
    assert rightness(answers, targets, several_labels=True).tolist() == [0.75]


@pytest.mark.parametrize(("floor", "power"), [(0.0, 0.5), (0.1, 0.7), (0.2, 1.0)])
def test_a_power_law_is_carried_on(floor, power):
    counts = np.array([50.0, 100, 200, 400])
    errors = floor + 3 * counts**-power
    right = np.arange(4000) / 4000 >= errors[:, None]
    change = extrapolated(counts, right.astype(float))
    assert change.without == pytest.approx(1 - floor - 3 * 800.0**-power, abs=0.02)
    assert change.interval[0] <= change.gain <= change.interval[1]


def test_a_flat_curve_promises_nothing():
    right = np.tile(np.arange(300) % 5 > 0, (4, 1)).astype(float)
    change = extrapolated(np.array([10.0, 20, 40, 80]), right)
    assert change.gain == pytest.approx(0.0, abs=1e-9)
