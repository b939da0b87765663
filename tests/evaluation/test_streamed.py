"""Read in blocks it is the same solution as scikit-learn's, whatever the blocks, and no more than one is held."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from greffon.errors import DataError, InputError
from greffon.evaluation import streamed
from greffon.evaluation.streamed import solve_streamed


def _made(n=900, d=24, classes=4, seed=0, far=7.0):
    """Overlapping classes; features of other lengths, far from zero, related to one another, and one that is flat."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    mixed = random.normal(size=(classes, d))[labels] * 0.7 + random.normal(size=(n, d)) @ random.normal(size=(d, d)) / 3
    features = mixed * random.uniform(0.1, 5, d) + far
    features[:, 3] = 2.5
    return features.astype(np.float32), np.eye(classes)[labels]


def _reference(features, labels, strength, weights=None):
    scaler = StandardScaler().fit(features.astype(float))
    standard = scaler.transform(features.astype(float))
    model = LogisticRegression(C=strength, max_iter=5000, tol=1e-10).fit(standard, labels, sample_weight=weights)
    return model.predict_proba(standard)


@pytest.mark.parametrize("widest", [4096, 8], ids=["covariance", "diagonal"])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_the_solution_of_scikit_learn(classes, strength, widest, monkeypatch):
    monkeypatch.setattr(streamed, "_WIDEST_COVARIANCE", widest)
    features, targets = _made(classes=classes)
    probe = solve_streamed(
        lambda rows: features[rows], targets, strengths=[strength], sample_bytes=200 * 96, block_bytes=70 * 96
    )
    np.testing.assert_allclose(
        probe.probabilities(features), _reference(features, targets.argmax(axis=1), strength), atol=1e-4
    )


def test_with_several_labels_every_class_is_a_problem_of_its_own():
    features, targets = _made()
    several = np.maximum(targets, np.roll(targets, 1, axis=0))
    several[:, 2], several[:, 3] = 1, 0  # a label that all have, and one that none has
    probe = solve_streamed(
        lambda rows: features[rows], several, several_labels=True, strengths=[0.1], sample_bytes=300 * 96,
        block_bytes=100 * 96,
    )  # fmt: skip
    answers = probe.probabilities(features)
    for column in (0, 1):
        np.testing.assert_allclose(answers[:, column], _reference(features, several[:, column], 0.1)[:, 1], atol=1e-4)
    assert (answers[:, 2] > 0.99).all()
    assert (answers[:, 3] < 0.01).all()


def test_pictures_count_by_their_weight_and_classes_without_one_are_never_named():
    features, targets = _made(classes=4)
    targets = np.concatenate([targets[:, :2], np.zeros((900, 1)), targets[:, 2:]], axis=1)
    weights = np.random.default_rng(1).uniform(0.2, 3, 900)
    probe = solve_streamed(
        lambda rows: features[rows], targets, weights=weights, strengths=[0.03], sample_bytes=300 * 96,
        block_bytes=128 * 96,
    )  # fmt: skip
    answers = probe.probabilities(features)
    expected = _reference(features, targets.argmax(axis=1), 0.03, weights)
    np.testing.assert_allclose(answers[:, [0, 1, 3, 4]], expected, atol=1e-4)
    assert answers[:, 2].max() < 1e-6


def test_only_a_block_or_the_sample_is_asked_for_at_once_and_all_pictures_are():
    features, targets = _made()
    asked = []

    def read(rows):
        asked.append(rows)
        return features[rows]

    probe = solve_streamed(read, targets, sample_bytes=150 * 96, block_bytes=64 * 96)
    assert max(map(len, asked)) <= 150
    sizes = [len(rows) for rows in asked if len(rows) <= 64]
    assert sum(sizes) % 900 == 1, "all of them a few times, and one to see how many features there are"
    assert all((np.diff(rows) > 0).all() for rows in asked)
    assert np.isfinite(probe.log_loss)
    assert probe.held_out is None


def test_the_penalty_is_chosen_on_the_sample():
    features, targets = _made()
    found = {
        strength: solve_streamed(
            lambda rows: features[rows], targets, strengths=[strength], sample_bytes=300 * 96
        ).log_loss
        for strength in (1e-5, 1e-2, 10.0)
    }
    probe = solve_streamed(lambda rows: features[rows], targets, strengths=list(found), sample_bytes=300 * 96)
    assert probe.strength == min(found, key=found.get)


def test_half_precision_features_far_from_zero_lose_nothing_more():
    features, targets = _made(far=0.0)
    half = (features + 300).astype(np.float16)
    probe = solve_streamed(lambda rows: half[rows], targets, strengths=[0.1], block_bytes=100 * 96)
    expected = _reference(half.astype(np.float32), targets.argmax(axis=1), 0.1)
    np.testing.assert_allclose(probe.probabilities(half.astype(np.float32)), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("read", "targets", "error", "message"),
    [
        (lambda rows: np.full((len(rows), 3), np.nan), np.eye(2)[[0, 1, 0, 1]], InputError, "finite"),
        (lambda rows: np.zeros((2, 3)), np.eye(2)[[0, 1, 0, 1]], InputError, r"\(1, d\) are expected"),
        (lambda rows: np.zeros((min(len(rows), 2), 3)), np.eye(2)[[0, 1, 0, 1]], InputError, r"\(4, 3\) are expected"),
        (lambda rows: np.zeros((len(rows), 3)), np.ones((4, 2)), InputError, "one 1 in each row"),
        (lambda rows: np.zeros((len(rows), 3)), np.eye(2)[[0, 0, 0]], DataError, "at least two classes"),
        (lambda rows: np.zeros((len(rows), 3)), np.zeros((0, 2)), DataError, "at least two classes"),
    ],
)
def test_what_is_no_problem_is_refused(read, targets, error, message):
    with pytest.raises(error, match=message):
        solve_streamed(read, targets)
