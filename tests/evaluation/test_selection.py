"""Features that a head needs are found, as few as are no worse, and the same ones every time."""

import numpy as np
import pytest

from greffon.errors import DataError, InputError
from greffon.evaluation.selection import select

TOLD = [3, 17, 40, 41]


def _made(n=150, d=60, seed=0, classes=3):
    """Four features tell the classes, the others are noise of all lengths."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = random.normal(size=(n, d))
    features[:, TOLD] += random.normal(size=(classes, len(TOLD)))[labels] * 2.5
    return features * random.uniform(0.01, 9, d) + 5, np.eye(classes)[labels]


@pytest.mark.parametrize("n", [150, 45], ids=["more pictures", "more features"])
def test_features_that_tell_the_classes_are_kept(n):
    features, targets = _made(n)
    found = select(features, targets, shares=[4 / 60])
    assert found.kept.tolist() == TOLD
    assert list(found.losses) == [4 / 60]


def test_as_few_are_kept_as_are_no_worse_and_noise_costs():
    features, targets = _made()
    found = select(features, targets, shares=[4 / 60, 0.5, 1.0])
    assert found.share == 4 / 60
    assert found.losses[4 / 60] < found.losses[1.0]
    with_too_few = select(features, targets, shares=[1 / 60, 1.0])
    assert with_too_few.share == 1.0
    assert with_too_few.kept.tolist() == list(range(60))


def test_it_is_the_same_every_time_and_does_not_look_at_the_lengths_of_features():
    features, targets = _made()
    first = select(features, targets, shares=[0.2])
    np.testing.assert_array_equal(first.kept, select(features, targets, shares=[0.2]).kept)
    np.testing.assert_array_equal(first.kept, select(features * 3 - 8, targets, shares=[0.2]).kept)


def test_noise_does_not_look_better_than_it_is():
    """Chosen on all pictures, some of 2,000 features of noise would seem to tell the classes of those held out."""
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(60, 2000)), np.eye(2)[np.arange(60) % 2]
    found = select(features, targets, shares=[0.01])
    assert found.losses[0.01] > 0.68


def test_several_labels_weights_and_groups():
    random = np.random.default_rng(0)
    targets = (random.random((90, 3)) < 0.4).astype(float)
    features = random.normal(size=(90, 30))
    features[:, [2, 9, 20]] += 3 * targets
    options = {"several_labels": True, "groups": np.arange(90) // 2, "weights": random.uniform(0.5, 2, 90)}
    assert select(features, targets, shares=[0.1], **options).kept.tolist() == [2, 9, 20]


def test_too_few_pictures_to_hold_out_are_enough_to_rank():
    features, targets = _made(3, classes=3)
    found = select(features, targets, shares=[0.5])
    assert len(found.kept) == 30
    assert found.losses == {}


@pytest.mark.parametrize("shares", [[], [0.0, 1.0], [1.5]])
def test_shares_out_of_range_are_refused(shares):
    features, targets = _made()
    with pytest.raises(InputError, match="above 0 and at most 1"):
        select(features, targets, shares=shares)


def test_one_class_is_refused():
    with pytest.raises(DataError, match="at least two classes"):
        select(np.ones((4, 2)), np.eye(2)[[0, 0, 0, 0]])
