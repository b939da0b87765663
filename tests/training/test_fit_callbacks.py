"""Callbacks see the user's model, and do with it what they do in `model.fit`."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fit_sides import assert_same_history, assert_same_weights, both, compiled, small_network

keras = pytest.importorskip("keras")

from greffon.training.fit import fit  # noqa: E402


def build():
    return compiled(small_network(), keras.optimizers.Adam(1e-2))


def with_callbacks(data, make, **options):
    def arguments():
        given = {"x": data.x, "y": data.y, "batch_size": 8, "validation_data": (data.vx, data.vy), "callbacks": make()}
        return given | options

    return arguments


class Looks(keras.callbacks.Callback):
    """Notes what it is shown."""

    def __init__(self, *, stop_at_batch=None):
        super().__init__()
        self.calls, self.models, self.weights = [], set(), []
        self.stop_at_batch = stop_at_batch

    def on_train_begin(self, logs=None):
        self.calls.append(("train", dict(self.params)))

    def on_train_batch_end(self, batch, logs=None):
        self.models.add(id(self.model))
        self.calls.append(("batch", batch, sorted(logs)))
        if batch == self.stop_at_batch:
            self.model.stop_training = True

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(("test", batch))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch", epoch, sorted(logs), float(self.model.optimizer.learning_rate)))
        # The model as the callback sees it, at work.
        self.weights.append(self.model.get_layer("classes").get_weights()[0])
        self.calls.append(("predicts", self.model.predict(np.zeros((1, 12, 12, 3)), verbose=0).shape))

    def on_train_end(self, logs=None):
        self.calls.append(("end", sorted(logs)))


def test_callbacks_are_shown_the_users_model_and_the_same_as_ever(data):
    run = both(build, with_callbacks(data, lambda: [Looks()]))
    assert_same_history(run, pictures=12)
    ours, theirs = run.greffon.arguments["callbacks"][0], run.keras.arguments["callbacks"][0]
    assert ours.models == {id(run.greffon.model)}
    assert ours.calls == theirs.calls
    for mine, keras_own in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-3, atol=1e-5)
    assert len(run.greffon.arguments["callbacks"]) == 1  # the user's list is left alone


def test_callback_that_stops_the_training_stops_it_at_that_batch(data):
    run = both(build, with_callbacks(data, lambda: [Looks(stop_at_batch=1)]))
    assert_same_history(run, pictures=8)
    assert run.greffon.history.epoch == [0]
    assert int(run.greffon.model.optimizer.iterations) == int(run.keras.model.optimizer.iterations) == 2
    assert run.greffon.model.stop_training


def test_early_stopping_restores_the_best_weights(data):
    def callbacks():
        # Worse is better: the first epoch is the best one.
        stopping = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=2, restore_best_weights=True)
        return [stopping]

    run = both(build, with_callbacks(data, callbacks, epochs=6))
    assert_same_history(run, pictures=12)
    assert_same_weights(run)
    ours, theirs = run.greffon.arguments["callbacks"][0], run.keras.arguments["callbacks"][0]
    assert (ours.stopped_epoch, ours.best_epoch) == (theirs.stopped_epoch, theirs.best_epoch)
    assert ours.stopped_epoch > 0
    best = run.greffon.history.history["val_loss"][ours.best_epoch]
    loss = run.greffon.model.evaluate(data.vx, data.vy, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, best, rtol=1e-4)


def opened(path):
    keras.utils.set_random_seed(3)  # a model that is opened draws new seeds for its Dropout
    return keras.saving.load_model(path)


def test_checkpoint_is_the_whole_model_with_its_optimizer(data, tmp_path):
    """Opened with plain Keras it predicts the same and can be trained on."""

    def callbacks():
        number = len(list(tmp_path.iterdir()))
        return [keras.callbacks.ModelCheckpoint(str(tmp_path / f"{number}.keras"))]

    run = both(build, with_callbacks(data, callbacks, epochs=2))
    assert_same_history(run, pictures=12)
    plain, saved = (opened(tmp_path / f"{number}.keras") for number in (0, 1))
    np.testing.assert_array_equal(saved.predict(data.vx, verbose=0), run.greffon.model.predict(data.vx, verbose=0))
    assert [layer.name for layer in saved.layers] == [layer.name for layer in plain.layers]
    assert int(saved.optimizer.iterations) == 10
    for ours, theirs in zip(saved.optimizer.variables, plain.optimizer.variables, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=1e-4)
    more = {"batch_size": 8, "verbose": 0, "shuffle": False}
    goes_on, expected = (model.fit(data.x, data.y, **more).history["loss"] for model in (saved, plain))
    np.testing.assert_allclose(goes_on, expected, rtol=1e-3)


def test_best_checkpoint_of_the_weights_alone(data, tmp_path):
    path = tmp_path / "best.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(str(path), save_weights_only=True, save_best_only=True)
    model = build()
    fit(model, data.x, data.y, validation_data=(data.vx, data.vy), epochs=3, callbacks=checkpoint, verbose=0)
    other = small_network()
    other.load_weights(path)
    compiled(other)
    best = min(model.history.history["val_loss"])
    np.testing.assert_allclose(other.evaluate(data.vx, data.vy, verbose=0)[0], best, rtol=1e-4)


def test_learning_rate_and_log_callbacks(data, tmp_path):
    def callbacks():
        number = len(list(tmp_path.iterdir()))
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch < 2 else rate / 2),
            keras.callbacks.ReduceLROnPlateau("val_loss", mode="max", factor=0.1, patience=1),
            keras.callbacks.CSVLogger(str(tmp_path / f"{number}.csv")),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        ]

    run = both(build, with_callbacks(data, callbacks, epochs=4))
    assert_same_history(run, pictures=12)
    rates = run.greffon.history.history["learning_rate"]
    assert rates == run.keras.history.history["learning_rate"]
    assert len(set(rates)) > 2  # both have been at work
    rows = [list(csv.DictReader((tmp_path / f"{number}.csv").read_text().splitlines())) for number in (0, 1)]
    assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
    np.testing.assert_allclose(
        [float(row["loss"]) for row in rows[1]], [float(row["loss"]) for row in rows[0]], rtol=1e-4
    )


def test_interrupted_training_goes_on_from_its_backup(data, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    model = build()
    options = {"x": data.x, "y": data.y, "batch_size": 8, "epochs": 4, "verbose": 0}

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path), double_checkpoint=True)

    with pytest.raises(KeyboardInterrupt):
        fit(model, **options, callbacks=[backup(), Interrupt()])
    history = fit(build(), **options, callbacks=[backup()])
    assert history.epoch == [2, 3]
    assert history.greffon.computed == 0


def test_list_of_callbacks_that_the_user_keeps(data):
    model = build()
    history = keras.callbacks.History()
    kept = keras.callbacks.CallbackList([history], model=model, epochs=1, verbose=0, steps=5)
    model.history = history
    given = fit(model, data.x, data.y, batch_size=8, callbacks=kept, verbose=0)
    assert given is history
    assert kept.callbacks == [history]
    assert list(history.history) == ["accuracy", "loss"]


def test_error_of_a_callback_reaches_the_user_as_it_is(data):
    class Mine(Exception):
        pass

    class Raises(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise Mine

    with pytest.raises(Mine):
        fit(build(), data.x, data.y, callbacks=[Raises()], verbose=0)


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_shows_the_epochs_of_the_model(data, verbose, capsys):
    fit(build(), data.x, data.y, batch_size=8, epochs=2, verbose=verbose)
    said = capsys.readouterr().out
    assert "Epoch 2/2" in said
    assert "5/5" in said
    assert "greffon: frozen part up to flat: 40 pictures computed by onnx" in said


def test_silence(data, capsys):
    fit(build(), data.x, data.y, verbose=0)
    assert capsys.readouterr().out == ""
