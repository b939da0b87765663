"""`greffon.fit` gives the losses of `model.fit`, wherever the pictures come from."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from fit_sides import CLASSES, SHAPE, assert_same_history, both, compiled, small_network

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.frozen.store import ActivationStore  # noqa: E402
from greffon.frozen.trunks import Trunks  # noqa: E402
from greffon.training.feed import RowFeed, StreamFeed  # noqa: E402

BATCH = 8


def build():
    return compiled(small_network())


def tensors(data):
    import tensorflow as tf

    return {"x": tf.constant(data.x), "y": tf.constant(data.y), "validation_data": (tf.constant(data.vx), data.vy)}


@pytest.fixture(scope="module")
def expected(data):
    """The history that `model.fit` gives for the plain arrays."""
    model = build()
    keras.utils.set_random_seed(2)
    held_out = (data.vx, data.vy)
    return model.fit(data.x, data.y, batch_size=BATCH, epochs=2, validation_data=held_out, verbose=0).history


@pytest.mark.parametrize(
    "convert",
    [
        lambda data: {"x": data.x.astype("float32"), "y": data.y},
        pytest.param(
            lambda data: {"x": data.x.astype("float64"), "y": data.y.astype("float64")}, marks=pytest.mark.large
        ),
        lambda data: {"x": data.x.astype("float16"), "y": data.y},
        pytest.param(
            lambda data: {"x": [data.x], "y": data.y, "validation_data": ([data.vx], data.vy)}, marks=pytest.mark.large
        ),
        lambda data: {"x": {"pictures": data.x}, "y": data.y, "validation_data": ({"pictures": data.vx}, data.vy)},
        tensors,
    ],
    ids=["float32", "float64", "float16", "list", "dictionary", "tensors"],
)
def test_arrays_of_any_dtype_and_structure(data, expected, convert):
    from greffon.training.fit import fit

    model = build()
    keras.utils.set_random_seed(2)
    options = {"batch_size": BATCH, "epochs": 2, "verbose": 0, "validation_data": (data.vx, data.vy)}
    history = fit(model, **options | convert(data))
    assert history.greffon.computed == 52
    assert history.history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history.history[name], values, rtol=0 if "acc" in name else 1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": None, "steps_per_epoch": 5},
        {"batch_size": 7, "validation_batch_size": 5},
        {"validation_data": None, "validation_split": 0.25},
    ],
    ids=["steps", "odd batches", "split"],
)
def test_arrays_in_batches_of_any_kind(data, options):
    def arguments():
        plain = {"x": data.x, "y": data.y, "batch_size": BATCH, "epochs": 2, "validation_data": (data.vx, data.vy)}
        return plain | options

    run = both(build, arguments)
    assert_same_history(run, pictures=10)
    assert run.report.computed == (52 if run.greffon.arguments["validation_data"] else 40)


def test_grey_pictures_without_their_last_axis(data):
    x = data.x[..., 0]

    def build():
        return compiled(small_network(shape=(12, 12, 1)))

    assert_same_history(both(build, lambda: {"x": x, "y": data.y, "batch_size": BATCH, "epochs": 2}), pictures=40)


@pytest.mark.parametrize(
    "weights",
    [
        {"class_weight": {0: 0.2, 1: 1.0, 2: 3.0, 3: 0.7}},
        {"sample_weight": np.linspace(0, 2, 40)},
    ],
    ids=["class", "sample"],
)
def test_weights_of_arrays(data, weights):
    def arguments():
        held_out = (data.vx, data.vy, np.linspace(2, 1, 12))
        return {"x": data.x, "y": data.y, "batch_size": BATCH, "epochs": 2, "validation_data": held_out} | weights

    def build():
        return compiled(small_network(), weighted_metrics=["accuracy"], metrics=None)

    assert_same_history(both(build, arguments), pictures=1)


def test_sparse_labels_in_integers(data):
    def build():
        return compiled(small_network(), loss="sparse_categorical_crossentropy")

    assert_same_history(
        both(build, lambda: {"x": data.x, "y": data.labels, "batch_size": BATCH, "epochs": 2}), pictures=40
    )


def test_later_epochs_and_validation_in_some_of_them(data):
    def arguments():
        options = {"initial_epoch": 1, "epochs": 5, "validation_freq": 2, "batch_size": BATCH}
        return {"x": data.x, "y": data.y, "validation_data": (data.vx, data.vy)} | options

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert run.greffon.history.epoch == [1, 2, 3, 4]
    assert len(run.greffon.history.history["val_loss"]) == 2


# --- tf.data ----------------------------------------------------------------------------------------------------------


def dataset(data, *, shuffled=False, weights=False):
    import tensorflow as tf

    tf.random.set_seed(7)  # the order is drawn when the dataset is made
    columns = (data.x, data.y, np.linspace(0.1, 2, 40).astype("float32")) if weights else (data.x, data.y)
    made = tf.data.Dataset.from_tensor_slices(columns)
    if shuffled:
        made = made.shuffle(40, seed=5, reshuffle_each_iteration=True)
    return made.batch(BATCH)


def held_out(data):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((data.vx, data.vy)).batch(5)


@pytest.mark.parametrize("shuffled", [pytest.param(False, marks=pytest.mark.large), True])
def test_finite_dataset(data, shuffled):
    def arguments():
        return {"x": dataset(data, shuffled=shuffled), "validation_data": held_out(data), "shuffle": False}

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert run.report.computed == 52
    assert run.report.notes == []


def test_dataset_with_sample_weights_and_one_with_class_weights(data):
    def weighted():
        return {"x": dataset(data, weights=True), "shuffle": False, "epochs": 2}

    def by_class():
        return {"x": dataset(data), "shuffle": False, "epochs": 2, "class_weight": {0: 0.2, 1: 1.0, 2: 3.0, 3: 0.7}}

    assert_same_history(both(build, weighted), pictures=40)
    assert_same_history(both(build, by_class), pictures=40)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_dataset_of_unknown_length(data):
    """Keras does not know where the first epoch ends, and warns when it is there."""

    def arguments():
        import tensorflow as tf

        unknown = dataset(data, shuffled=True).filter(lambda x, y: True)
        assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
        return {"x": unknown, "validation_data": held_out(data), "shuffle": False}

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert run.report.computed == 52
    assert run.report.notes == []


def test_endless_dataset_with_steps(data):
    def arguments():
        options = {"steps_per_epoch": 3, "validation_steps": 2, "shuffle": False}
        return {"x": dataset(data, shuffled=True).repeat(), "validation_data": held_out(data).repeat()} | options

    run = both(build, arguments)
    assert_same_history(run, pictures=10)
    assert run.report.notes == []


def test_dataset_of_dictionaries_for_a_model_of_several_inputs(data):
    places = np.random.default_rng(1).normal(size=(40, 2)).astype("float32")

    def build():
        keras.utils.set_random_seed(1)
        picture, place = keras.Input(SHAPE, name="picture"), keras.Input((2,), name="place")
        x = layers.Flatten()(layers.Conv2D(4, 3, trainable=False)(layers.Rescaling(1 / 255)(picture)))
        x = layers.Dense(CLASSES, activation="softmax")(layers.Concatenate()([x, place]))
        return compiled(keras.Model([picture, place], x))

    def arguments():
        import tensorflow as tf

        made = tf.data.Dataset.from_tensor_slices(({"place": places, "picture": data.x}, data.y))
        return {"x": made.batch(BATCH), "shuffle": False, "epochs": 2}

    assert_same_history(both(build, arguments), pictures=40)


def test_dataset_says_nothing_that_the_user_did_not_ask_for(data):
    """Keras warns that it ignores its own default of `shuffle`; there is nothing to say."""
    from greffon.training.fit import fit

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(build(), dataset(data), validation_data=held_out(data), verbose=0)
    assert history.greffon.computed == 52


# --- PyDataset, generators --------------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __init__(self, data, *, weights=False, **options):
        super().__init__(**options)
        self.data, self.weights = data, weights
        self.begun = self.ended = 0

    def __len__(self):
        return math.ceil(len(self.data.x) / BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        batch = (self.data.x[rows], self.data.y[rows])
        return (*batch, np.linspace(0.1, 2, 40)[rows]) if self.weights else batch

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


@pytest.mark.parametrize(
    ("of_source", "of_fit"),
    [
        pytest.param({}, {}, marks=pytest.mark.large),
        ({"workers": 2}, {}),
        ({"weights": True}, {"shuffle": False}),
        pytest.param({}, {"class_weight": {0: 2.0, 1: 0.5}}, marks=pytest.mark.large),
    ],
    ids=["plain", "workers", "weights", "class weights"],
)
def test_pydataset(data, of_source, of_fit):
    def arguments():
        return {"x": Batches(data, **of_source), "validation_data": (data.vx, data.vy)} | of_fit

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert run.report.computed == 52
    assert run.report.notes == []
    ours, theirs = run.greffon.arguments["x"], run.keras.arguments["x"]
    assert (ours.begun, ours.ended) == (theirs.begun, theirs.ended)


def test_python_generator_and_pydataset_to_validate_on(data):
    def endless():
        while True:
            for start in range(0, 40, BATCH):
                yield data.x[start : start + BATCH], data.y[start : start + BATCH]

    def arguments():
        return {"x": endless(), "steps_per_epoch": 4, "validation_data": Batches(data), "shuffle": False}

    run = both(build, arguments)
    assert_same_history(run, pictures=40)
    assert run.report.computed == 40
    assert run.report.notes == []


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_generator_that_ends(data):
    def arguments():
        return {"x": (batch for batch in [(data.x[:8], data.y[:8]), (data.x[8:16], data.y[8:16])]), "shuffle": False}

    run = both(build, lambda: arguments() | {"epochs": 1})
    assert_same_history(run, pictures=16)


# --- how it is done ---------------------------------------------------------------------------------------------------


def test_layers_that_only_keras_can_run_are_run_inside_the_pipeline(data):
    """Keras computes in the thread of tf.data while Keras trains in another one."""

    class Twice(layers.Layer):
        def call(self, x):
            return 2 * x

    def build():
        keras.utils.set_random_seed(1)
        pictures = keras.Input(SHAPE)
        x = Twice()(layers.Conv2D(4, 3, trainable=False)(layers.Rescaling(1 / 255)(pictures)))
        return compiled(keras.Model(pictures, layers.Dense(CLASSES, activation="softmax")(layers.Flatten()(x))))

    def arguments():
        return {"x": dataset(data).repeat(), "steps_per_epoch": 4, "validation_data": held_out(data), "shuffle": False}

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert run.report.engine == "keras"


def test_batches_are_the_same_for_every_backend(data):
    """What Keras asks for on JAX and torch is built from these, without TensorFlow."""
    model = build()
    cut = find_cut(model)
    with ActivationStore() as store:
        trunks = Trunks(cut, store, dtype="float32", label="", widened=lambda: None)
        feeds = [
            RowFeed(trunks.rows([data.x]), y=data.y, batch_size=BATCH),
            StreamFeed(trunks, model, Batches(data), guard=SimpleNamespace(look=lambda inputs: None)),
        ]
        wanted = keras.Model(model.input, model.get_layer("flat").output).predict(data.x, verbose=0)
        for feed in feeds:
            batches = list(feed.get_numpy_iterator())
            assert len(batches) == feed.num_batches == 5
            given, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
            np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(labels, data.y)
            for ours, (theirs, _) in zip(batches, feed.get_tf_dataset(), strict=True):
                np.testing.assert_array_equal(ours[0], theirs)


# --- what cannot be fitted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda data: {"x": data.x, "y": data.y[:7]}, "same"),
        (lambda data: {"x": data.x[:1], "y": data.y[:1], "validation_split": 0.5}, "leaves one side empty"),
        (lambda data: {"x": dataset(data), "validation_split": 0.5}, "validation_data"),
        (lambda data: {"x": [data.x, data.x], "y": data.y}, "has 1 inputs, got 2"),
        (lambda data: {"x": {"photos": data.x}, "y": data.y}, "without 'pictures'"),
        (lambda data: {"x": dataset(data), "y": data.y}, "should not be passed"),
        (lambda data: {"x": data.x[:, :6], "y": data.y}, r"shape"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused_as_a_value_error(data, options, message):
    from greffon.training.fit import fit

    with pytest.raises(ValueError, match=message):
        fit(build(), **options(data), verbose=0)
