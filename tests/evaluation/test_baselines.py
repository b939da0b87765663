from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier

from greffon.errors import DataError, InputError
from greffon.evaluation import baselines as module
from greffon.evaluation.baselines import baselines, majority, nearest
from greffon.evaluation.measures import measured
from greffon.evaluation.probe import solve
from greffon.evaluation.scores import Answers


def _made(count=150, d=6, seed=0):
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=[0.5, 0.3, 0.2])
    features = np.random.default_rng(9).normal(size=(3, d))[labels] + random.normal(size=(count, d))
    return features.astype(np.float32), np.eye(3)[labels]


def test_they_are_those_of_scikit_learn():
    train, test = _made(), _made(80, seed=1)
    largest, neighbour, probe = baselines(*train, *test).rows
    labels, truth = train[1].argmax(axis=1), test[1].argmax(axis=1)
    assert largest.accuracy == DummyClassifier().fit(train[0], labels).score(test[0], truth)
    assert largest.balanced_accuracy == pytest.approx(1 / 3)
    known = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(train[0], labels)
    assert neighbour.accuracy == known.score(test[0], truth)
    assert neighbour.log_loss is None
    solved = solve(*train)
    assert probe.accuracy == (solved.probabilities(test[0]).argmax(axis=1) == truth).mean()
    assert largest.accuracy < probe.accuracy
    assert probe.log_loss < largest.log_loss
    assert {row.count for row in (largest, neighbour, probe)} == {80}


def test_a_probe_that_was_solved_is_taken(monkeypatch):
    solved = solve(*_made())
    monkeypatch.setattr(module, "solve", None)
    assert baselines(*_made(), *_made(80, seed=1), probe=solved).rows[-1].name == "linear head"


def test_parts_of_the_similarities_give_the_same(monkeypatch):
    train, test = _made(), _made(80, seed=1)
    whole = nearest(train[0], test[0], train[1])
    monkeypatch.setattr(module, "_CELLS", 500)
    np.testing.assert_array_equal(nearest(train[0], test[0], train[1]), whole)


def test_a_feature_of_length_zero_is_no_error():
    found = nearest(np.array([[0.0, 0], [1, 1]]), np.array([[0.0, 0], [2, 2]]), np.eye(2))
    np.testing.assert_array_equal(found, np.eye(2))


def test_several_labels():
    train = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1]])
    found = majority(train, np.array([[1, 0, 1], [1, 0, 0]]), several_labels=True)
    assert found.accuracy == 0.5  # said is the first, and the third as half of them have it
    features = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    rows = baselines(features, train, features, train, several_labels=True).rows
    assert rows[1].accuracy == 1.0  # each is its own neighbour


def test_one_class_has_no_probe():
    features, targets = np.ones((3, 2)), np.eye(2)[[0, 0, 0]]
    assert [row.name for row in baselines(features, targets, features, targets).rows] == [
        "majority class",
        "nearest neighbour",
    ]


def test_a_result_stands_beside_them():
    train, test = _made(), _made(80, seed=1)
    result = measured(Answers.of(test[1] * 0.9 + 0.05, test[1]), ["a", "b", "c"], resamples=0)
    found = baselines(*train, *test).beside("this run", result)
    lines = str(found).splitlines()
    assert lines[0].split() == ["what", "accuracy", "95", "%", "interval", "balanced", "accuracy", "log", "loss"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "majority class",
        "nearest neighbour",
        "linear head",
        "this run",
    ]
    assert " 1.000 " in lines[4]
    console = Console(width=120, record=True)
    console.print(found)
    assert "nearest neighbour" in console.export_text()
    values = json.loads(json.dumps(found.to_dict()))
    assert values["this run"]["accuracy_interval_95"][1] == 1.0


def test_bad_input():
    features, targets = _made(10)
    with pytest.raises(DataError, match="pictures to be measured on"):
        baselines(features, targets, features[:0], targets[:0])
    with pytest.raises(InputError, match="same features and classes"):
        baselines(features, targets, features[:, :2], targets)
    with pytest.raises(InputError, match="are expected"):
        baselines(features, targets[:3], features, targets)
    features[0, 0] = np.nan
    with pytest.raises(InputError, match="finite"):
        baselines(features, targets, features, targets)
