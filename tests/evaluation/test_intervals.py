from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from greffon.errors import InputError
from greffon.evaluation.intervals import mean_share_interval, resampled_counts, upper_bound, wilson_interval


@pytest.mark.parametrize(("wrong", "count"), [(0, 10), (1, 50), (20, 40)])
def test_at_the_upper_bound_so_few_mistakes_have_a_chance_of_5_percent(wrong, count):
    assert binom.cdf(wrong, count, upper_bound(wrong, count)) == pytest.approx(0.05)


def test_all_wrong_may_be_all_wrong():
    assert upper_bound(3, 3) == 1.0


@pytest.mark.parametrize("shares", [(0.95, 0.7, 0.5), (1.0, 0.99, 0.9)])
def test_the_interval_of_a_mean_of_shares_holds_it_in_95_percent(shares):
    random, counts = np.random.default_rng(0), [30, 12, 60]
    held = 0
    for _ in range(400):
        low, high = mean_share_interval(random.binomial(counts, shares).tolist(), counts)
        held += low <= np.mean(shares) <= high
    assert held / 400 >= 0.92


def test_of_one_share_it_is_wilsons():
    assert mean_share_interval([3], [7]) == pytest.approx(wilson_interval(3, 7))


def test_resamples_draw_as_many_as_there_are_and_are_the_same_in_any_parts(monkeypatch):
    whole = np.concatenate(list(resampled_counts(7, 50, seed=3)))
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    assert 0.9 < whole.mean() < 1.1
    monkeypatch.setattr("greffon.evaluation.intervals._CELLS", 70)
    parts = list(resampled_counts(7, 50, seed=3))
    assert len(parts) == 5
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("call", [lambda: mean_share_interval([], []), lambda: mean_share_interval([1], [1, 2])])
def test_nothing_to_take_the_mean_of(call):
    with pytest.raises(InputError, match="at least one"):
        call()


def test_more_mistakes_than_answers():
    with pytest.raises(InputError, match=r"in 0\.\.count"):
        upper_bound(3, 2)
