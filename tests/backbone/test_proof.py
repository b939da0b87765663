"""Proof of freezing: it holds where freezing held, fails where it did not, and tells the one from the other."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import greffon
from greffon.backbone.proof import check, examine, fingerprint, proof_callback
from greffon.errors import CheckFailedError


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def model():
    """Two convolutions with BatchNorm, pooling, a classifier; and a branch whose gradient is exactly zero."""
    pictures = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv1_conv")(pictures)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(4, 3, name="conv2_conv")(x)
    x = layers.BatchNormalization(name="conv2_bn")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    dead = layers.Rescaling(0.0)(layers.Dense(4, name="dead")(x))
    return keras.Model(pictures, layers.Dense(3, activation="softmax", name="last")(layers.Add()([x, dead])))


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(12, 8, 8, 3)).astype("float32"), np.eye(3, dtype="float32")[np.arange(12) % 3]


def fit(model, data, optimizer=None, *, compiled=False, **options):
    if not compiled:
        model.compile(optimizer or keras.optimizers.Adam(1e-2), "categorical_crossentropy")
    model.fit(*data, **({"epochs": 2, "batch_size": 4, "verbose": 0} | options))


def classifier(x):
    return layers.Dense(3, activation="softmax", name="last")(layers.GlobalAveragePooling2D()(x))


def reasons(proof):
    return dict.fromkeys(proof.unmoved.values())


def test_it_holds_after_training_a_frozen_model(model, data):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    fit(model, data)
    proof = check(model, before)
    assert (proof.frozen, proof.frozen_statistics, proof.changed) == (2 + 4 + 2, 4, ())
    assert (proof.trained, proof.moved) == (2 + 2 + 2 + 2, 6)
    assert proof.unmoved == dict.fromkeys(("dead/kernel", "dead/bias"), "its gradient was exactly zero")
    assert proof.holds
    assert proof.steps == 6
    assert "8 frozen tensors (4 of them BatchNorm statistics) are unchanged bit for bit" in str(proof)
    assert "6 of 8 trained tensors moved; dead/kernel, dead/bias: its gradient was exactly zero" in str(proof)


def test_the_record_is_json_and_its_digest_is_that_of_the_frozen_tensors(model, data):
    greffon.freeze(model, "none")
    before = fingerprint(model)
    fit(model, data)
    record = json.loads(json.dumps(check(model, before).to_dict()))
    assert record["holds"]
    assert record["frozen"] == 12
    fit(model, data)
    assert check(model, before).digest == record["digest"]
    kernel = model.get_layer("conv1_conv").kernel
    kernel.assign(kernel + 1e-6)
    assert examine(model, before).digest != record["digest"]


@pytest.mark.parametrize("name", ["conv1_conv/kernel", "conv1_bn/gamma", "conv1_bn/moving_mean"])
def test_a_frozen_tensor_that_changed_in_one_bit_is_named(model, data, name):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    fit(model, data)
    variable = next(v for v in model.weights if v.path == name)
    array = keras.ops.convert_to_numpy(variable).copy()
    array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
    variable.assign(array)
    with pytest.raises(CheckFailedError, match=rf"proof of freezing failed\. 1 of 8 frozen tensors changed: {name}"):
        check(model, before)
    assert examine(model, before).failed == (name,)


def test_statistics_that_moved_behind_our_back_are_named(model, data):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    model.get_layer("conv2_bn").trainable = True
    fit(model, data)
    with pytest.raises(CheckFailedError, match="conv2_bn/moving_mean, conv2_bn/moving_variance"):
        check(model, before)


def test_statistics_that_may_move_do_and_are_counted(model, data):
    greffon.freeze(model, "conv2", batch_norm="train")
    before = fingerprint(model)
    fit(model, data)
    proof = check(model, before)
    assert (proof.frozen, proof.frozen_statistics, proof.moving_statistics) == (6, 2, 2)


def test_unfrozen_and_not_recompiled_is_found(model, data):
    greffon.freeze(model, "none")
    fit(model, data, epochs=1)
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    if keras.backend.backend() == "jax":
        pytest.skip("Keras itself refuses to go on, with JAX")
    fit(model, data, compiled=True)  # Keras goes on with the train function that it has, and says nothing
    with pytest.raises(CheckFailedError, match=r"conv2_conv/kernel.*does not hold it.*not compiled after"):
        check(model, before)


def test_a_zero_learning_rate_is_reported_and_no_failure(model, data):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    fit(model, data, keras.optimizers.Adam(0.0))
    proof = check(model, before)
    assert proof.moved == 0
    assert list(reasons(proof)) == ["the learning rate is 0"]


def test_no_step_at_all_is_reported(model, data):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    assert list(reasons(check(model, before))) == ["no step was taken"]
    model.compile("adam", "categorical_crossentropy")
    assert list(reasons(check(model, before))) == ["no step was taken"]


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.0), "its gradient was exactly zero"),
        (lambda: keras.optimizers.SGD(1e-1, momentum=0.9), "its gradient was exactly zero"),
        (lambda: keras.optimizers.RMSprop(1e-2), "its gradient was exactly zero"),
        (lambda: keras.optimizers.Lion(1e-2), "its gradient was exactly zero"),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)), "its gradient was exactly zero"),
        (lambda: keras.optimizers.SGD(1e-1), "not known why: the optimizer keeps no trace of gradients"),
    ],
)
def test_what_other_optimizers_tell_of_a_zero_gradient(model, data, optimizer, reason):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    fit(model, data, optimizer())
    proof = check(model, before)
    assert proof.unmoved == dict.fromkeys(("dead/kernel", "dead/bias"), reason)
    assert proof.moved == 6


def test_steps_too_small_to_see_are_reported(model, data):
    greffon.freeze(model, "conv2")
    for variable in model.trainable_variables:
        variable.assign(variable * 0 + 1)
    before = fingerprint(model)
    fit(model, data, keras.optimizers.Adam(1e-12))
    assert "its steps were smaller than its precision" in reasons(check(model, before))


def test_a_tensor_that_stands_still_in_spite_of_its_gradient_is_a_failure(model, data):
    greffon.freeze(model, "conv2")
    before, kernel = fingerprint(model), keras.ops.convert_to_numpy(model.get_layer("conv2_conv").kernel).copy()
    fit(model, data)
    model.get_layer("conv2_conv").kernel.assign(kernel)
    with pytest.raises(CheckFailedError, match="conv2_conv/kernel: its gradient is not zero, and yet it did not move"):
        check(model, before)


def test_it_is_taken_before_best_weights_are_restored(model, data):
    greffon.freeze(model, "conv2")
    before = fingerprint(model)
    watch = proof_callback(model, before)
    stop = keras.callbacks.EarlyStopping(monitor="loss", mode="max", patience=1, restore_best_weights=True)
    best = []

    class Start(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            best.append(fingerprint(model).hashes)

    fit(model, data, epochs=4, callbacks=[Start(), watch, stop])
    assert fingerprint(model).hashes == best[1]
    assert watch.proof.holds
    assert watch.proof.moved == 6


def test_training_a_part_that_shares_the_variables_is_proven_on_the_whole(model, data):
    greffon.freeze(model, "none")
    before = fingerprint(model)
    tail = keras.Sequential([model.get_layer("last")])
    tail.compile("adam", "categorical_crossentropy")
    tail.fit(np.random.default_rng(0).normal(size=(12, 4)).astype("float32"), data[1], verbose=0)
    proof = examine(model, before, optimizer=tail.optimizer)
    assert proof.changed == ()
    assert proof.moved == 2
    assert list(reasons(proof)) == ["the optimizer does not hold it: the model was not compiled after it was unfrozen"]


def test_state_of_a_layer_of_the_users_own_may_move_while_it_trains_and_not_while_it_is_frozen(data):
    class Counter(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(name="count", trainable=False, initializer="zeros")

        def call(self, x):
            self.count.assign(self.count + 1)
            return x

    pictures = keras.Input((8, 8, 3))
    x = Counter(name="counter")(layers.Conv2D(2, 3, name="conv")(pictures))
    model = keras.Model(pictures, classifier(x))
    before = fingerprint(model)
    fit(model, data)
    assert check(model, before).holds
    model.get_layer("counter").trainable = False
    before = fingerprint(model)
    fit(model, data)
    with pytest.raises(CheckFailedError, match="counter/count"):
        check(model, before)


def test_two_nested_models_with_layers_of_the_same_names_are_told_apart(data):
    towers = [
        keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="conv")], name=name) for name in ("a", "b")
    ]
    pictures = keras.Input((8, 8, 3))
    x = layers.Concatenate()([tower(pictures) for tower in towers])
    model = keras.Model(pictures, classifier(x))
    towers[0].trainable = False
    before = fingerprint(model)
    assert before.roles["a/conv/kernel"] == "frozen"
    assert before.roles["b/conv/kernel"] == "trains"
    fit(model, data)
    assert check(model, before).moved == 4


def test_another_model_is_refused(model):
    other = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="other")])
    with pytest.raises(CheckFailedError, match=r"needs the model of the fingerprint.*conv1_bn/beta.* and 10 more"):
        check(other, fingerprint(model))


def test_half_precision_weights_have_fingerprints():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="bfloat16", name="half")])
    before = fingerprint(model)
    assert fingerprint(model).hashes == before.hashes
    model.layers[0].kernel.assign(model.layers[0].kernel * 2)
    assert fingerprint(model).hashes["half/kernel"] != before.hashes["half/kernel"]
    assert fingerprint(model).hashes["half/bias"] == before.hashes["half/bias"]
