"""When int8 is refused: by share, never for one picture, and not for few pictures without looking at more."""

from __future__ import annotations

import numpy as np
import pytest

from greffon.errors import CheckFailedError
from greffon.training.int8 import Agreement, Compared, one_hot


def answers(labels, classes=3):
    return np.eye(classes, dtype="float32")[labels]


def compared(pictures, other):
    """Agreement of so many pictures, `other` of which are answered otherwise and wrongly."""
    right = np.zeros(pictures, int)
    ours = right.copy()
    ours[:other] = 1
    return Agreement.of(answers(ours), answers(right), answers(right))


def others(train, other=lambda rows: np.zeros(len(rows), bool)):
    """Training pictures, of which `other` says for which rows int8 answers otherwise."""

    class Behind(Compared):
        def answers(self):
            return answers(other(self.rows).astype(int)), answers(np.zeros(len(self.rows), int))

    return Behind(None, None, None, np.arange(train))


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


def test_one_number_per_picture_is_yes_above_a_half():
    ours, exact = np.array([[0.6], [0.4], [0.9]]), np.array([[0.4], [0.1], [0.7]])
    found = Agreement.of(ours, exact, np.array([[1], [0], [1]]))
    assert (found.same, found.accuracy_int8, found.accuracy_fp32) == (2, 1.0, pytest.approx(2 / 3))


def test_without_right_answers_there_is_no_accuracy():
    found = Agreement.of(answers([0, 2]), answers([1, 2]))
    assert (found.same, found.accuracy_int8) == (1, None)
    assert str(found) == "int8 and fp32 answer alike on 1 of 2 pictures"


@pytest.mark.parametrize(
    ("y", "outputs", "expected"),
    [
        ([[0, 1], [1, 0]], 2, [[0, 1], [1, 0]]),
        ([2, 0], 3, [[0, 0, 1], [1, 0, 0]]),
        ([[1], [0]], 1, [[1], [0]]),
        ([0.5, 1.0], 3, None),
        ([3, 0], 3, None),
        (None, 3, None),
    ],
)
def test_targets_are_recognised(y, outputs, expected):
    found = one_hot(None if y is None else np.array(y), outputs)
    assert (None if found is None else found.tolist()) == expected


@pytest.mark.parametrize("other", [0, 1])
def test_one_disagreement_never_refuses(other):
    found = compared(20, other).with_training(others(500, never), 0.99)
    found.require(0.99)
    assert found.pictures == 20


def test_training_pictures_count_where_there_are_few_to_validate_on():
    found = compared(60, 2).with_training(others(500), 0.99)
    assert (found.same, found.pictures) == (198, 200)
    found.require(0.99)
    assert found.accuracy_int8 == pytest.approx(58 / 60)  # of the validation pictures alone


def test_two_disagreements_among_few_refuse_where_training_pictures_disagree_too():
    found = compared(60, 2).with_training(others(40, lambda rows: rows % 10 == 0), 0.99)
    assert (found.same, found.pictures) == (94, 100)
    with pytest.raises(CheckFailedError, match=r"94 of 100 pictures.*precision fp32.*--min-agreement"):
        found.require(0.99)
    found.require(0.9)


def test_many_validation_pictures_decide_alone():
    found = compared(300, 4).with_training(others(500, never), 0.99)
    with pytest.raises(CheckFailedError, match="296 of 300"):
        found.require(0.99)
