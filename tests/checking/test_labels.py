"""Likely label errors on made-up features: what is found, and what is not said of labels that are right."""

import numpy as np
import pytest
from tables import catalog

from greffon.checking.check import _Job, _Seen
from greffon.checking.labels import crossable, held_out_probabilities, label_errors
from greffon.training.progress import Reporter

pytest.importorskip("cleanlab")

NAMES = ("a", "b", "c")


def clusters(random, each=30, apart=4.0):
    truth = np.repeat(np.arange(3), each)
    return random.normal(size=(len(truth), 6)) + apart * np.eye(6)[truth], truth


def errors(features, given, **options):
    targets = np.eye(3)[given]
    probabilities = held_out_probabilities(features, targets, **options)
    paths = [str(row) for row in range(len(given))]
    return label_errors(probabilities, [[NAMES[label]] for label in given], NAMES, paths)


def test_wrong_labels_are_found_the_surest_first(random):
    features, truth = clusters(random, apart=6.0)
    given = truth.copy()
    wrong = [3, 40, 70]
    given[wrong] = (given[wrong] + 1) % 3
    found = errors(features, given)
    assert {int(each.paths[0]) for each in found} == set(wrong)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert {each.severity for each in found} == {"look"}
    first = found[0]
    row = int(first.paths[0])
    assert first.sentence.startswith(f"is labelled {NAMES[given[row]]}")
    assert f"{NAMES[truth[row]]} " in first.sentence.split(": ")[1]


def test_right_labels_are_left_in_peace(random):
    features, truth = clusters(random, apart=6.0)
    assert errors(features, truth) == []


def test_a_copy_does_not_vouch_for_its_picture(random):
    features, truth = clusters(random)
    features[60:66], truth[60:66] = features[0], 1  # six copies of a picture of class a, all labelled b
    given = truth
    groups = np.arange(len(given))
    groups[60:66] = 60
    found = {int(each.paths[0]) for each in errors(features, given, groups=groups)}
    assert set(range(60, 66)) <= found


def test_several_labels(random):
    truth = random.random((90, 3)) < 0.5
    features = random.normal(size=(90, 6)) * 0.3 + 4 * np.concatenate([truth, ~truth], axis=1)
    given = truth.copy()
    given[5] = ~given[5]
    probabilities = held_out_probabilities(features, given.astype(float), several_labels=True, repeats=1)
    labels = [[name for name, has in zip(NAMES, row, strict=True) if has] for row in given]
    paths = [str(row) for row in range(90)]
    found = label_errors(probabilities, labels, NAMES, paths, several_labels=True)
    assert [each.paths for each in found] == [("5",)]
    assert "is missing" in found[0].sentence or "is doubtful" in found[0].sentence


def test_too_few_for_folds_is_none(random):
    features = random.normal(size=(4, 3))
    assert held_out_probabilities(features, np.eye(3)[[0, 0, 1, 2]]) is None


def test_a_class_with_hardly_a_picture_is_not_judged():
    probabilities = np.full((12, 3), 0.05)
    given = np.array([0] * 5 + [1] * 5 + [2] * 2)
    probabilities[np.arange(12), np.where(given == 2, 0, given)] = 0.9
    labels = [[NAMES[label]] for label in given]
    assert label_errors(probabilities, labels, NAMES, [str(row) for row in range(12)]) == []


def test_more_partitions_are_counted(random):
    features, truth = clusters(random, each=10)
    told = []
    held_out_probabilities(features, np.eye(3)[truth], repeats=3, advance=told.append)
    assert told == [1, 1, 1]


def test_a_class_of_one_picture_is_left_out_and_no_other(random):
    features, truth = clusters(random, apart=6.0)
    labels = [NAMES[label] for label in truth]
    labels[3] = "b"
    rows = [(str(row), f"h{row}", label, "") for row, label in enumerate(labels)]
    rows += [("d1", "x1", "d", ""), ("d2", "x2", "d", "")]
    looked, features = catalog(rows), np.concatenate([features, random.normal(size=(2, 6))])
    groups = np.array([*range(len(labels)), 500, 500])  # the two are near-copies of one another
    job = _Job(None, 64, "crop", 0, Reporter())
    found = job._by_probe(looked, _Seen(features, []), groups, looked.ok["path"].to_list())
    assert {each.paths for each in found if each.kind == "likely label errors"} == {("3",)}
    [note] = job.notes
    assert note.endswith("likely label errors: d")
    assert crossable(looked.targets(looked.ok), groups).tolist() == list(range(len(labels)))
    alone = catalog(rows[:30] + rows[-2:])
    assert job._by_probe(alone, _Seen(features[:32], []), groups[-32:], alone.ok["path"].to_list()) == []
