"""What `greffon.fit` refuses, and what it leaves to `model.fit`, each with one line that says why."""

from __future__ import annotations

import numpy as np
import pytest
from fit_sides import CLASSES, SHAPE, compiled, small_network

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.backbone.freeze import freeze  # noqa: E402
from greffon.backbone.graft import graft  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.errors import FreezeError, InputError  # noqa: E402
from greffon.frozen.store import ActivationStore  # noqa: E402
from greffon.training.fit import fit  # noqa: E402

# --- left to model.fit ------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = small_network()

    def call(self, x, training=None):
        return self.inner(x, training=training)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnLoss(keras.Model):
    def compute_loss(self, *args, **options):
        return super().compute_loss(*args, **options)


def unfrozen():
    model = small_network()
    for layer in model.layers:
        layer.trainable = True
    return model


def as_kind(kind):
    model = small_network()
    return kind(model.input, model.output)


def with_augmentation():
    return keras.Sequential([keras.Input(SHAPE), layers.RandomFlip(name="flip"), small_network()])


def with_own_regularizer():
    model = keras.Sequential([keras.Input(SHAPE), small_network()])
    model.activity_regularizer = keras.regularizers.L2(0.1)
    return model


def with_a_frozen_stem():
    stem = layers.Conv2D(1, 1, trainable=False, name="stem")
    last = layers.Dense(CLASSES, activation="softmax")
    return keras.Sequential([keras.Input(SHAPE), stem, layers.Conv2D(32, 3, name="rest"), layers.Flatten(), last])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Subclassed, "Subclassed says in code, not in a graph, what it does"),
        (lambda: as_kind(OwnStep), "OwnStep has its own train_step"),
        (lambda: as_kind(OwnLoss), "OwnLoss has its own compute_loss"),
        (unfrozen, "nothing is frozen in front of conv1"),
        (with_augmentation, "flip (RandomFlip) draws at random in every step, although it is frozen"),
        (with_own_regularizer, "the model has an activity regularizer of its own"),
        (with_a_frozen_stem, "what is frozen in front of rest does only"),
    ],
    ids=["subclassed", "train_step", "compute_loss", "unfrozen", "augmentation", "regularizer", "stem"],
)
def test_model_that_gains_nothing_is_left_to_model_fit_with_one_line(data, make, reason, capsys):
    model = compiled(make())
    keras.utils.set_random_seed(2)
    history = fit(model, data.x, data.y, batch_size=8, epochs=2, verbose=2)
    assert history.greffon.why_not.startswith(reason)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("greffon")]
    assert said == [f"greffon: {history.greffon.why_not}; training with model.fit"]
    assert (history.greffon.computed, history.greffon.stored) == (0, 0)
    model = compiled(make())
    keras.utils.set_random_seed(2)
    assert history.history == model.fit(data.x, data.y, batch_size=8, epochs=2, verbose=0).history
    with ActivationStore() as store:
        assert store.info() == []


def test_every_argument_reaches_model_fit(data):
    model = compiled(unfrozen())
    options = {"validation_split": 0.2, "initial_epoch": 1, "epochs": 4, "validation_freq": 2, "verbose": 0}
    options |= {"class_weight": {0: 2.0}, "batch_size": 8, "shuffle": False, "validation_batch_size": 4}
    history = fit(model, data.x, data.y, **options)
    expected = compiled(unfrozen()).fit(data.x, data.y, **options)
    assert history.epoch == [1, 2, 3]
    assert history.history.keys() == expected.history.keys()
    np.testing.assert_allclose(history.history["val_loss"], expected.history["val_loss"], rtol=0.5)


def test_sequential_that_cannot_know_its_shape(data):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return data.x[8 * index : 8 * index + 8], data.y[8 * index : 8 * index + 8]

    model = keras.Sequential([layers.Conv2D(4, 3, trainable=False), layers.Flatten(), layers.Dense(CLASSES)])
    history = fit(compiled(model, loss="mse"), Batches(), verbose=0)
    assert "does not know its input shape" in history.greffon.why_not
    assert len(history.history["loss"]) == 1


def test_model_with_a_fit_of_its_own_returns_what_it_returns(data):
    class OwnFit(keras.Model):
        def fit(self, *args, **options):
            return "mine"

    assert fit(compiled(as_kind(OwnFit)), data.x, data.y, verbose=0) == "mine"


def test_model_that_is_not_compiled_gets_keras_own_error(data, capsys):
    with pytest.raises(ValueError, match="compile"):
        fit(small_network(), data.x, data.y)
    assert "greffon: the model is not compiled" in capsys.readouterr().out


def test_trunk_that_ends_early_is_trained_with_what_there_is_and_the_layer_is_named(data, capsys):
    def build():
        keras.utils.set_random_seed(1)
        frozen = [layers.Conv2D(8, 3, trainable=False, padding="same", name=name) for name in ("a", "b", "c")]
        stack = [layers.Rescaling(1 / 255), frozen[0], layers.Dropout(0.5, name="drop"), *frozen[1:]]
        last = layers.Dense(CLASSES, activation="softmax")
        return compiled(keras.Sequential([keras.Input(SHAPE), *stack, layers.GlobalAveragePooling2D(), last]))

    history = fit(build(), data.x, data.y, epochs=1, verbose=2)
    (note,) = history.greffon.notes
    assert note.startswith("drop (Dropout) draws at random")
    assert f"greffon: {note}" in capsys.readouterr().out
    assert history.greffon.cut == "a"
    assert history.greffon.computed == 40


# --- refused ----------------------------------------------------------------------------------------------------------


def test_unfrozen_and_not_compiled_again(data):
    model = compiled(small_network())
    fit(model, data.x, data.y, verbose=0)
    model.get_layer("conv2").trainable = True
    with pytest.raises(FreezeError, match=r"conv2.*call model.compile"):
        fit(model, data.x, data.y, verbose=0)
    compiled(model)
    assert fit(model, data.x, data.y, verbose=0).greffon.cut == "conv1"


def test_frozen_and_not_compiled_again_even_before_the_first_fit(data):
    model = compiled(small_network())
    model.get_layer("hidden").trainable = False
    with pytest.raises(FreezeError, match="hidden"):
        fit(model, data.x, data.y, verbose=0)


def test_unknown_precision(data):
    with pytest.raises(InputError, match=r"must be 'float32' or 'float16', got 'int8'"):
        fit(compiled(small_network()), data.x, data.y, activations="int8")


def grafted():
    keras.utils.set_random_seed(1)
    model = graft(resnet(blocks=(1, 1, 1, 1), input_shape=(32, 32, 3)), classes=CLASSES, preprocessing="caffe")
    freeze(model)
    return compiled(model)


@pytest.fixture(scope="module")
def model():
    return grafted()


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), np.eye(CLASSES)[random.integers(0, CLASSES, 24)]


SCALED = "pictures must be RGB values of 0..255"


def dataset_of(x, y, batch=4):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def test_pictures_in_0_to_1_are_refused_as_an_array(model, photos):
    x, y = photos
    with pytest.raises(InputError, match=SCALED):
        fit(model, x / 255.0, y, verbose=0)
    with pytest.raises(InputError, match=SCALED):
        fit(model, x, y, validation_data=((x / 255).astype("float32"), y), verbose=0)


@pytest.mark.parametrize("batch", [1, 24])
def test_pictures_in_0_to_1_are_refused_inside_a_dataset_with_the_error_itself(model, photos, batch):
    x, y = photos
    scaled = dataset_of(x.astype("float32"), y, batch).map(lambda x, y: (x / 255, y))
    with pytest.raises(InputError, match=SCALED):
        fit(model, scaled, verbose=0)
    with pytest.raises(InputError, match=SCALED):
        fit(model, dataset_of(x, y), validation_data=scaled, verbose=0)


def test_pictures_in_0_to_1_are_refused_even_if_there_are_only_two(model, photos):
    x, y = photos
    with pytest.raises(InputError, match=SCALED):
        fit(model, dataset_of(x[:2] / 255, y[:2], 1), epochs=2, verbose=0)


def test_one_black_picture_at_the_beginning_proves_nothing(model, photos):
    x, y = photos
    floats = x.astype("float32")
    floats[0] = 0
    assert fit(model, dataset_of(floats, y, 1), verbose=0).greffon.why_not is None


def test_whole_numbers_are_never_refused(model, photos):
    x, y = photos
    dark = (x > 127).astype("uint8")
    for source in ((dark, y), (dataset_of(dark, y),)):
        assert fit(model, *source, verbose=0).greffon.computed == 24
        with ActivationStore() as store:
            store.clear()


def test_other_peoples_models_take_what_they_like(photos):
    x, y = photos
    history = fit(compiled(small_network(shape=(32, 32, 3))), x / 255.0, y, verbose=0)
    assert history.greffon.computed == 24


def test_pictures_with_nan_are_refused_before_anything_is_computed(model, photos):
    x, y = photos
    bad = x.astype("float32")
    bad[5] = np.nan
    with pytest.raises(InputError, match=r"1 of 24 pictures holds NaN .* number 5 "):
        fit(model, bad, y, verbose=0)
    with pytest.raises(InputError, match=r"1 of 24 validation pictures holds NaN"):
        fit(model, x, y, validation_data=(bad, y), verbose=0)
    with ActivationStore() as store:
        assert store.info() == []
    with pytest.raises(InputError, match=r"pictures holds? NaN"):
        fit(model, dataset_of(bad, y), verbose=0)
