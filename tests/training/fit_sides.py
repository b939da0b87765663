"""The same training twice: by `model.fit` and by `greffon.fit`, on models built alike."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

SHAPE = (12, 12, 3)
CLASSES = 4


def small_network(*, dropout=0.3, shape=SHAPE, unfrozen_norm=False):
    """A Functional model of nobody's: two frozen convolutions, a frozen normalisation, a head with Dropout."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    pictures = keras.Input(shape, name="pictures")
    x = layers.Rescaling(1 / 255, name="scale")(pictures)
    x = layers.Conv2D(8, 3, activation="relu", name="conv1", trainable=False)(x)
    norm = layers.BatchNormalization(name="norm")
    x = norm(layers.Conv2D(8, 3, name="conv2", trainable=False)(x))
    norm.trainable = unfrozen_norm
    x = layers.Flatten(name="flat")(layers.ReLU(name="relu")(x))
    x = layers.Dropout(dropout, name="drop")(layers.Dense(16, activation="relu", name="hidden")(x))
    return keras.Model(pictures, layers.Dense(CLASSES, activation="softmax", name="classes")(x))


def compiled(model, optimizer=None, loss="categorical_crossentropy", **options):
    """Adam, cross-entropy, accuracy, unless asked otherwise; without XLA."""
    import keras

    options = {"metrics": ["accuracy"], "jit_compile": False} | options
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss, **options)
    return model


def both(build, arguments):
    """Fit two models built alike, with arguments made alike.

    Args:
        build: gives a compiled model.
        arguments: gives the keyword arguments of `fit`: fresh datasets and callbacks each time.

    Returns:
        `.keras` and `.greffon`, each with model, history and arguments; `.report` is greffon's.
    """
    import keras

    from greffon.training.fit import fit

    sides = []
    for run in (lambda model, **options: model.fit(**options), fit):
        model = build()
        keras.utils.set_random_seed(2)
        options = arguments()
        history = run(model, **({"verbose": 0, "epochs": 3} | options))
        sides.append(SimpleNamespace(model=model, history=history, arguments=options))
    return SimpleNamespace(keras=sides[0], greffon=sides[1], report=sides[1].history.greffon)


def assert_same_history(run, *, pictures, rtol=1e-4):
    """Equal to `rtol` (a number, or one for each epoch); accuracies may differ by one picture of so many."""
    assert run.report.why_not is None, run.report.why_not
    ours, theirs = run.greffon.history.history, run.keras.history.history
    assert ours.keys() == theirs.keys()
    assert run.greffon.history.epoch == run.keras.history.epoch
    for name, expected in theirs.items():
        assert len(ours[name]) == len(expected)
        if "acc" in name:
            np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1 / pictures + 1e-6, err_msg=name)
        else:
            tolerance = np.broadcast_to(rtol, len(expected))
            difference = np.abs(np.subtract(ours[name], expected)) / np.abs(expected)
            assert (difference <= tolerance).all(), f"{name}: {ours[name]} and {expected}"


def assert_same_weights(run, *, rtol=1e-3, atol=2e-5):
    """All weights of both models after training."""
    for ours, theirs in zip(run.greffon.model.get_weights(), run.keras.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
