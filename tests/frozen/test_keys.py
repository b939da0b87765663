"""Pictures are recognised by what is in them, wherever they come from."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from greffon.frozen.keys import as_taken, content_keys  # noqa: E402


def pictures(n=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)


def test_key_is_the_same_in_any_dtype_order_and_memory_layout():
    x = pictures()
    keys = content_keys([x], ["float32"])
    assert [len(key) for key in keys] == [16] * 4
    assert len(set(keys)) == 4
    for same in (x.astype("float32"), x.astype("float64"), np.asfortranarray(x), x[::-1][::-1]):
        assert content_keys([same], ["float32"]) == keys
    assert content_keys([x[::-1]], ["float32"]) == keys[::-1]


def test_key_is_of_what_the_model_makes_of_the_picture():
    """A model with an integer input cuts fractions off, so these are the same picture to it, and to no other."""
    x = pictures().astype("float32")
    assert content_keys([x + 0.5], ["uint8"]) == content_keys([x], ["uint8"])
    assert content_keys([x + 0.5], ["float32"]) != content_keys([x], ["float32"])
    assert content_keys([x], ["uint8"]) != content_keys([x], ["float32"])
    assert content_keys([x], ["bfloat16"]) == content_keys([x], ["float32"])


def test_smallest_difference_shape_and_every_input_count():
    x = pictures(1).astype("float32")
    changed = x.copy()
    changed[0, 4, 4, 2] += 1e-3
    more = np.array([[1.0]])
    keys = [
        content_keys([x], ["float32"]),
        content_keys([changed], ["float32"]),
        content_keys([x.reshape(1, 25, 3)], ["float32"]),
        content_keys([x, more], ["float32", "float32"]),
        content_keys([x, more + 1], ["float32", "float32"]),
    ]
    assert len({key for (key,) in keys}) == 5


def test_numbers_without_a_row_shape():
    assert len(set(content_keys([np.array([1, 2, 1])], ["int32"]))) == 2


def test_last_axis_is_added_or_dropped_as_keras_does():
    grey = keras.KerasTensor((None, 28, 28, 1))
    flat = keras.KerasTensor((None,))
    taken = as_taken([np.zeros((2, 28, 28)), np.zeros((2, 1))], [grey, flat])
    assert [array.shape for array in taken] == [(2, 28, 28, 1), (2,)]
    kept = as_taken([np.zeros((2, 28, 28, 1)), np.zeros((2, 3))], [grey, keras.KerasTensor((None,))])
    assert [array.shape for array in kept] == [(2, 28, 28, 1), (2, 3)]
