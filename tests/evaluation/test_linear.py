"""The convex problem's coordinates: a rotation that changes nothing, and threads that change nothing either."""

import warnings

import numpy as np
import pytest

from greffon.evaluation import linear
from greffon.evaluation.linear import Basis, solving
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
    np.testing.assert_allclose(coordinates.std(axis=0), [1, 2, 0, 1])
    np.testing.assert_array_equal(basis.project(features)[:, 2], 0)


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


def test_warnings_of_others_are_as_before():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with solving() as threads:
            assert list(threads.map(abs, [-1, 2])) == [1, 2]
        assert warnings.filters == before
