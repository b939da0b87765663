from __future__ import annotations

import numpy as np
import pytest

from greffon.errors import CheckFailedError
from greffon.exporting.proof import BATCHES, TOLERANCE, answered, check, check_drop, measure_drop, replay

PROBES = np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3)
EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8]] * 4, np.float32)


def known(answers):
    """An export that gives these answers, whatever the batches are, and the sizes of the batches."""
    sizes = []

    def answer(pictures):
        sizes.append(len(pictures))
        return answers[[int(picture[0, 0, 0]) // 12 for picture in pictures]]

    return answer, sizes


def changed(row, value):
    answers = EXPECTED.copy()
    answers[row] = [value, 1 - value]
    return answers


def test_probes_are_replayed_one_by_one_and_all_at_once():
    answer, sizes = known(EXPECTED)
    proof = replay(answer, PROBES, EXPECTED, several_labels=False)
    assert sizes == [1] * 8 + [8]
    assert (proof.probes, proof.batches, proof.difference, proof.changed) == (8, BATCHES, 0.0, 0)
    check(proof)


@pytest.mark.parametrize("row", [0, 7])
@pytest.mark.parametrize(("by", "kept"), [(0.5, True), (1.5, False)])
def test_each_probability_has_to_be_near(row, by, kept):
    answer, _ = known(changed(row, EXPECTED[row, 0] + by * TOLERANCE))
    proof = replay(answer, PROBES, EXPECTED, several_labels=False)
    assert proof.difference == pytest.approx(by * TOLERANCE, rel=1e-2)
    if kept:
        check(proof)
    else:
        with pytest.raises(CheckFailedError, match=r"differ by at most 1\.5e-04, the same labels"):
            check(proof)


@pytest.mark.parametrize("several_labels", [False, True])
def test_a_label_that_changes_counts_however_near_the_probabilities_are(several_labels):
    even = np.tile(np.float32([[0.50001, 0.49999]]), (8, 1))
    answer, _ = known(even[:, ::-1])
    proof = replay(answer, PROBES, even, several_labels=several_labels)
    assert (proof.difference < TOLERANCE, proof.changed) == (True, 8)
    with pytest.raises(CheckFailedError, match="another label for 8"):
        check(proof)


def test_an_answer_that_depends_on_the_batch_is_found():
    proof = replay(lambda p: EXPECTED[:1] if len(p) == 1 else EXPECTED, PROBES, EXPECTED, several_labels=False)
    assert proof.changed == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.full((8, 2), np.nan), "values that are not numbers"),
        (np.full((8, 2), np.inf), "values that are not numbers"),
        (np.zeros((8, 3)), r"an array \(8, 3\)"),
        (np.zeros(8), r"an array \(8,\)"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(given, words):
    with pytest.raises(CheckFailedError, match=words):
        answered(lambda pictures: given, PROBES, 2, batch=8)


def test_a_runtime_that_fails_is_quoted():
    def failing(pictures):
        raise RuntimeError("no kernel\n for Conv")

    with pytest.raises(CheckFailedError, match="cannot be run on 3 pictures: no kernel for Conv"):
        answered(failing, PROBES, 2, batch=3)


class Labelled:
    """Validation pictures in batches of three."""

    def __init__(self, has):
        self.has = has

    def batches(self, size):
        for start in range(0, len(self.has), 3):
            rows = slice(start, start + 3)
            yield PROBES[rows], self.has[rows], EXPECTED[rows]


def test_the_drop_is_what_is_wrong_now_and_was_right():
    has = EXPECTED > 0.5
    has[7] = ~has[7]  # the run is wrong there
    answers = changed(1, 0.7)  # now wrong
    answers[7] = [0.6, 0.4]  # now right
    answers[3] = [0.55, 0.45]  # now wrong
    answer, _ = known(answers)
    proof = replay(answer, PROBES, EXPECTED, several_labels=False)
    drop = measure_drop(answer, Labelled(has), proof, several_labels=False, classes=2)
    assert (drop.measured_on, drop.pictures, drop.before, drop.after, drop.changed) == (
        "validation",
        8,
        7 / 8,
        6 / 8,
        3,
    )
    assert drop.drop == 1 / 8
    check_drop(drop, 0.125)
    with pytest.raises(CheckFailedError, match=r"0\.8750 -> 0\.7500 \(drop 0\.1250\), 3 with another label"):
        check_drop(drop, 0.12)


def test_of_several_labels_all_have_to_be_right():
    has = EXPECTED > 0.5
    answers = EXPECTED.copy()
    answers[0] = [0.9, 0.6]
    answer, _ = known(answers)
    proof = replay(answer, PROBES, EXPECTED, several_labels=True)
    assert proof.changed == 1
    drop = measure_drop(answer, Labelled(has), proof, several_labels=True, classes=2)
    assert (drop.before, drop.after) == (1.0, 7 / 8)


def test_a_gain_is_no_loss():
    has = EXPECTED < 0.5
    answer, _ = known(EXPECTED[:, ::-1])
    proof = replay(answer, PROBES, EXPECTED, several_labels=False)
    drop = measure_drop(answer, Labelled(has), proof, several_labels=False, classes=2)
    assert drop.drop == -1.0
    check_drop(drop, 0.0)


def test_without_pictures_probes_stand_in():
    answer, _ = known(changed(1, 0.7))
    proof = replay(answer, PROBES, EXPECTED, several_labels=False)
    for none in (None, Labelled(np.zeros((0, 2), bool))):
        drop = measure_drop(answer, none, proof, several_labels=False, classes=2)
        assert (drop.measured_on, drop.pictures, drop.before, drop.after) == ("probes", 8, 1.0, 7 / 8)
    assert "1 of 8 probe pictures have another label" in str(drop)
