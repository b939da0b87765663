"""When int8 is refused: by share, never for one picture, and not for few pictures without looking at more."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from greffon.errors import CheckFailedError
from greffon.training.int8 import Agreement


def answers(labels, classes=3):
    return np.eye(classes, dtype="float32")[labels]


def compared(pictures, other):
    """Agreement of so many pictures, `other` of which are answered otherwise and wrongly."""
    right = np.zeros(pictures, int)
    ours = right.copy()
    ours[:other] = 1
    return Agreement.of(answers(ours), answers(right), answers(right))


def samples(train):
    return SimpleNamespace(train=np.arange(train))


def never(rows):
    raise AssertionError("no training picture has to be looked at")


def test_what_is_counted():
    found = compared(50, 3)
    assert (found.same, found.pictures) == (47, 50)
    assert found.accuracy_int8 == pytest.approx(0.94)
    assert found.accuracy_fp32 == 1.0
    assert "47 of 50" in str(found)


def test_a_picture_of_several_classes_is_right_with_any_of_them():
    targets = np.array([[1, 1, 0], [0, 0, 1]], "float32")
    found = Agreement.of(answers([0, 2]), answers([1, 1]), targets)
    assert (found.accuracy_int8, found.accuracy_fp32, found.same) == (1.0, 0.5, 0)


@pytest.mark.parametrize("other", [0, 1])
def test_one_disagreement_never_refuses(other):
    found = compared(20, other).with_training(never, samples(500))
    found.require(0.99)
    assert found.pictures == 20


def test_training_pictures_count_where_there_are_few_to_validate_on():
    def all_the_same(rows):
        return answers(np.zeros(len(rows), int)), answers(np.zeros(len(rows), int))

    found = compared(60, 2).with_training(all_the_same, samples(500))
    assert (found.same, found.pictures) == (198, 200)
    found.require(0.99)
    assert found.accuracy_int8 == pytest.approx(58 / 60)  # of the validation pictures alone


def test_two_disagreements_among_few_refuse_where_training_pictures_disagree_too():
    def every_tenth(rows):
        return answers((rows % 10 == 0).astype(int)), answers(np.zeros(len(rows), int))

    found = compared(60, 2).with_training(every_tenth, samples(40))
    assert (found.same, found.pictures) == (94, 100)
    with pytest.raises(CheckFailedError, match=r"94 of 100 pictures.*--precision fp32.*--min-agreement"):
        found.require(0.99)
    found.require(0.9)


def test_many_validation_pictures_decide_alone():
    found = compared(300, 4).with_training(never, samples(500))
    with pytest.raises(CheckFailedError, match="296 of 300"):
        found.require(0.99)
