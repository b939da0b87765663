"""The tail of a stage: batches filled up for XLA count for nothing, and XLA is taken where it was found to pay."""

from __future__ import annotations

import numpy as np
import pytest
from fit_sides import CLASSES, compiled, small_network

keras = pytest.importorskip("keras")

from greffon.frozen import remembered  # noqa: E402
from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.training import stage_tail  # noqa: E402
from greffon.training.feed import RowFeed  # noqa: E402
from greffon.training.stage_tail import StageTail, can_fill_up, xla_pays  # noqa: E402


class Rows:
    """Stands where activations stand."""

    def __init__(self, arrays, *, in_memory=True):
        self.arrays, self.in_memory = arrays, in_memory
        self.shapes, self.dtypes = [array.shape[1:] for array in arrays], [array.dtype for array in arrays]

    def __len__(self):
        return len(self.arrays[0])

    def gather(self, rows):
        return [array[rows] for array in self.arrays]


@pytest.fixture(scope="module")
def model():
    """Two frozen convolutions, then a head without Dropout: 21 pictures do not fill batches of 8."""
    model = small_network(dropout=0.0)
    loss = keras.losses.CategoricalCrossentropy(reduction="mean_with_sample_weight")
    accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    return compiled(model, keras.optimizers.SGD(0.05), loss, metrics=None, weighted_metrics=[accuracy])


@pytest.fixture(scope="module")
def rows(model):
    cut = find_cut(model)
    random = np.random.default_rng(3)
    return Rows([random.normal(size=(21, *shape)).astype("float16") for shape in cut.shapes])


@pytest.fixture(scope="module")
def targets():
    return np.eye(CLASSES, dtype="float32")[np.random.default_rng(4).integers(0, CLASSES, 21)]


def train(model, rows, targets, *, fill_up, xla, in_memory=True):
    start = model.get_weights()
    rows.in_memory = in_memory
    try:
        tail = StageTail(model, find_cut(model), jit_compile=xla)
        keras.utils.set_random_seed(5)
        feed, held_out = (
            RowFeed(rows, y=targets, batch_size=8, shuffle=shuffle, fill_up=fill_up) for shuffle in (True, False)
        )
        history = tail.train_on(feed, validation_data=held_out, callbacks=[], epochs=3, verbose=0, steps=None)
        return history.history, model.get_weights()
    finally:
        model.set_weights(start)


@pytest.mark.parametrize(("xla", "in_memory"), [(False, True), (False, False), (True, True)])
def test_a_batch_that_is_filled_up_trains_and_counts_as_the_real_pictures(model, rows, targets, xla, in_memory):
    plain, plain_weights = train(model, rows, targets, fill_up=False, xla=False)
    filled, weights = train(model, rows, targets, fill_up=True, xla=xla, in_memory=in_memory)
    assert plain.keys() == filled.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for name, values in plain.items():
        np.testing.assert_allclose(filled[name], values, rtol=2e-5, err_msg=name)
    for ours, theirs in zip(weights, plain_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_batch_has_the_same_size_and_the_last_one_weights(rows, targets):
    batches = list(RowFeed(rows, y=targets, batch_size=8, shuffle=False, fill_up=True).get_tf_dataset())
    assert [tuple(x.shape) for x, _, _ in batches] == [(8, *rows.shapes[0])] * 3
    assert [float(weight.numpy().sum()) for _, _, weight in batches] == [8, 8, 5]
    assert batches[0][0].dtype == "float16"  # as it is kept: the graph makes float32 of it


@pytest.mark.parametrize("in_memory", [True, False])
def test_no_thread_tunes_rows(rows, targets, in_memory):
    # It would sometimes sleep on when its iterator is gone, and the next epoch with it.
    kept = Rows(rows.arrays, in_memory=in_memory)
    assert RowFeed(kept, y=targets, batch_size=8).get_tf_dataset().options().autotune.enabled is False


def test_an_unfrozen_norm_cannot_be_filled_up(model):
    assert can_fill_up(find_cut(model).tail)
    norm = small_network(unfrozen_norm=True)
    assert not can_fill_up(find_cut(norm).tail)


def test_dropout_leaves_every_picture_to_itself():
    assert can_fill_up(find_cut(small_network(dropout=0.5)).tail)


# --- does XLA pay? --------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(model, rows, targets, monkeypatch):
    """Calls `xla_pays` with step times that are made up: (without XLA, with XLA)."""
    tried = []

    def ask(plain, xla, steps=4000):
        def seconds(tail, feed):
            tried.append(tail.jit_compile)
            feed.on_epoch_begin()
            tail.make_train_function()
            tail.train_function(iter(feed.get_tf_dataset().repeat()))  # moves weights, optimizer and metrics
            return xla if tail.jit_compile else plain

        monkeypatch.setattr(stage_tail, "_seconds_of_a_step", seconds)
        return xla_pays(
            lambda jit: StageTail(model, find_cut(model), jit_compile=jit),
            lambda fill_up: RowFeed(rows, y=targets, batch_size=8, shuffle=False, fill_up=fill_up),
            steps=steps,
        )

    ask.tried = tried
    return ask


def state(model):
    return [keras.ops.convert_to_numpy(v).copy() for v in (*model.weights, *model.optimizer.variables)]


def test_xla_is_taken_where_it_is_faster_and_that_is_remembered(asked, model):
    before = state(model)
    assert asked(0.2, 0.1) is True
    assert asked.tried == [False, True]
    after = state(model)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert asked(0.1, 0.2) is True
    assert asked.tried == [False, True]


def test_xla_is_left_where_it_is_no_faster(asked):
    assert asked(0.2, 0.199) is False


def test_a_short_stage_does_not_try_xla(asked):
    assert asked(0.001, 0.0005) is False
    assert asked.tried == [False]


def test_what_is_short_anywhere_is_not_even_timed(asked):
    assert asked(0.2, 0.1, steps=10) is False
    assert asked.tried == []


def test_what_cannot_be_read_is_not_known(cache_folder):
    remembered.put("xla a", True)
    assert remembered.get("xla a") is True
    (cache_folder / "machine.json").write_text("[1, 2", encoding="utf-8")
    assert remembered.get("xla a") is None
    remembered.put("xla b", False)
    assert remembered.get("xla b") is False


def test_a_tail_of_other_shapes_is_another_tail(model):
    cut = find_cut(model)
    wider = find_cut(small_network(dropout=0.0, shape=(14, 14, 3)))
    assert remembered.structure(cut.tail) == remembered.structure(find_cut(small_network(dropout=0.0)).tail)
    assert remembered.structure(cut.tail) != remembered.structure(wider.tail)


# --- one call per epoch ---------------------------------------------------------------------------------------------


class CountsEpochs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


class CountsBatches(CountsEpochs):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


def steps_joined(model, rows, targets, callback, monkeypatch, traced=None):
    tail = StageTail(model, find_cut(model), jit_compile=False)
    if traced is not None:
        plain = StageTail.train_step
        monkeypatch.setattr(StageTail, "train_step", lambda self, data: (traced.append(1), plain(self, data))[1])
    start = model.get_weights()
    feed = RowFeed(rows, y=targets, batch_size=8, shuffle=True)
    tail.train_on(feed, callbacks=[callback], epochs=2, verbose=0, steps=None)
    model.set_weights(start)
    return tail.steps_per_execution


def test_short_steps_of_an_epoch_are_one_call_and_no_shape_is_traced_twice(model, rows, targets, monkeypatch):
    callback, traced = CountsEpochs(), []
    assert steps_joined(model, rows, targets, callback, monkeypatch, traced) == 3
    assert callback.epochs == 2
    assert len(traced) == 1


def test_a_callback_that_looks_at_batches_sees_each(model, rows, targets, monkeypatch):
    callback = CountsBatches()
    assert steps_joined(model, rows, targets, callback, monkeypatch) == 1
    assert callback.batches == 6


def test_checkpoints_of_epochs_do_not_look_at_batches(model, rows, targets, monkeypatch, tmp_path):
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    saver.set_model(model)
    assert steps_joined(model, rows, targets, saver, monkeypatch) == 3


# --- views ----------------------------------------------------------------------------------------------------------


def drawn(seed, epochs=4, in_memory=True):
    """Which view of each of five pictures was fed in each epoch; the activation names picture and view."""
    views = np.array([[row, *range(5 + 3 * row, 8 + 3 * row)] for row in range(5)])
    table = np.full((20, 2), np.nan, "float32")
    for picture, line in enumerate(views):
        for view, row in enumerate(line):
            table[row] = picture, view
    feed = RowFeed(
        Rows([table], in_memory=in_memory), rows=views, y=np.arange(5.0), batch_size=2, shuffle=False, seed=seed
    )
    fed = []
    for _ in range(epochs):
        feed.on_epoch_begin()
        batches = [(np.array(x), np.array(y)) for x, y in feed.get_tf_dataset()]
        x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        np.testing.assert_array_equal(x[:, 0], y)  # whatever view: the picture's own target
        fed.append(x[:, 1].tolist())
        feed.on_epoch_end()
    return fed


def test_each_epoch_draws_one_view_of_each_picture():
    fed = drawn(1, epochs=40)
    assert {view for epoch in fed for view in epoch} == {0, 1, 2, 3}
    assert len({tuple(epoch) for epoch in fed}) > 30


def test_the_same_seed_draws_the_same_views_wherever_they_lie():
    assert drawn(7) == drawn(7) == drawn(7, in_memory=False)
    assert drawn(7) != drawn(8)
