"""Mixup and CutMix: activations, labels and weights of a batch are mixed alike, and fill-up rows with nobody."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.training.mixing import Mixing, grid_of  # noqa: E402
from greffon.training.practice import mixing_of, notes_on  # noqa: E402

ROWS = 12


def mixed(mixing, shapes, weights=None, rows=ROWS):
    """A batch whose activations are one-hot in their last axis, by row: after mixing they name who is in them."""
    eye = np.eye(rows, dtype="float32")
    inputs = [
        np.broadcast_to(eye.reshape(rows, *[1] * (len(shape) - 1), rows), (rows, *shape[:-1], rows)) for shape in shapes
    ]
    inputs = [keras.ops.convert_to_tensor(np.ascontiguousarray(it)) for it in inputs]
    outputs = mixing.mix(inputs, weights)
    y, w = mixing.labels(keras.ops.convert_to_tensor(eye), weights)
    return [np.asarray(it) for it in outputs], np.asarray(y), None if w is None else np.asarray(w)


def test_a_blend_has_the_labels_of_what_is_in_it_its_own_first():
    [x], y, _ = mixed(Mixing([(ROWS,)], mixup=1.0, seed=1), [(ROWS,)])
    np.testing.assert_allclose(x, y, atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-6)
    assert (y.diagonal() >= 0.5).all()
    assert ((y > 0).sum(1) == 2).all(), "each has a partner, and not itself"
    assert (y.diagonal() < 0.99).sum() > ROWS / 2
    assert len(set(y.diagonal().round(4))) > ROWS / 2, "each its own share"


def test_places_are_blended_like_vectors():
    shapes = [(4, 4, ROWS), (ROWS,)]
    outputs, y, _ = mixed(Mixing(shapes, mixup=0.4, seed=2), shapes)
    np.testing.assert_allclose(outputs[0], np.broadcast_to(y[:, None, None], outputs[0].shape), atol=1e-6)
    np.testing.assert_allclose(outputs[1], y, atol=1e-6)


def test_a_box_is_of_one_other_and_labels_are_its_share_of_the_area():
    shapes = [(4, 4, ROWS), (8, 8, ROWS)]
    (coarse, fine), y, _ = mixed(Mixing(shapes, cutmix=1.0, seed=3), shapes)
    assert set(np.unique(coarse)) == {0.0, 1.0}
    np.testing.assert_allclose(coarse.mean((1, 2)), y, atol=1e-6)
    np.testing.assert_allclose(fine[:, ::2, ::2], coarse)
    np.testing.assert_allclose(fine[:, 1::2, 1::2], coarse)
    boxes = 1 - coarse[np.arange(ROWS), :, :, np.arange(ROWS)]
    assert 0.2 < boxes.mean() < 0.7
    for box in boxes:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns), "a rectangle"


def test_with_both_each_picture_has_one_of_them():
    shapes = [(6, 6, 40)]
    [x], y, _ = mixed(Mixing(shapes, mixup=1.0, cutmix=1.0, seed=4), shapes, rows=40)
    np.testing.assert_allclose(x.mean((1, 2)), y, atol=1e-5)
    own = x[np.arange(40), :, :, np.arange(40)]
    uniform = np.ptp(own.reshape(40, -1), axis=1) < 1e-6
    assert 8 < uniform.sum() < 32
    assert ((own[~uniform] == 0) | (own[~uniform] == 1)).all()


def test_rows_that_fill_a_batch_up_are_nobodys_partner():
    weights = np.array([1.0] * 7 + [0.0] * 5, "float32")
    for seed in range(5):
        [x], y, w = mixed(Mixing([(ROWS,)], mixup=1.0, seed=seed), [(ROWS,)], weights)
        assert (x[:7, 7:] == 0).all()
        assert ((y[:7] > 0).sum(1) == 2).all()
        np.testing.assert_allclose(w, weights, atol=1e-6)


def test_one_real_picture_stays_itself():
    weights = np.array([1.0, 0.0, 0.0], "float32")
    [x], y, w = mixed(Mixing([(3,)], mixup=1.0, seed=0), [(3,)], weights, rows=3)
    np.testing.assert_allclose(x[0], [1, 0, 0])
    np.testing.assert_allclose(y[0], [1, 0, 0])
    np.testing.assert_allclose(w, weights)


def test_weights_are_mixed_so_that_the_loss_is_that_of_both_labels():
    weights = np.random.default_rng(0).uniform(0.2, 3, ROWS).astype("float32")
    mixing = Mixing([(ROWS,)], mixup=1.0, seed=5)
    [x], y, w = mixed(mixing, [(ROWS,)], weights)
    # Share s of one with weight a, the rest of one with weight b: loss s * a * first + (1 - s) * b * second.
    np.testing.assert_allclose(w[:, None] * y, x * weights[None, :], rtol=1e-4, atol=1e-6)


def test_the_seed_decides_and_every_batch_is_drawn_anew():
    one, other = Mixing([(ROWS,)], mixup=1.0, seed=6), Mixing([(ROWS,)], mixup=1.0, seed=6)
    first, second = mixed(one, [(ROWS,)])[1], mixed(one, [(ROWS,)])[1]
    np.testing.assert_array_equal(mixed(other, [(ROWS,)])[1], first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("shapes", "grid"),
    [
        ([(4,)], None),
        ([(1, 1, 8)], None),
        ([(7, 5, 8), (14, 10, 4)], (7, 5)),
        ([(None, None, 8)], None),
        ([(4,), (2, 2, 1)], (2, 2)),
    ],
)
def test_where_there_are_places(shapes, grid):
    assert grid_of(shapes) == grid


def test_cutmix_on_pooled_activations_is_told_and_left_out():
    stage = greffon.Stage(cutmix=1.0)
    assert mixing_of(stage, [(8,)], seed=0) is None
    assert "CutMix needs places" in notes_on(stage, [(8,)])[0]
    assert mixing_of(stage, [(4, 4, 8)], seed=0).cutmix == 1.0
    assert notes_on(stage, [(4, 4, 8)]) == []
    assert mixing_of(greffon.Stage(), [(4, 4, 8)], seed=0) is None


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_beta_distributed(alpha):
    mixing = Mixing([(4, 4, 1)], mixup=alpha, seed=0)
    drawn = np.asarray(mixing._beta(alpha, 20000))
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
