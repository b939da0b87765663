"""A trunk's name says what it computes: no more (names, flags) and no less (weights, options, code)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen.code import described_code  # noqa: E402
from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.frozen.digest import trunk_digest  # noqa: E402
from greffon.frozen.graph import flatten  # noqa: E402

FACTOR = 3


def network(*, filters=4, strides=1, epsilon=1e-3, activation="relu", name="first", axis=1, dtype=None, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(filters, 3, strides=strides, activation=activation, name=name, dtype=dtype)(inputs)
    x = layers.BatchNormalization(epsilon=epsilon)(x)
    x = keras.ops.mean(x[:, ::2], axis=axis) * np.arange(4, dtype="float32")
    return keras.Model(inputs, x)


def digest(model, *extra):
    return trunk_digest(flatten(model), *extra)


def two(layers_):
    inputs = keras.Input((4,))
    x = inputs
    for layer in layers_:
        x = layer(x)
    return keras.Model(inputs, x)


def test_names_flags_initializers_and_the_process_counters_do_not_matter():
    model = network()
    first = digest(model)
    other = network(name="second")  # also: another number in every automatic name
    assert digest(other) == first
    other.trainable = False
    assert digest(other) == first
    ones = two([layers.Dense(3, kernel_initializer="ones", kernel_regularizer="l2", name="a")])
    zeros = two([layers.Dense(3, kernel_initializer="zeros", kernel_constraint="non_neg", name="b")])
    zeros.set_weights(ones.get_weights())
    assert digest(ones) == digest(zeros)


@pytest.mark.parametrize(
    "changed",
    [
        {"strides": 2},
        {"epsilon": 1.001e-5},
        {"activation": "elu"},
        {"axis": 2},
        {"seed": 1},
        {"dtype": "mixed_float16"},
    ],
)
def test_every_option_and_weight_matters(changed):
    assert digest(network(**changed)) != digest(network())


def test_one_number_of_any_weight_matters():
    model = network()
    seen = {digest(model)}
    for weight in model.weights:
        value = np.array(keras.ops.convert_to_numpy(weight))
        value.flat[-1] += 1e-6
        weight.assign(value)
        seen.add(digest(model))
    assert len(seen) == len(model.weights) + 1


def test_extra_words_matter_and_are_kept_apart():
    model = network()
    assert len({digest(model), digest(model, "float16"), digest(model, "a", "b"), digest(model, "ab")}) == 4


def test_which_of_two_equal_layers_is_called_again_matters():
    def built(order):
        keras.utils.set_random_seed(0)
        pair = [layers.Dense(4), layers.Dense(4)]
        return two([pair[number] for number in order])

    a, b = built([0, 1, 0]), built([0, 1, 1])
    b.set_weights(a.get_weights())
    assert digest(a) != digest(b)


def test_constant_arrays_matter_to_the_last_number():
    def built(last):
        constant = np.zeros(5000, "float32")
        constant[2500] = last
        inputs = keras.Input((5000,))
        return keras.Model(inputs, inputs + constant)

    assert digest(built(1)) == digest(built(1))
    assert digest(built(1)) != digest(built(2))


def test_tail_does_not_matter():
    def classifier(units):
        base = network(seed=4)
        base.trainable = False
        return keras.Sequential([base, layers.Dense(units), layers.Dropout(0.2), layers.Dense(2)])

    a, b = (find_cut(classifier(units)).trunk for units in (3, 30))
    assert trunk_digest(a) == trunk_digest(b)


def custom_layer(source, factor=2.0):
    """A layer of a module that is written by the test."""
    space = {"keras": keras, "__name__": "somebodys_module"}
    exec(textwrap.dedent(source), space)
    return space["Own"](factor)


OWN = """
    def helper(x):
        return x * CONSTANT
    CONSTANT = 1.5
    class Own(keras.layers.Layer):
        def __init__(self, factor, **options):
            super().__init__(**options)
            self.factor = factor
        def call(self, x):
            return helper(x) * self.factor  # the same as ever
"""


def test_custom_code_is_part_of_the_name_and_its_comments_are_not():
    first = digest(two([custom_layer(OWN)]))
    assert digest(two([custom_layer(OWN)])) == first
    assert digest(two([custom_layer(OWN.replace("# the same as ever", "# and always"))])) == first
    assert digest(two([custom_layer(OWN, factor=3.0)])) != first
    assert digest(two([custom_layer(OWN.replace("self.factor  ", "self.factor + 1  "))])) != first
    assert digest(two([custom_layer(OWN.replace("x * CONSTANT", "x + CONSTANT"))])) != first
    assert digest(two([custom_layer(OWN.replace("CONSTANT = 1.5", "CONSTANT = 2.5"))])) != first


def test_attribute_that_was_set_later_is_part_of_the_name():
    model = two([custom_layer(OWN)])
    before = digest(model)
    model.layers[-1].factor = 4.0
    assert digest(model) != before


def test_layers_inside_a_subclassed_model_are_part_of_the_name():
    class Hides(keras.Model):
        def __init__(self, rate):
            super().__init__()
            self.inner = layers.LeakyReLU(rate)

        def call(self, x):
            return self.inner(x)

        def get_config(self):
            return {}

    assert digest(two([Hides(0.1)])) == digest(two([Hides(0.1)]))
    assert digest(two([Hides(0.1)])) != digest(two([Hides(0.2)]))


def plus(x):
    return x + 1


def test_functions_are_told_apart_by_their_code():
    def plus_two(x):
        return x + 2

    plus_two.__name__ = plus_two.__qualname__ = "plus"
    for layer in (layers.Lambda, layers.Activation):
        names = {digest(two([layer(function)])) for function in (plus, plus_two, lambda x: x + 3)}
        assert len(names) == 3
    assert digest(two([layers.Lambda(lambda x: x + 3)])) == digest(two([layers.Lambda(lambda x: x + 3)]))


def test_closures_defaults_and_constants_of_the_module_belong_to_the_code(monkeypatch):
    def times(n, m=1):
        return lambda x, k=m: x * n * k

    assert described_code(times(2)) == described_code(times(2))
    assert described_code(times(2)) != described_code(times(3))
    assert described_code(times(2)) != described_code(times(2, 5))
    array = [lambda x, a=a: x + a for a in (np.zeros(3), np.ones(3))]
    assert described_code(array[0]) != described_code(array[1])

    def scaled(x):
        return x * FACTOR

    before = described_code(scaled)
    monkeypatch.setitem(globals(), "FACTOR", 4)
    assert described_code(scaled) != before


SCRIPT = """
import keras
from greffon.frozen.digest import trunk_digest
from greffon.frozen.graph import flatten

class Own(keras.layers.Layer):
    def call(self, x):
        return x * 2 if "relu" in {"relu", "elu", "selu", self.name} else x

def double(x):
    return [y * 2 for y in (x,)][0]

keras.utils.set_random_seed(0)
inputs = keras.Input((4,))
x = keras.layers.Activation(double)(Own()(keras.layers.Dense(3, activation=lambda x: x + 1)(inputs)))
digest = trunk_digest(flatten(keras.Model(inputs, x))).hex()
print("digest", digest)
"""


def test_same_name_in_another_process():
    here = {"__name__": "__main__"}
    layers.Dense(3), layers.Activation("relu")  # so that automatic names are others than there
    exec(SCRIPT, here)
    env = os.environ | {"PYTHONHASHSEED": "17"}
    there = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True).stdout
    assert there.split("digest ")[1].strip() == here["digest"]
