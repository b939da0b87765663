"""The solved head is scikit-learn's solution, in the features' own coordinates, at a penalty that was searched."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from greffon.errors import DataError, InputError
from greffon.evaluation.probe import solve


def _made(n=120, d=20, classes=3, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = random.normal(size=(classes, d))
    features = centres[labels] * spread + random.normal(size=(n, d)) * random.uniform(0.1, 5, d) + 7
    return features.astype(np.float32), np.eye(classes)[labels]


@pytest.mark.parametrize(("n", "d"), [(120, 20), (40, 300)], ids=["more pictures", "more features"])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_solution_of_scikit_learn(n, d, classes):
    features, targets = _made(n, d, classes)
    probe = solve(features, targets, strengths=[0.01])
    scaler = StandardScaler().fit(features.astype(float))
    reference = LogisticRegression(C=0.01, max_iter=2000, tol=1e-9).fit(
        scaler.transform(features), targets.argmax(axis=1)
    )
    expected = reference.predict_proba(scaler.transform(features))
    np.testing.assert_allclose(probe.probabilities(features), expected, atol=2e-3)


def test_the_penalty_is_searched_on_pictures_that_are_held_out():
    features, targets = _made(spread=0.3, d=60)
    probe = solve(features, targets)
    losses = {strength: solve(features, targets, strengths=[strength]).log_loss for strength in (1e-5, 1e-2, 10.0)}
    assert probe.log_loss <= min(losses.values()) + 1e-9
    assert 1e-5 < probe.strength < 10


def test_held_out_answers_are_of_a_probe_that_has_not_seen_the_picture():
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(90, 200)), np.eye(2)[random.integers(0, 2, 90)]
    probe = solve(features, targets, strengths=[10.0])
    seen = (probe.probabilities(features).argmax(1) == targets.argmax(1)).mean()
    unseen = (probe.held_out.argmax(1) == targets.argmax(1)).mean()
    assert seen == 1.0
    assert unseen < 0.75, "labels are noise"
    np.testing.assert_allclose(probe.held_out.sum(axis=1), 1, atol=1e-5)


def test_groups_are_held_out_together():
    random = np.random.default_rng(1)
    bases = random.normal(size=(30, 50))
    features = np.repeat(bases, 4, axis=0) + 0.01 * random.normal(size=(120, 50))
    targets = np.eye(2)[np.repeat(random.integers(0, 2, 30), 4)]  # noise, but copies share it
    groups = np.repeat(np.arange(30), 4)
    leaking, kept = solve(features, targets, strengths=[1.0]), solve(features, targets, groups=groups, strengths=[1.0])
    right = [(probe.held_out.argmax(1) == targets.argmax(1)).mean() for probe in (leaking, kept)]
    assert right[0] > 0.95
    assert right[1] < 0.8


def test_groups_are_held_out_together_with_several_labels_too():
    random = np.random.default_rng(1)
    bases = random.normal(size=(30, 50))
    features = np.repeat(bases, 4, axis=0) + 0.01 * random.normal(size=(120, 50))
    targets = np.repeat(random.integers(0, 2, (30, 2)), 4, axis=0)  # noise, but copies share it
    groups = np.repeat(np.arange(30), 4)
    right = [
        ((solve(features, targets, several_labels=True, strengths=[1.0], **it).held_out > 0.5) == targets).mean()
        for it in ({}, {"groups": groups})
    ]
    assert right[0] > 0.95
    assert right[1] < 0.8


def test_several_labels_are_independent_problems():
    random = np.random.default_rng(2)
    features = random.normal(size=(150, 6))
    targets = (features[:, :3] > 0).astype(float)
    probe = solve(features, targets, several_labels=True)
    right = (probe.probabilities(features) > 0.5) == targets
    assert right.mean() > 0.95
    single = solve(features, np.stack([1 - targets[:, 0], targets[:, 0]], axis=1), strengths=[probe.strength])
    np.testing.assert_allclose(probe.probabilities(features)[:, 0], single.probabilities(features)[:, 1], atol=0.02)


def test_a_label_that_all_or_none_have():
    features = np.random.default_rng(3).normal(size=(30, 4))
    targets = np.stack([np.ones(30), np.zeros(30), features[:, 0] > 0], axis=1).astype(float)
    probabilities = solve(features, targets, several_labels=True).probabilities(features)
    assert (probabilities[:, 0] > 0.9).all()
    assert (probabilities[:, 1] < 0.1).all()


def test_a_class_without_pictures_gets_no_probability():
    features, targets = _made(classes=2)
    wide = np.concatenate([targets, np.zeros((len(targets), 1))], axis=1)
    assert solve(features, wide).probabilities(features)[:, 2].max() < 1e-6


def test_weights_count():
    features, targets = _made(60, 3, 2, spread=0.1)
    heavy = np.where(targets[:, 0] == 1, 50.0, 1.0)
    probe = solve(features, targets, weights=heavy, strengths=[0.1])
    assert probe.probabilities(features)[:, 0].mean() > 0.9


def test_one_picture_a_class_has_no_cross_validation():
    probe = solve(np.eye(3), np.eye(3))
    assert probe.held_out is None
    assert np.isnan(probe.log_loss)
    assert (probe.probabilities(np.eye(3)).argmax(1) == [0, 1, 2]).all()


def test_features_that_stand_still_say_nothing():
    features, targets = _made()
    still = np.concatenate([features, np.full((len(features), 2), 3.0)], axis=1)
    probe = solve(still, targets, strengths=[0.01])
    assert np.isfinite(probe.kernel).all()
    assert (probe.kernel[-2:] == 0).all()
    expected = solve(features, targets, strengths=[0.01]).probabilities(features)
    np.testing.assert_allclose(probe.probabilities(still), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("features", "targets", "error", "words"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), InputError, "are expected"),
        (np.full((2, 2), np.nan), np.eye(2), InputError, "finite"),
        (np.zeros((2, 2)), np.ones((2, 2)), InputError, "one 1 in each row"),
        (np.zeros((2, 2)), np.array([[1, 0], [1, 0]]), DataError, "two classes"),
    ],
)
def test_bad_input(features, targets, error, words):
    with pytest.raises(error, match=words):
        solve(features, targets)
