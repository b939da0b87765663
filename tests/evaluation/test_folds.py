from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from greffon.errors import DataError, InputError
from greffon.evaluation.folds import _chosen, corrected_interval, folds
from greffon.evaluation.probe import solve


def _made(count=120, d=8, classes=3, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % classes)
    centres = spread * random.normal(size=(classes, d))
    return (centres[labels] + random.normal(size=(count, d))).astype(np.float32), np.eye(classes)[labels]


def test_it_is_what_scikit_learn_gives_on_the_same_folds():
    features, targets = _made(spread=0.5)
    labels = targets.argmax(axis=1)
    found = folds(features, targets, folds=4, repeats=2, seed=7, strengths=[0.1])
    standard = StandardScaler().fit_transform(features.astype(float))
    for repeat in range(2):
        dealt = StratifiedKFold(4, shuffle=True, random_state=7 + repeat).split(labels, labels)
        for fold, (train, test) in enumerate(dealt):
            model = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(standard[train], labels[train])
            expected = model.predict_proba(standard[test])
            np.testing.assert_allclose(found.probabilities[repeat][test], expected, atol=5e-3)
            assert found.accuracies[repeat, fold] == pytest.approx(model.score(standard[test], labels[test]), abs=0.04)
    assert found.accuracy == pytest.approx(found.accuracies.mean())
    assert (found.folds, found.repeats, found.count) == (4, 2, 120)


def test_labels_that_mean_nothing_are_guessed_no_better_than_by_chance():
    random = np.random.default_rng(3)
    features, targets = random.normal(size=(150, 40)), np.eye(3)[np.arange(150) % 3]
    found = folds(features, targets, repeats=3)
    low, high = found.interval
    assert low < 1 / 3 < high
    assert abs(found.accuracy - 1 / 3) < 0.12
    assert found.log_loss < 1.4  # a strong penalty: hardly surer than log 3


def test_the_interval_is_no_narrower_for_more_repeats_and_no_narrower_than_one_test():
    features, targets = _made(spread=0.4)
    found = folds(features, targets, repeats=4)
    low, high = found.interval
    share = found.accuracy
    assert high - low >= 2 * 1.9 * math.sqrt(share * (1 - share) / 124)
    assert low < share < high


def test_where_all_are_right_the_interval_has_a_width():
    features, targets = _made(count=60, spread=20.0)
    found = folds(features, targets, repeats=2)
    assert found.accuracy == 1.0
    assert found.interval[0] < 0.95
    assert found.interval[1] == 1.0


def test_the_corrected_interval_worked_out_by_hand():
    from scipy.stats import t

    values = np.array([0.7, 0.8, 0.9, 0.6])
    half = t.ppf(0.975, 3) * math.sqrt((1 / 4 + 1 / 1) * values.var(ddof=1))
    assert corrected_interval(values, 2) == (pytest.approx(max(0, 0.75 - half)), pytest.approx(min(1, 0.75 + half)))
    assert corrected_interval(values[:1], 2) == (0.0, 1.0)


def test_a_fold_has_no_part_in_its_own_penalty():
    losses = np.array([[3.0, 1.0, 1.0], [1.0, 2.0, 2.0]])  # by penalty, then fold
    assert _chosen(losses) == [0, 1, 1]
    losses[:, 0] = [0.0, 100.0]
    assert _chosen(losses)[0] == 0
    # Where one is worse, those that come later are not looked at.
    assert _chosen(np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])) == [0, 0]
    assert _chosen(np.array([[1.0, 1.0], [0.5, 0.5], [0.6, 0.6]])) == [1, 1]


def test_copies_of_a_picture_do_not_name_one_another():
    random = np.random.default_rng(0)
    once, labels = random.normal(size=(40, 30)), np.arange(40) % 2
    features = np.repeat(once, 3, axis=0) + 1e-3 * random.normal(size=(120, 30))
    targets, groups = np.eye(2)[np.repeat(labels, 3)], np.repeat(np.arange(40), 3)
    assert folds(features, targets, repeats=1).accuracy > 0.85
    assert folds(features, targets, repeats=1, groups=groups).accuracy < 0.7


def test_the_same_seed_gives_the_same_and_another_does_not():
    features, targets = _made(spread=0.4)
    first, second, other = (folds(features, targets, repeats=1, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert not np.array_equal(first.probabilities, other.probabilities)


def test_several_labels():
    features, targets = _made(classes=2, spread=1.5)
    several = np.concatenate([targets, np.ones((120, 1))], axis=1)
    found = folds(features, several, repeats=1, several_labels=True)
    assert found.accuracy > 0.8
    assert found.balanced_accuracy is None
    assert found.probabilities[0][:, 2].min() > 0.9


def test_a_class_with_few_pictures_gives_fewer_folds_and_one_picture_is_refused():
    features, targets = _made(count=61, classes=3)
    targets[:] = np.eye(3)[[0] * 30 + [1] * 28 + [2] * 3]
    assert folds(features, targets, repeats=1).folds == 3
    targets[:] = np.eye(3)[[0] * 30 + [1] * 30 + [2] * 1]
    with pytest.raises(DataError, match="at least two pictures of every class"):
        folds(features, targets)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folds": 1}, "folds must be at least 2"),
        ({"repeats": 0}, "repeats at least 1"),
        ({"groups": np.zeros(3)}, "groups must have one number per picture"),
    ],
)
def test_options_out_of_range(options, text):
    with pytest.raises(InputError, match=text):
        folds(*_made(), **options)


def test_it_prints_and_goes_into_json():
    told = []
    found = folds(*_made(), repeats=2, advance=told.append)
    assert told == [1, 1]
    assert str(found).startswith("2 x 5 folds of 120 pictures, a head solved on the features: accuracy")
    assert "balanced accuracy" in str(found)
    values = json.loads(json.dumps(found.to_dict()))
    assert len(values["accuracies"]) == 2


@pytest.mark.large
def test_the_interval_holds_the_accuracy_on_new_pictures_in_95_percent():
    """A Wilson interval that counts every naming of every repeat holds it in 70 %."""
    centres = 0.5 * np.random.default_rng(1).normal(size=(3, 10))
    held = 0
    for seed in range(80):
        random = np.random.default_rng(seed)

        def draw(count, random=random):
            labels = random.integers(0, 3, count)
            return centres[labels] + random.normal(size=(count, 10)), np.eye(3)[labels]

        features, targets = draw(120)
        found, probe = folds(features, targets), solve(features, targets)
        new, truth = draw(20_000)
        accuracy = (probe.probabilities(new).argmax(axis=1) == truth.argmax(axis=1)).mean()
        held += found.interval[0] <= accuracy <= found.interval[1]
    assert held / 80 >= 0.93
