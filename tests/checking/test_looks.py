"""Outliers and classes that are hard to tell apart, on made-up features and probabilities."""

import numpy as np

from greffon.checking.confusion import confusion, hard_to_tell_apart
from greffon.checking.outliers import FEWEST, MOST, neighbour_distances, outliers


def cloud(random, count=200):
    """Two kinds of thing, with a few directions that matter."""
    return random.normal(size=(count, 12)) * 0.4 + 3 * np.eye(12)[np.arange(count) % 2]


def test_what_is_like_nothing_else_is_told(random):
    features = cloud(random)
    features[17] = 3 * np.eye(12)[7] - 2 * np.eye(12)[9]
    paths = [str(row) for row in range(len(features))]
    found = outliers(features, paths)
    assert found[0].paths == ("17",)
    assert found[0].severity == "look"
    assert "usual" in found[0].sentence


def test_two_copies_of_an_odd_picture_do_not_make_it_usual(random):
    features = cloud(random)
    features[[17, 18]] = 3 * np.eye(12)[7] - 2 * np.eye(12)[9]
    groups = np.arange(len(features))
    groups[18] = 17
    paths = [str(row) for row in range(len(features))]
    assert {each.paths[0] for each in outliers(features, paths, groups=groups)} >= {"17", "18"}
    assert neighbour_distances(features)[17] < neighbour_distances(features, groups=groups)[17]


def test_hardly_anything_is_told_of_what_is_usual(random):
    features = random.normal(size=(500, 8))
    assert len(outliers(features, [str(row) for row in range(500)])) <= MOST * 500


def test_of_few_pictures_none_is_unusual(random):
    features = cloud(random, FEWEST - 1)
    features[3] = 99
    assert outliers(features, ["x"] * len(features)) == []


def test_all_in_one_group_have_no_neighbours(random):
    assert np.isfinite(neighbour_distances(random.normal(size=(6, 3)), groups=np.zeros(6, int))).all()


def probabilities(answers, classes=3):
    return 0.1 + 0.7 * np.eye(classes)[answers]


def test_confusion_counts_given_by_answer():
    table = confusion(probabilities(np.array([0, 1, 1, 2])), np.array([0, 0, 1, 2]))
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_classes_taken_for_one_another_are_told_with_numbers():
    given = np.repeat([0, 1, 2], 40)
    answers = given.copy()
    answers[:15], answers[40:50] = 1, 0
    paths = [str(row) for row in range(120)]
    [found] = hard_to_tell_apart(probabilities(answers), given, ("x", "y", "z"), paths)
    assert "x and y" in found.sentence
    assert "25 of 80" in found.sentence
    assert "15 times, the other way round 10" in found.sentence
    assert found.paths == ()
    assert set(found.examples) <= set(paths[:15] + paths[40:50])


def test_a_few_mistakes_are_not_told():
    given = np.repeat([0, 1, 2], 40)
    answers = given.copy()
    answers[:3] = 1
    paths = [str(row) for row in range(120)]
    assert hard_to_tell_apart(probabilities(answers), given, ("x", "y", "z"), paths) == []


def test_doubtful_labels_say_nothing_of_classes():
    given = np.repeat([0, 1, 2], 40)
    answers = given.copy()
    answers[:15], answers[40:50] = 1, 0
    paths = [str(row) for row in range(120)]
    doubtful = paths[:15] + paths[40:50]
    assert hard_to_tell_apart(probabilities(answers), given, ("x", "y", "z"), paths, without=doubtful) == []
