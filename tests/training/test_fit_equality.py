"""`greffon.fit` gives the losses and metrics of `model.fit`, whatever the model."""

from __future__ import annotations

import numpy as np
import pytest
from fit_sides import CLASSES, SHAPE, assert_same_history, assert_same_weights, both, compiled, small_network

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.training.tail import Tail  # noqa: E402

# An unfrozen normalisation amplifies rounding from epoch to epoch.
BATCH_STATISTICS = [1e-4, 1e-3, 1e-3]


@pytest.fixture(scope="module")
def photos32():
    """40 + 10 float pictures, as the tutorial has them in memory."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (50, 32, 32, 3)).astype("float32")
    y = np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, 50)]
    return {"x": x[:40], "y": y[:40], "batch_size": 16, "validation_data": (x[40:], y[40:])}


def base_of(size=32):
    keras.utils.set_random_seed(1)
    return resnet(blocks=(1, 1, 1, 1), input_shape=(size, size, 3))


def test_tutorial_all_frozen(photos32):
    """Sequential with the backbone nested in it, Flatten, Dense 256, Dropout: the tutorial's own code."""

    def build():
        base = base_of()
        for layer in base.layers:
            layer.trainable = False
        head = [layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dropout(0.5)]
        model = keras.Sequential([base, *head, layers.Dense(CLASSES, activation="softmax")])
        return compiled(model, keras.optimizers.Adam(1e-4))

    run = both(build, lambda: photos32)
    assert_same_history(run, pictures=10)
    assert_same_weights(run)
    assert run.report.computed == 50
    assert run.report.engine == "onnx"
    assert run.report.cut == run.greffon.model.layers[1].name  # the Flatten


def test_last_ten_layers_unfrozen_with_their_normalisation(photos32):
    def build():
        base = base_of()
        for layer in base.layers[:-10]:
            layer.trainable = False
        model = keras.Sequential([base, layers.Flatten(), layers.Dense(CLASSES, activation="softmax")])
        return compiled(model, keras.optimizers.Adam(1e-4))

    run = both(build, lambda: photos32)
    assert_same_history(run, pictures=10, rtol=BATCH_STATISTICS)
    moved = [layer for layer in run.greffon.model.layers[0].layers if isinstance(layer, layers.BatchNormalization)]
    assert any(layer.trainable for layer in moved)


def test_pattern_of_the_keras_guide_with_normalisation_called_in_inference_mode(photos32):
    """`base(x, training=False)` and unfrozen layers: what Keras does with it in `fit` is what counts."""

    def build():
        base = base_of()
        for layer in base.layers[:-10]:
            layer.trainable = False
        pictures = keras.Input((32, 32, 3))
        x = layers.GlobalAveragePooling2D()(base(pictures, training=False))
        x = layers.Dense(CLASSES, activation="softmax")(layers.Dropout(0.2)(x))
        return compiled(keras.Model(pictures, x), keras.optimizers.Adam(1e-4))

    run = both(build, lambda: photos32)
    assert_same_history(run, pictures=10, rtol=BATCH_STATISTICS)


def test_cut_in_the_middle_of_a_block(photos32):
    """Trained from the block's second convolution on; two tensors pass."""

    def build():
        base = base_of()
        for layer in base.layers:
            layer.trainable = layer.name in ("conv5_block1_2_conv", "conv5_block1_3_conv")
        model = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, activation="softmax")])
        return compiled(model, keras.optimizers.Adam(1e-4))

    run = both(build, lambda: photos32)
    assert_same_history(run, pictures=10)
    assert "conv5_block1_0_bn" in run.report.cut
    assert "conv5_block1_1_relu" in run.report.cut


@pytest.mark.large
@pytest.mark.parametrize("unfrozen", [0, 10])
def test_resnet50_of_keras_itself(photos32, unfrozen):
    def build():
        keras.utils.set_random_seed(1)
        base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
        for layer in base.layers[: len(base.layers) - unfrozen]:
            layer.trainable = False
        head = [layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dropout(0.5)]
        model = keras.Sequential([base, *head, layers.Dense(CLASSES, activation="softmax")])
        return compiled(model, keras.optimizers.Adam(1e-4))

    run = both(build, lambda: photos32)
    assert_same_history(run, pictures=10, rtol=BATCH_STATISTICS if unfrozen else 1e-4)


def test_mobilenet_of_keras_with_its_last_block_unfrozen():
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (24, 64, 64, 3)).astype("float32")
    y = np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, 24)]

    def build():
        keras.utils.set_random_seed(1)
        base = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None, pooling="avg")
        for layer in base.layers[:-12]:
            layer.trainable = False
        pictures = keras.Input((64, 64, 3))
        return compiled(keras.Model(pictures, layers.Dense(CLASSES, activation="softmax")(base(pictures))))

    run = both(build, lambda: {"x": x, "y": y, "batch_size": 8})
    assert_same_history(run, pictures=24, rtol=BATCH_STATISTICS)
    assert run.report.computed == 24


# --- a small network of nobody's, in every way of compiling -----------------------------------------------------------


def arrays(data, **options):
    return lambda: {"x": data.x, "y": data.y, "batch_size": 8, "validation_data": (data.vx, data.vy)} | options


def test_small_functional_model(data):
    run = both(lambda: compiled(small_network()), arrays(data))
    assert_same_history(run, pictures=12)
    assert_same_weights(run)
    assert run.report.cut == "flat"
    assert run.keras.history.history["loss"][-1] < run.keras.history.history["loss"][0]
    before = small_network()
    for name in ("conv1", "conv2", "norm"):  # bit for bit what they were
        now = run.greffon.model.get_layer(name).get_weights()
        for old, new in zip(before.get_layer(name).get_weights(), now, strict=True):
            np.testing.assert_array_equal(old, new)


def test_normalisation_on_batch_statistics(data):
    run = both(lambda: compiled(small_network(unfrozen_norm=True)), arrays(data))
    assert_same_history(run, pictures=12, rtol=BATCH_STATISTICS)
    assert run.report.cut == "conv2"


def test_frozen_statistics_with_gamma_and_beta_that_train(data):
    def build():
        model = small_network()
        norm = model.get_layer("norm")
        norm.gamma.trainable = norm.beta.trainable = True
        return compiled(model)

    run = both(build, arrays(data))
    assert_same_history(run, pictures=12)
    before, after = small_network().get_layer("norm"), run.greffon.model.get_layer("norm")
    np.testing.assert_array_equal(before.moving_mean, after.moving_mean)
    assert np.abs(np.subtract(before.gamma, after.gamma)).max() > 0
    assert run.report.cut == "conv2"


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 3},
        {"run_eagerly": True},
        {
            "loss": lambda: keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
            "metrics": lambda: [keras.metrics.CategoricalAccuracy(name="acc"), keras.metrics.AUC(name="auc"), "mae"],
        },
        {"optimizer": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, clipnorm=0.1)},
        {"optimizer": lambda: keras.optimizers.AdamW(1e-3, gradient_accumulation_steps=2)},
        {
            "optimizer": lambda: keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(1e-2, 12), use_ema=True, ema_overwrite_frequency=3
            )
        },
    ],
    ids=["steps_per_execution", "run_eagerly", "objects", "clipped", "accumulated", "scheduled"],
)
def test_ways_of_compiling(data, options):
    def build():
        made = {name: value() if callable(value) else value for name, value in options.items()}
        return compiled(small_network(), **made)

    run = both(build, arrays(data, epochs=2))
    assert_same_history(run, pictures=12)
    assert_same_weights(run)


def test_penalties_and_constraints_of_the_tail_count_and_those_of_frozen_layers_do_not(data):
    def build():
        model = small_network()
        model.get_layer("hidden").kernel_regularizer = None
        pictures = keras.Input(SHAPE)
        frozen = layers.Conv2D(4, 3, kernel_regularizer="l2", trainable=False)(model.get_layer("scale")(pictures))
        x = layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1")(layers.Flatten()(frozen))
        x = layers.Dense(CLASSES, activation="softmax", kernel_constraint="unit_norm")(x)
        return compiled(keras.Model(pictures, x))

    assert_same_history(both(build, arrays(data, epochs=2)), pictures=12)


def test_regularizer_of_a_frozen_layers_output_counts(data):
    def build():
        keras.utils.set_random_seed(1)
        pictures = keras.Input(SHAPE)
        x = layers.Conv2D(4, 3, trainable=False, name="first")(layers.Rescaling(1 / 255)(pictures))
        x = layers.Conv2D(4, 3, trainable=False, activity_regularizer="l2")(x)
        return compiled(keras.Model(pictures, layers.Dense(CLASSES, activation="softmax")(layers.Flatten()(x))))

    run = both(build, arrays(data, epochs=2))
    assert_same_history(run, pictures=12)
    assert run.report.cut == "first"


def several_outputs():
    keras.utils.set_random_seed(1)
    picture, place = keras.Input(SHAPE, name="picture"), keras.Input((2,), name="place")
    x = layers.Conv2D(4, 3, trainable=False, name="conv")(layers.Rescaling(1 / 255)(picture))
    x = layers.Concatenate()([layers.Flatten()(x), place])
    kind = layers.Dense(CLASSES, activation="softmax", name="kind")(layers.Dropout(0.2)(x))
    size = layers.Dense(1, name="size")(x)
    return keras.Model({"picture": picture, "place": place}, {"kind": kind, "size": size})


def test_several_inputs_and_outputs_with_losses_by_name(data):
    places = np.random.default_rng(1).normal(size=(52, 2)).astype("float32")

    def build():
        return compiled(
            several_outputs(),
            loss={"kind": "categorical_crossentropy", "size": "mse"},
            loss_weights={"kind": 1.0, "size": 0.3},
            metrics={"kind": ["accuracy"], "size": ["mae"]},
        )

    def arguments():
        x, y = {"place": places[:40], "picture": data.x}, {"size": places[:40, :1], "kind": data.y}
        return {
            "x": x,
            "y": y,
            "batch_size": 8,
            "validation_data": (
                {"picture": data.vx, "place": places[40:]},
                {"kind": data.vy, "size": places[40:, :1]},
            ),
            "sample_weight": {"kind": np.linspace(0.5, 2, 40), "size": np.linspace(1, 0, 40)},
        }

    run = both(build, arguments)
    assert_same_history(run, pictures=12)
    assert "size_mae" in run.greffon.history.history


def test_mixed_precision(data):
    def build():
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = small_network()
        finally:
            keras.config.set_dtype_policy("float32")
        logits = layers.Dense(CLASSES, activation="softmax", dtype="float32")(model.get_layer("drop").output)
        return compiled(keras.Model(model.input, logits), auto_scale_loss=True)

    run = both(build, arrays(data))
    assert_same_history(run, pictures=6, rtol=5e-3)


def test_model_whose_outputs_are_partly_frozen(data):
    """An output of the trunk passes through the tail as it is."""

    def build():
        model = small_network()
        features = layers.GlobalAveragePooling2D(name="features")(model.get_layer("relu").output)
        model = keras.Model(model.input, [model.output, features])
        return compiled(model, loss=["categorical_crossentropy", "mse"], metrics=None)

    def arguments():
        targets = np.zeros((40, 8), "float32")
        return {"x": data.x, "y": [data.y, targets], "batch_size": 8}

    assert_same_history(both(build, arguments), pictures=40)


def test_model_for_pictures_of_any_size(data):
    def build():
        keras.utils.set_random_seed(1)
        pictures = keras.Input((None, None, 3))
        x = layers.Conv2D(8, 3, trainable=False, activation="relu")(layers.Rescaling(1 / 255)(pictures))
        x = layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(x))
        return compiled(keras.Model(pictures, x))

    assert_same_history(both(build, arrays(data)), pictures=12)


def test_sequential_that_learns_its_shape_from_the_data(data):
    def build():
        keras.utils.set_random_seed(1)
        frozen = layers.Conv2D(8, 3, trainable=False, activation="relu")
        return compiled(
            keras.Sequential([layers.Rescaling(1 / 255), frozen, layers.Flatten(), layers.Dense(CLASSES, "softmax")])
        )

    assert_same_history(both(build, arrays(data, epochs=2)), pictures=12)


def test_tail_holds_its_variables_in_the_models_order():
    """The optimizer knows them by their place; the graph of the tail is in an order of its own."""
    base = base_of()
    for layer in base.layers:
        layer.trainable = layer.name.startswith("conv5")
    model = compiled(keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]))
    tail = Tail(model, find_cut(model))
    graph = [id(weight) for layer in tail.graph.layers for weight in layer.weights if weight.trainable]
    whole = [id(variable) for variable in model.trainable_variables]
    assert graph != whole
    assert [id(variable) for variable in tail.trainable_variables] == whole
    assert [id(variable) for variable in tail.trainable_weights] == whole
    assert len(model.optimizer.variables) == 2 + 2 * len(whole)


# --- afterwards -------------------------------------------------------------------------------------------------------


def test_model_is_afterwards_as_model_fit_leaves_it(data):
    run = both(lambda: compiled(small_network()), arrays(data, epochs=2))
    ours, theirs = run.greffon.model, run.keras.model
    assert ours.history is run.greffon.history
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 10
    assert ours.metrics_names == theirs.metrics_names
    assert ours.stop_training == theirs.stop_training
    slots, same = ([variable.path.split("/", 1)[1] for variable in m.optimizer.variables] for m in (ours, theirs))
    assert slots == same  # their order is what saving and loading go by
    np.testing.assert_allclose(
        ours.evaluate(data.vx, data.vy, verbose=0), theirs.evaluate(data.vx, data.vy, verbose=0), rtol=1e-4
    )
    np.testing.assert_allclose(
        ours.predict(data.vx, verbose=0), theirs.predict(data.vx, verbose=0), rtol=1e-3, atol=1e-5
    )
    assert ours.get_layer("conv1").output.shape == (None, 10, 10, 8)
    # And on with it, either way: the optimizer's momenta and the seeds of Dropout go on where they were.
    more = {"batch_size": 8, "verbose": 0, "shuffle": False, "epochs": 4, "initial_epoch": 2}
    expected = theirs.fit(data.x, data.y, **more).history
    from greffon.training.fit import fit

    snapshot = [np.array(weight) for weight in ours.get_weights()]
    given = fit(ours, data.x, data.y, **more)
    assert given.greffon.computed == 0
    assert given.epoch == [2, 3]
    np.testing.assert_allclose(given.history["loss"], expected["loss"], rtol=1e-4)
    assert any((old != new).any() for old, new in zip(snapshot, ours.get_weights(), strict=True))
    np.testing.assert_allclose(
        ours.fit(data.x, data.y, **more | {"epochs": 3}).history["loss"],
        theirs.fit(data.x, data.y, **more | {"epochs": 3}).history["loss"],
        rtol=1e-3,
    )


def test_learning_goes_on_after_training_the_whole_model_for_an_epoch(data):
    """`model.fit` first, then greffon: the optimizer is built already, and keeps its order."""
    from greffon.training.fit import fit

    histories = []
    for second in (lambda model, **options: model.fit(**options), fit):
        model = compiled(small_network())
        keras.utils.set_random_seed(2)
        options = {"x": data.x, "y": data.y, "batch_size": 8, "verbose": 0, "shuffle": False}
        model.fit(**options)
        histories.append(second(model, **options).history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)
