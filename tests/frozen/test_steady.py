"""What a frozen layer does in `fit`, found out without leaving a trace in it."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen.graph import flatten  # noqa: E402
from greffon.frozen.steady import why_unsteady  # noqa: E402


def why(layer, shape=(8, 8, 3), dtype="float32"):
    layer.trainable = False
    inputs = keras.Input(shape, dtype=dtype)
    graph = flatten(keras.Model(inputs, layer(inputs)))
    return why_unsteady(graph.nodes[-1], graph)


def copies(layer):
    return [keras.ops.convert_to_numpy(variable) for variable in layer.variables + layer.metrics_variables]


class Plain(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Conv2D(2, 3)

    def call(self, x):
        return self.inner(x) * 2


class Noisy(layers.Layer):
    """Draws with a generator of its own, seldom enough for three pictures not to show it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return keras.ops.where(keras.random.uniform((), seed=self.generator) < 1e-6, x + 1, x)


class GlobalNoise(layers.Layer):
    """Draws from the generators that everything shares."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x)) + np.random.normal() + random.random()  # noqa: NPY002


class Counts(layers.Layer):
    def build(self, _):
        self.seen = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x):
        self.seen.assign_add(1.0)
        return x


class Measures(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.mean = keras.metrics.Mean()

    def call(self, x):
        self.mean.update_state(x)
        return x


class Centres(layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Penalises(layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x))
        return x


class OnlyTraining(layers.Layer):
    def call(self, x, training=None):
        return x * 2 if training else x


class Breaks(layers.Layer):
    def call(self, x):
        if not isinstance(x, keras.KerasTensor) and x.shape[0] == 1:
            raise RuntimeError("never one picture")
        return x


class Hides(keras.Model):
    """A subclassed model with a normalisation inside."""

    def __init__(self, *, frozen):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.frozen = frozen

    def call(self, x, training=None):
        return self.norm(x, training=training)


DRAWS = "draws at random in every step"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: layers.Conv2D(2, 3), None),
        (layers.BatchNormalization, None),
        (layers.LayerNormalization, None),
        (lambda: layers.Lambda(lambda x: x * 2), None),
        (lambda: layers.TimeDistributed(layers.Conv1D(2, 3)), None),
        (lambda: layers.Dropout(0.0), None),
        (Plain, None),
        (lambda: layers.Dropout(0.5), DRAWS),
        (lambda: layers.SpatialDropout2D(0.5), DRAWS),
        (lambda: layers.GaussianNoise(0.1), DRAWS),
        (layers.RandomFlip, DRAWS),
        (lambda: layers.RandomRotation(0.1), DRAWS),
        (Noisy, DRAWS),
        (GlobalNoise, DRAWS),
        (Counts, "changes its state"),
        (lambda: layers.SpectralNormalization(layers.Conv2D(2, 3)), "changes its state"),
        (Penalises, "adds to the loss"),
        (OnlyTraining, "gives another output in training"),
        (Centres, "looks across the pictures"),
        (Breaks, r"could not be examined \(RuntimeError: .*never one picture"),
        (lambda: layers.Conv2D(2, 3, activity_regularizer="l2"), "activity regularizer"),
    ],
)
def test_reason_for_a_frozen_layer(make, reason):
    found = why(make())
    if reason is None:
        assert found is None
    else:
        assert re.search(reason, found or "", re.DOTALL), found


def test_metric_that_is_fed_in_every_step_is_no_steady_layer():
    assert "changes its state" in why(Measures())  # and the history would lack it


@pytest.mark.parametrize("options", [{}, {"scale": False, "center": False}])
def test_normalisation_with_its_own_flag_up_uses_batch_statistics(options):
    layer = layers.BatchNormalization(**options)
    inputs = keras.Input((4,))
    graph = flatten(keras.Model(inputs, layer(inputs)))
    for weight in layer.weights:
        weight.trainable = False
    assert "statistics of each batch" in why_unsteady(graph.nodes[0], graph)


def test_frozen_container_with_an_unfrozen_normalisation_inside():
    hides = Hides(frozen=True)
    inputs = keras.Input((4,))
    graph = flatten(keras.Model(inputs, hides(inputs)))
    hides.trainable = False
    assert why_unsteady(graph.nodes[0], graph) is None
    hides.norm.trainable = True
    assert "statistics of each batch" in why_unsteady(graph.nodes[0], graph)


@pytest.mark.parametrize(
    ("layer", "shape", "dtype"),
    [(layers.Masking(), (5, 3), "float32"), (layers.Embedding(9, 2, mask_zero=True), (5,), "int32")],
)
def test_masks_are_not_kept(layer, shape, dtype):
    assert "mask" in why(layer, shape, dtype)


def test_embedding_without_mask_and_recurrent_layers_are_steady():
    assert why(layers.Embedding(9, 2), (5,), "int32") is None
    assert why(layers.LSTM(3), (5, 3)) is None
    assert DRAWS in why(layers.LSTM(3, dropout=0.5), (5, 3))


@pytest.mark.parametrize("shared_generator_exists", [False, True])
def test_examination_leaves_no_trace(shared_generator_exists):
    made = [layers.Dropout(0.5), layers.RandomFlip(), Counts(), Measures(), Penalises(), GlobalNoise(), Centres()]
    graphs = []
    for layer in made:
        inputs = keras.Input((8, 8, 3))
        graphs.append(flatten(keras.Model(inputs, layer(inputs))))
    keras.utils.set_random_seed(5)  # which removes the shared generator
    if shared_generator_exists:
        keras.random.normal(())
    before = [copies(layer) for layer in made]
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    for graph in graphs:
        assert why_unsteady(graph.nodes[0], graph)
    for layer, values in zip(made, before, strict=True):
        for old, now in zip(values, copies(layer), strict=True):
            np.testing.assert_array_equal(old, now)
        assert layer.losses == []
    assert random.getstate() == python_state
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    drawn = keras.ops.convert_to_numpy(keras.random.normal((3,)))
    keras.utils.set_random_seed(5)
    if shared_generator_exists:
        keras.random.normal(())
    np.testing.assert_array_equal(drawn, keras.ops.convert_to_numpy(keras.random.normal((3,))))


def test_keras_own_layers_of_one_kind_are_tried_once(monkeypatch):
    from greffon.frozen import steady

    tried = []
    trial = steady._found_by_trial
    monkeypatch.setattr(steady, "_found", {})
    monkeypatch.setattr(steady, "_found_by_trial", lambda node, graph: (tried.append(node.path), trial(node, graph))[1])
    norms = [why(layers.BatchNormalization(), shape) for shape in ((8, 8, 3), (4, 4, 5))]
    assert norms == [None, None]
    assert len(tried) == 1
    assert why(layers.Dropout(0.5)) is not None
    assert why(layers.Dropout(0.0)) is None
    assert [why(Plain(trainable=False)), why(Plain(trainable=False))] == [None, None]
    assert len(tried) == 5  # somebody's own layer is tried each time
