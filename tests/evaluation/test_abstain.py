from __future__ import annotations

import json

import numpy as np
import pytest

from greffon.errors import InputError
from greffon.evaluation.abstain import confidence_for, risk_coverage, selected
from greffon.evaluation.intervals import upper_bound
from greffon.evaluation.scores import Answers


def _made(count, seed=0):
    """Answers of two classes that are right as often as they say."""
    random = np.random.default_rng(seed)
    sure = random.uniform(0.5, 1.0, count) ** 0.3
    right = random.uniform(size=count) < sure
    return Answers.of(np.stack([sure, 1 - sure], axis=1), np.stack([right, ~right], axis=1))


def test_numbers_worked_out_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    answers = Answers.of(p, np.array([[1, 0], [0, 1], [0, 1], [1, 0]]))
    found = selected(answers, 0.7)
    assert (found.answered, found.wrong, found.coverage, found.error) == (3, 1, 0.75, pytest.approx(1 / 3))
    assert found.bound == upper_bound(1, 3)
    assert "75.0% of the pictures are answered (3 of 4), 33.3% of the answers are wrong" in str(found)
    assert selected(answers, 0.0).coverage == 1
    nothing = selected(answers, 1.0)
    assert (nothing.answered, nothing.error, nothing.bound) == (0, None, 1.0)
    assert json.loads(json.dumps(nothing.to_dict()))["error_interval_95"] is None
    curve = risk_coverage(answers)
    assert [point["coverage"] for point in curve] == [0.25, 0.5, 0.75, 1.0]
    assert [point["error"] for point in curve] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert [point["confidence"] for point in curve] == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_several_labels_are_as_sure_as_the_least_sure_of_them():
    answers = Answers.of(np.array([[0.9, 0.4], [0.05, 0.99]]), np.array([[1, 0], [0, 1]]), several_labels=True)
    np.testing.assert_allclose(answers.confidence, [0.6, 0.95])
    assert selected(answers, 0.9).answered == 1


def test_the_wanted_error_is_kept_on_new_pictures_in_95_percent():
    broken, found = 0, []
    truth = _made(200_000, seed=10**6)
    for seed in range(150):
        try:
            chosen = confidence_for(_made(600, seed), 0.08)
        except InputError:
            continue
        found.append(chosen.coverage)
        broken += selected(truth, chosen.min_confidence).error > 0.08
    assert len(found) > 75
    assert 0.2 < np.mean(found) < 1
    assert broken <= 0.05 * 150 + 5  # two standard errors above


def test_all_are_answered_where_all_are_good_enough():
    right = np.ones(300, bool)
    right[:3] = False
    sure = np.linspace(0.6, 0.99, 300)
    answers = Answers.of(np.stack([sure, 1 - sure], axis=1), np.stack([right, ~right], axis=1))
    found = confidence_for(answers, 0.1)
    assert (found.coverage, found.wrong) == (1.0, 3)
    assert found.bound <= 0.1


def test_equal_confidences_are_answered_together():
    sure = np.array([0.9] * 100 + [0.6] * 100)
    right = np.arange(200) < 100
    answers = Answers.of(np.stack([sure, 1 - sure], axis=1), np.stack([right, ~right], axis=1))
    assert confidence_for(answers, 0.05).answered == 100
    assert len(risk_coverage(answers)) == 2


def test_what_cannot_be_promised_is_said():
    with pytest.raises(InputError, match="cannot be promised from 100 labelled pictures: it takes at least 149 pic"):
        confidence_for(_made(100), 0.02)
    with pytest.raises(InputError, match="no number of pictures shows that"):
        confidence_for(_made(100), 0.0)
    wrong = Answers.of(np.tile([[0.9, 0.1]], (300, 1)), np.tile([[0, 1]], (300, 1)))
    with pytest.raises(InputError, match="of the surest 300 answers 300 are wrong"):
        confidence_for(wrong, 0.02)
    for value in (-0.1, 2.0):
        with pytest.raises(InputError, match=r"max_error must be in 0\.\.1"):
            confidence_for(_made(100), value)
    with pytest.raises(InputError, match=r"min_confidence must be in 0\.\.1, got 80.*80 % is 0\.8"):
        selected(_made(100), 80)


def test_every_error_may_be_allowed():
    assert confidence_for(_made(10), 1.0).coverage == 1.0


def test_the_curve_of_many_pictures_has_few_points_and_ends_with_all():
    answers = _made(5000)
    curve = risk_coverage(answers, points=50)
    assert len(curve) == 50
    assert curve[-1]["coverage"] == 1.0
    assert curve[-1]["error"] == pytest.approx(1 - answers.correct.mean())
