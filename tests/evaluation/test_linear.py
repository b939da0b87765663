"""The convex problem's coordinates: a rotation that changes nothing, and threads that change nothing either."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from greffon.evaluation import linear
from greffon.evaluation.linear import CLOSELY, Basis, Problem, class_probabilities
from greffon.evaluation.probe import solve


@pytest.mark.parametrize("width", [5, 60])
def test_coordinates_are_the_projection_and_a_kernel_spread_out_says_the_same(width):
    random = np.random.default_rng(0)
    features, others = random.normal(3, 2, (20, width)), random.normal(3, 2, (7, width))
    basis, coordinates = Basis.of(features)
    assert coordinates.shape[1] <= min(width, 20)
    np.testing.assert_allclose(basis.project(features), coordinates, atol=1e-9)
    kernel = random.normal(size=(coordinates.shape[1], 3))
    standard = (others - basis.mean) / basis.scale
    np.testing.assert_allclose(standard @ basis.spread(kernel), basis.project(others) @ kernel, atol=1e-9)
    weights, bias = basis.unproject(kernel, np.zeros(3))
    np.testing.assert_allclose(features @ weights + bias, coordinates @ kernel, rtol=1e-4, atol=1e-4)


def test_lengths_weigh_features_and_those_of_none_say_nothing():
    random = np.random.default_rng(1)
    features = random.normal(size=(30, 4))
    basis, coordinates = Basis.of(features, np.array([1.0, 2.0, 0.0, 1.0]))
    np.testing.assert_allclose(coordinates.var(axis=0).sum(), 1 + 4 + 0 + 1)
    np.testing.assert_allclose(np.cov(coordinates.T, bias=True), np.diag(coordinates.var(axis=0)), atol=1e-9)
    moved = features.copy()
    moved[:, 2] += 5
    np.testing.assert_array_equal(basis.project(moved), basis.project(features))
    moved[:, 1] += 5
    assert (basis.project(moved) != basis.project(features)).any()


def test_threads_and_their_number_change_no_bit(monkeypatch):
    random = np.random.default_rng(2)
    targets = np.eye(3)[np.arange(90) % 3]
    features = random.normal(size=(90, 200)) + 2 * targets[:, :1]
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(linear, "usable_cores", lambda cores=cores: cores)
        found.append(solve(features, targets))
    assert found[0].strength == found[1].strength
    np.testing.assert_array_equal(found[0].kernel, found[1].kernel)
    np.testing.assert_array_equal(found[0].held_out, found[1].held_out)


@pytest.mark.parametrize("several_labels", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
def test_every_penalty_of_a_path_has_the_exact_solution(classes, several_labels):
    """Against scikit-learn, one label at a time, with weights, at a tolerance that takes it many more steps."""
    random = np.random.default_rng(3)
    labels = np.arange(150) % classes
    features = (
        random.normal(size=(150, 40)) * random.uniform(0.1, 9, 40) + 2 * random.normal(size=(classes, 40))[labels]
    )
    targets, weights = np.eye(classes)[labels], random.uniform(0.5, 2, 150)
    _, coordinates = Basis.of(features)
    problem = Problem(coordinates.astype(np.float32), targets, weights, several_labels)
    strengths = [1e-4, 1e-2, 1.0]
    for strength, (kernel, bias) in zip(strengths, problem.path(np.arange(150), strengths, CLOSELY), strict=True):
        found = class_probabilities(coordinates @ kernel + bias, several_labels=several_labels)
        exact = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
        if several_labels:
            fitted = [
                exact.fit(coordinates, column, sample_weight=weights).predict_proba(coordinates)[:, 1]
                for column in targets.T
            ]
            expected = np.stack(fitted, axis=1)
        else:
            expected = exact.fit(coordinates, labels, sample_weight=weights).predict_proba(coordinates)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pictures_of_one_class_alone_are_of_that_class():
    features = np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32)
    problem = Problem(features, np.tile([0.0, 1.0, 0.0], (6, 1)), np.ones(6), several_labels=False)
    ((kernel, bias),) = problem.path(np.arange(6), [1.0])
    assert class_probabilities(features @ kernel + bias, several_labels=False)[:, 1].min() > 0.999
