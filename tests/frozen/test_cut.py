"""Where the trunk ends, for every kind of model; and that looking for it leaves the model as it was."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.frozen.cut import find_cut  # noqa: E402
from greffon.frozen.graph import flat_inputs, flatten  # noqa: E402


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def names(graph):
    return [node.path for node in graph.nodes]


def assert_parts_make_the_whole(model, x, *, training=False):
    """Trunk in inference mode, then tail: the model's own numbers."""
    cut = find_cut(model)
    inputs = [keras.ops.convert_to_tensor(array) for array in flat_inputs(model, x)]
    given = cut.tail.run(cut.trunk.run(inputs, training=False), training=training)
    for ours, theirs in zip(given, keras.tree.flatten(model(x, training=training)), strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs), rtol=1e-5, atol=1e-5
        )
    return cut


def frozen(layer):
    layer.trainable = False
    return layer


def conv(name, **options):
    return layers.Conv2D(4, 3, padding="same", name=name, **options)


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(3)
    return resnet(blocks=(1, 1, 1, 1), input_shape=(32, 32, 3))


def nested_classifier(backbone, *, unfreeze=0):
    backbone.trainable = True
    for layer in backbone.layers:
        layer.trainable = False
    for layer in backbone.layers[len(backbone.layers) - unfreeze :]:
        layer.trainable = True
    head = [layers.Flatten(name="flatten"), layers.Dense(8, name="hidden"), layers.Dropout(0.5), layers.Dense(2)]
    return keras.Sequential([backbone, *head])


def test_frozen_backbone_and_what_has_no_weights_behind_it_is_the_trunk(backbone):
    cut = assert_parts_make_the_whole(nested_classifier(backbone), numbers(2, 32, 32, 3))
    assert cut.where == "flatten"
    assert cut.shapes == [(2048,)]
    assert names(cut.tail)[0] == "hidden"
    assert cut.trunk_weights == backbone.count_params()
    assert [stop.node.path for stop in cut.stops] == ["hidden"]
    assert cut.spoiler() is None
    assert cut.gains


def test_cut_through_the_middle_of_a_block_has_several_tensors(backbone):
    """From the block's second convolution on: the shortcut and the first convolution's output pass."""
    model = nested_classifier(backbone)
    for name in ("conv5_block1_2_conv", "conv5_block1_3_conv"):
        backbone.get_layer(name).trainable = True
    cut = assert_parts_make_the_whole(model, numbers(2, 32, 32, 3))
    assert len(cut.shapes) == 2
    assert {where.split("/")[1] for where in cut.where.split(", ")} == {"conv5_block1_1_relu", "conv5_block1_0_bn"}


def test_unfrozen_normalisation_of_the_last_layers_ends_the_trunk(backbone):
    cut = assert_parts_make_the_whole(nested_classifier(backbone, unfreeze=10), numbers(4, 32, 32, 3))
    assert "conv5_block1" in cut.where
    assert all(not layer.trainable or not layer.weights for layer in cut.trunk.layers)


def test_nested_two_levels():
    inner = keras.Sequential([keras.Input((8, 8, 3)), frozen(conv("deep")), layers.ReLU(name="relu")], name="inner")
    middle = keras.Sequential([keras.Input((8, 8, 3)), inner, conv("mid")], name="middle")
    model = keras.Sequential([keras.Input((8, 8, 3)), middle, layers.Flatten(), layers.Dense(2)])
    cut = assert_parts_make_the_whole(model, numbers(2, 8, 8, 3))
    assert cut.where == "middle/inner/relu"
    assert names(cut.tail)[0] == "middle/mid"


def test_siamese_model_puts_both_calls_of_its_frozen_base_into_the_trunk():
    base = frozen(keras.Sequential([keras.Input((8, 8, 3)), conv("shared"), layers.GlobalAveragePooling2D()]))
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    model = keras.Model([a, b], layers.Dense(1)(layers.Subtract(name="difference")([base(a), base(b)])))
    cut = assert_parts_make_the_whole(model, [numbers(2, 8, 8, 3), numbers(2, 8, 8, 3, seed=1)])
    assert cut.where == "difference"
    assert len(cut.trunk.inputs) == 2
    assert cut.trunk_weights == base.count_params()  # shared, counted once


def test_layer_that_trains_is_no_trunk_in_either_of_its_calls():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    first = shared(inputs)
    model = keras.Model(inputs, shared(frozen(layers.Dense(4, name="between"))(first)))
    cut = find_cut(model)
    assert names(cut.trunk) == []
    assert not cut.gains


def test_several_inputs_and_outputs_and_dictionaries():
    picture, meta = keras.Input((8, 8, 3), name="picture"), keras.Input((3,), name="meta")
    features = layers.Flatten(name="features")(frozen(conv("conv"))(picture))
    both = layers.Concatenate(name="both")([features, layers.Dense(4, name="side")(meta)])
    model = keras.Model(
        {"picture": picture, "meta": meta}, {"label": layers.Dense(2, name="label")(both), "features": features}
    )
    cut = assert_parts_make_the_whole(model, {"picture": numbers(2, 8, 8, 3), "meta": numbers(2, 3)})
    assert cut.where == "the pictures, features"  # the second input goes through as it is
    assert cut.shapes == [(3,), (256,)]


@pytest.mark.parametrize(
    ("make", "why", "remedy"),
    [
        (lambda: layers.Dropout(0.3, name="x"), "draws at random", "rate at 0"),
        (lambda: layers.RandomFlip(name="x"), "draws at random", "augmentation out of the model"),
        (lambda: layers.GaussianNoise(0.1, name="x"), "draws at random", "train it with model.fit"),
        (lambda: conv("x", activity_regularizer="l2"), "activity regularizer", "remove the regularizer"),
        (
            lambda: layers.BatchNormalization(scale=False, center=False, name="x"),
            "statistics of each",
            "trainable to Fal",
        ),
    ],
)
def test_frozen_layer_that_ends_the_trunk_is_named_with_what_to_do(make, why, remedy):
    obstacle = make()
    chain = [keras.Input((8, 8, 3)), frozen(conv("a")), obstacle, frozen(conv("b")), frozen(conv("c"))]
    model = keras.Sequential([*chain, layers.Flatten(), layers.Dense(2)])
    if "statistics" not in why:
        obstacle.trainable = False
    cut = find_cut(model)
    assert names(cut.trunk) == ["a"]
    assert cut.lost_weights == 2 * model.get_layer("b").count_params()
    spoiler = cut.spoiler()
    assert spoiler.startswith(f"x ({type(obstacle).__name__})")
    assert why in spoiler
    assert remedy in spoiler


def test_normalisation_that_trains_ends_the_trunk_and_is_no_obstacle():
    model = keras.Sequential(
        [keras.Input((4,)), frozen(layers.Dense(4, name="a")), layers.BatchNormalization(name="n")]
    )
    cut = find_cut(model)
    assert names(cut.trunk) == ["a"]
    assert [(stop.node.path, stop.trains) for stop in cut.stops] == [("n", True)]


def test_frozen_statistics_with_trainable_gamma_end_the_trunk_there():
    norm = layers.BatchNormalization(name="norm")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            frozen(layers.Dense(4, name="a")),
            norm,
            layers.ReLU(name="relu"),
            layers.Dense(2, name="b"),
        ]
    )
    norm.trainable = False
    assert find_cut(model).where == "relu"
    norm.gamma.trainable = norm.beta.trainable = True
    assert find_cut(model).where == "a"


def test_unfrozen_normalisation_inside_a_frozen_base_uses_batch_statistics():
    """Keras asks the layer's own flag: freezing the container afterwards is what freezes it."""
    base = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a"), layers.BatchNormalization(name="n")])
    model = keras.Sequential([keras.Input((4,)), base, layers.Dense(2)])
    base.trainable = False
    assert find_cut(model).where == f"{base.name}/n"
    base.get_layer("n").trainable = True
    assert find_cut(model).where == f"{base.name}/a"


def test_spoiler_is_silent_where_most_is_in_the_trunk():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), frozen(conv("a")), frozen(conv("b")), frozen(layers.Dropout(0.3)), frozen(conv("c"))]
    )
    cut = find_cut(model)
    assert cut.lost_weights
    assert cut.spoiler() is None


class Counts(layers.Layer):
    def build(self, _):
        self.seen = self.add_weight(shape=(), trainable=False)

    def call(self, x):
        self.seen.assign_add(1.0)
        return x


class Centres(layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Residual(keras.Model):
    """Subclassed: opaque, and the same for every picture."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.norm = layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization()

    def call(self, x, training=None):
        return x + self.norm(self.conv(x), training=training)


@pytest.mark.parametrize(("kind", "ends"), [(Counts, True), (Centres, True), (Residual, False)])
def test_custom_layers_are_tried_out(kind, ends):
    inputs = keras.Input((8, 8, 3))
    x = frozen(layers.Conv2D(3, 3, padding="same", name="a"))(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="b")(layers.Flatten(name="f")(frozen(kind(name="own"))(x))))
    cut = assert_parts_make_the_whole(model, numbers(2, 8, 8, 3))
    assert cut.where == ("a" if ends else "f")


def test_opaque_model_with_something_to_train_is_the_tail():
    inputs = keras.Input((8, 8, 3))
    own = Residual(name="own")
    model = keras.Model(inputs, layers.Flatten()(own(frozen(layers.Conv2D(3, 3, padding="same", name="a"))(inputs))))
    own.norm.trainable = False
    assert find_cut(model).where == "a"


def test_only_parameter_free_layers_in_front_gain_nothing():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2)])
    cut = find_cut(model)
    assert cut.trunk_weights == 0
    assert not cut.gains


def test_trunk_with_next_to_no_work_gains_nothing(backbone):
    """All convolutions frozen, every normalisation trains: the trunk is the first convolution."""
    model = nested_classifier(backbone)
    for layer in backbone.layers:
        layer.trainable = isinstance(layer, layers.BatchNormalization)
    cut = find_cut(model)
    assert "conv1_conv" in cut.where
    assert 0 < cut.trunk_share < 0.5
    stem = keras.Sequential([keras.Input((8, 8, 3)), frozen(layers.Conv2D(1, 1)), layers.Conv2D(64, 3)])
    assert not find_cut(stem).gains


def test_model_for_pictures_of_any_size_gains_by_its_kernels():
    base = keras.Sequential([keras.Input((None, None, 3)), conv("a"), conv("b"), layers.GlobalAveragePooling2D()])
    model = keras.Sequential([keras.Input((None, None, 3)), frozen(base), layers.Dense(2)])
    cut = find_cut(model)
    assert cut.shapes == [(4,)]
    assert cut.gains


def test_nothing_trains():
    model = keras.Sequential([keras.Input((4,)), frozen(layers.Dense(3)), frozen(layers.Dense(2, name="last"))])
    cut = assert_parts_make_the_whole(model, numbers(2, 4))
    assert cut.where == "last"
    assert cut.tail.nodes == ()


def test_efficientnet_drop_connect_is_named_in_one_line():
    base = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    model = keras.Sequential([frozen(base), layers.Dense(2)])
    spoiler = find_cut(model).spoiler()
    assert "block2b_drop (Dropout) draws at random" in spoiler
    assert "rate at 0" in spoiler
    assert "\n" not in spoiler


def test_augmentation_in_front_of_a_frozen_base_is_named_and_leaves_nothing_to_gain(backbone):
    augment = keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip(name="flip")], name="augment")
    model = keras.Sequential([augment, frozen(backbone), layers.Dense(2)])
    cut = find_cut(model)
    assert not cut.gains
    assert "augment/flip (RandomFlip)" in cut.spoiler()


def test_finding_a_cut_leaves_the_model_untouched(backbone):
    model = nested_classifier(backbone, unfreeze=10)
    extra = keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip(), Counts(), frozen(model)])
    state = [keras.ops.convert_to_numpy(variable) for variable in extra.variables]
    config, variables = extra.to_json(), [id(variable) for variable in extra.variables]
    layer = backbone.get_layer("conv5_block1_1_conv")
    output, calls = layer.output, len(layer._inbound_nodes)
    find_cut(model)
    find_cut(extra)
    flatten(extra)
    assert extra.to_json() == config
    assert [id(variable) for variable in extra.variables] == variables
    for old, variable in zip(state, extra.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    assert layer.output is output
    assert len(layer._inbound_nodes) == calls
    assert backbone.get_layer("conv5_block1_out").output.shape == (None, 1, 1, 2048)
