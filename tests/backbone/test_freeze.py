"""Freezing: which layers train, what Keras then does in `fit`, and what is left of it after saving."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import greffon
from greffon.backbone.freeze import (
    FreezeRules,
    compiled_state_changed,
    reapply,
    set_trainable_state,
    trainable_state,
)
from greffon.backbone.graft import split_parts
from greffon.backbone.parts import block_of, group_of
from greffon.backbone.resnet import resnet
from greffon.errors import FreezeError, InputError

SIDE = 32
HEAD = {"head_output/kernel", "head_output/bias"}


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def full():
    """A grafted ResNet-50 of full size; freezing changes nothing but flags, which every test sets anew."""
    return greffon.graft(resnet(input_shape=(64, 64, 3)), 10, preprocessing="caffe")


@pytest.fixture(scope="module")
def bare():
    return resnet((1, 1, 1, 1), "thin", input_shape=(SIDE, SIDE, 3))


@pytest.fixture
def small(bare):
    return greffon.graft(bare, 3, preprocessing="caffe")


@pytest.fixture
def nested(bare):
    """The tutorial's own model: a Sequential with the backbone nested in it."""
    base = keras.models.clone_model(bare)
    return keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), base, layers.Flatten(), layers.Dense(3, activation="softmax", name="last")]
    )


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    return random.uniform(0, 255, (12, SIDE, SIDE, 3)).astype("float32"), np.eye(3, dtype="float32")[np.arange(12) % 3]


def trained(model):
    return {variable.path for variable in model.trainable_variables}


def trained_layers(table):
    return [row.name for row in table.rows if row.part == "backbone" and row.trainable]


def fit(model, data, optimizer=None, **options):
    model.compile(optimizer or keras.optimizers.Adam(1e-3), "categorical_crossentropy")
    return model.fit(*data, **({"epochs": 2, "batch_size": 4, "verbose": 0} | options))


def snapshot(model):
    return {variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in model.weights}


def moved(model, before):
    now = snapshot(model)
    return {path for path in now if not np.array_equal(now[path], before[path])}


# --- rules -----------------------------------------------------------------------------------------------------


def test_the_last_ten_layers_are_conv5_block3(full):
    table = greffon.freeze(full, 10)
    unfrozen = [row.name for row in table.rows if row.part == "backbone"][-10:]
    assert {name.rsplit("_", 1)[0].split("_")[1] for name in unfrozen} == {"block3"}
    assert len(unfrozen) == 10
    assert sum(row.trainable for row in table.rows if row.part == "backbone") == 4_465_664
    assert sum(row.learnable for row in table.rows if row.part == "backbone") == 23_534_592
    assert trained_layers(table) == trained_layers(greffon.freeze(full, "conv5_block3"))
    assert "conv5_block3 (10 layers: 3 conv, 3 BN with stored statistics), 4,465,664 of 23,534,592" in table.describe()


@pytest.mark.parametrize("pooling", [None, "avg"])
def test_last_n_does_not_count_pooling(pooling):
    model = resnet((1, 1, 1, 1), "thin", input_shape=(SIDE, SIDE, 3), pooling=pooling)
    assert trained_layers(greffon.freeze(model, 4)) == ["conv5_block1_0_bn", "conv5_block1_3_bn"]


def names_of(full, predicate):
    backbone = split_parts(full).backbone
    return [layer.name for layer in backbone if layer.weights and predicate(layer.name)]


@pytest.mark.parametrize(
    ("rules", "predicate"),
    [
        ("none", lambda name: False),
        (0, lambda name: False),
        ("0", lambda name: False),
        ("all", lambda name: True),
        ("ALL", lambda name: True),
        (175, lambda name: True),
        ("10", lambda name: name.startswith("conv5_block3")),
        ("conv5_block3", lambda name: name.startswith("conv5_block3_")),
        ("conv5", lambda name: name.startswith("conv5_")),
        ("conv2", lambda name: name.startswith("conv2_")),
        ("conv1", lambda name: name.startswith("conv1_")),
        ("stem", lambda name: name.startswith("conv1_")),
        ("conv4_block6_2", lambda name: name.startswith("conv4_block6_2_")),
        ("conv3_block1_0_conv", lambda name: name == "conv3_block1_0_conv"),
        ("conv5_*_bn", lambda name: name.startswith("conv5_") and name.endswith("_bn")),
        ("re:conv[45]_block1_.*conv", lambda name: name[4] in "45" and "block1_" in name and name.endswith("conv")),
        ("165:175", lambda name: name.startswith("conv5_block3_")),
        ("165:", lambda name: name.startswith("conv5_block3_")),
        ("-10:", lambda name: name.startswith("conv5_block3_")),
        (":7", lambda name: name.startswith("conv1_")),
        (("conv5", "!*_bn"), lambda name: name.startswith("conv5_") and name.endswith("conv")),
        (["all", "!conv1", "! conv2"], lambda name: name[4] not in "12"),
        (("!conv5", "conv5_block2"), lambda name: name.startswith("conv5_block2_")),
        (("all", "none", "conv5_block3"), lambda name: name.startswith("conv5_block3_")),
        (("all", "!10"), lambda name: not name.startswith("conv5_block3_")),
        (("conv5", "!all", "conv4_block6"), lambda name: name.startswith("conv4_block6_")),
        (("!*", "conv5_block3"), lambda name: name.startswith("conv5_block3_")),
        (("conv5_block3", "conv4_block6"), lambda name: name.startswith(("conv5_block3_", "conv4_block6_"))),
    ],
)
def test_rules_decide_for_every_layer(full, rules, predicate):
    table = greffon.freeze(full, rules)
    assert trained_layers(table) == names_of(full, predicate)
    assert trained(full) >= HEAD
    assert len(table.rows) == len(full.layers)


def test_an_index_names_the_same_layer_in_the_bare_backbone_and_in_the_grafted_model(full):
    bare = resnet(input_shape=(64, 64, 3))
    table = greffon.layers(full)
    indices = {row.name: row.index for row in table.rows if row.part == "backbone"}
    assert indices == {layer.name: number for number, layer in enumerate(bare.layers) if number}
    assert {row.name: row.index for row in greffon.layers(bare).rows} == {
        layer.name: number for number, layer in enumerate(bare.layers)
    }


def test_the_head_is_frozen_only_when_it_is_meant(small):
    with_norm = greffon.Head(
        layer=keras.Sequential([layers.BatchNormalization(name="my_bn"), layers.Dense(3, name="my_last")])
    )
    model = greffon.graft(features_of(small), 3, with_norm)
    greffon.freeze(model, ("all", "!*_bn"))
    assert {"my_bn/gamma", "my_last/kernel"} <= trained(model)
    assert not any("conv" in path and "bn" in path for path in trained(model))
    greffon.freeze(model, ("all", "!my_bn"))
    assert "my_bn/gamma" not in trained(model)
    greffon.freeze(model, ("conv5", "!head_*"))
    assert {path.split("_")[0] for path in trained(model)} == {"conv5"}
    greffon.freeze(model, ("conv5", "!head"))
    assert {path.split("_")[0] for path in trained(model)} == {"conv5"}


def features_of(model):
    return keras.Model(model.input, model.get_layer("conv5_block1_out").output)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("conv6", "'conv6' matches no layer.*nearest: conv5"),
        ("conv5_blok3", "nearest: conv5_block3"),
        ("conv5_block9_*", "nearest: .*conv5_block"),
        ("re:block3", "must match the whole name"),
        ("re:conv5(", "not a regular expression"),
        (("conv5", "!conv7"), "'!conv7' matches no layer"),
        (176, "176 asks for more layers than the backbone has .175"),
        (2, "only layers without parameters .conv5_block3_add, conv5_block3_out.*last 3 layers are the fewest"),
        ("*_relu", "only layers without parameters"),
        ("170:300", "within the backbone's indices, 0:175"),
        ("20:20", "empty range"),
        ("!head_*", "nothing is left to train.*freezes the head"),
        (-1, "at least 0, got -1"),
        (True, "Got True"),
        (None, "Got None"),
        (1.5, "Got 1.5"),
        ("", "Got ''"),
        ("!", "Got '!'"),
        ((), "at least one"),
        ("!none", "says nothing"),
        ("!!conv5", "takes one '!'"),
    ],
)
def test_rules_that_cannot_be_are_refused_and_change_nothing(full, rules, message):
    greffon.freeze(full, "conv4")
    before = trainable_state(full)
    with pytest.raises(FreezeError, match=message):
        greffon.freeze(full, rules)
    assert trainable_state(full) == before
    assert full.greffon_freeze == FreezeRules(("conv4",))


def test_an_unknown_batch_norm_policy_is_refused(small):
    with pytest.raises(FreezeError, match="'frozen' or 'train', got 'frozn'"):
        greffon.freeze(small, batch_norm="frozn")


def test_a_bare_backbone_can_be_frozen_in_part_and_not_as_a_whole(bare):
    model = keras.models.clone_model(bare)
    assert greffon.freeze(model, "conv5").trainable_count == sum(
        layer.count_params() - 2 * layer.moving_mean.shape[0]
        if isinstance(layer, layers.BatchNormalization)
        else layer.count_params()
        for layer in model.layers
        if layer.name.startswith("conv5")
    )
    with pytest.raises(FreezeError, match=r"no head with weights.*greffon\.graft.*backbone\.trainable = False"):
        greffon.freeze(model, "none")


def test_names_of_blocks_and_groups():
    assert [block_of(name) for name in ("conv5_block10_1_conv", "pool1_pool", "block_13_project", "block6a_bn")] == [
        "conv5_block10",
        "conv1",
        "block_13",
        "block6a",
    ]
    assert [group_of(name) for name in ("conv5_block10_1_conv", "conv1_pad", "block_13_project", "dense_1")] == [
        "conv5",
        "conv1",
        "block_13",
        "",
    ]


def test_a_block_is_not_the_beginning_of_another():
    model = greffon.graft(resnet((1, 1, 1, 10), "thin", input_shape=(SIDE, SIDE, 3)), 3, preprocessing="caffe")
    assert {block_of(name) for name in trained_layers(greffon.freeze(model, "conv5_block1"))} == {"conv5_block1"}


def test_mobilenet_and_its_blocks():
    base = keras.applications.MobileNetV2((SIDE, SIDE, 3), alpha=0.35, include_top=False, weights=None)
    model = greffon.graft(base, 3, preprocessing="tf")
    assert {block_of(name) for name in trained_layers(greffon.freeze(model, "block_16"))} == {"block_16"}


# --- flags, flat and nested ------------------------------------------------------------------------------------


def test_flags_of_a_flat_model_are_consistent(small):
    greffon.freeze(small, "conv5")
    for layer in split_parts(small).backbone:
        is_in = layer.name.startswith("conv5")
        if isinstance(layer, layers.BatchNormalization):
            flags = (layer.trainable, layer.gamma.trainable, layer.beta.trainable, layer.moving_mean.trainable)
            assert flags == (False, is_in, is_in, False)
        else:
            assert layer.trainable == is_in
            assert all(variable.trainable == is_in for variable in layer.weights)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_flags_of_a_nested_model_do_not_contradict_each_other(nested, batch_norm):
    base = nested.layers[0]
    base.trainable = False
    table = greffon.freeze(nested, "conv5_block1_3", batch_norm=batch_norm)
    inside = {variable.path for variable in base.trainable_variables}
    assert base.trainable
    assert inside == {path for path in trained(nested) if path.startswith("conv5_block1_3")}
    assert len(inside) == 4
    assert trained_layers(table) == [f"{base.name}/conv5_block1_3_{kind}" for kind in ("conv", "bn")]
    greffon.freeze(nested, "none")
    assert not base.trainable
    assert not any(variable.trainable for variable in base.weights)


def test_a_nested_backbone_is_also_named_by_its_path(nested):
    base = nested.layers[0]
    for rule in (base.name, f"{base.name}/*", "all"):
        greffon.freeze(nested, rule)
        assert {v.path for v in base.weights} - trained(nested) == {v.path for v in base.weights if "moving" in v.path}


def test_freezing_again_leaves_nothing_of_the_rules_before(small):
    greffon.freeze(small, "all")
    greffon.freeze(small, "conv5")
    greffon.freeze(small, "none")
    assert trained(small) == HEAD
    assert not any(v.trainable for layer in split_parts(small).backbone for v in layer.weights)
    greffon.freeze(small, "all", batch_norm="train")
    greffon.freeze(small, "all", batch_norm="frozen")
    assert not any(layer.trainable for layer in small.layers if isinstance(layer, layers.BatchNormalization))


class Inner(layers.Layer):
    """A layer of the user's own with a BatchNorm inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = layers.Conv2D(3, 1), layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm(self.conv(x), training=training)


def test_a_batch_norm_inside_a_layer_keeps_its_statistics_too(data):
    pictures = keras.Input((SIDE, SIDE, 3))
    x = Inner(name="inner")(layers.Conv2D(3, 1, name="first")(pictures))
    model = keras.Model(pictures, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    table = greffon.freeze(model, "inner")
    norm = model.get_layer("inner").norm
    before = snapshot(model)
    fit(model, (data[0] / 255, data[1]))
    assert norm.gamma.path in moved(model, before)
    assert not moved(model, before) & {norm.moving_mean.path, norm.moving_variance.path}
    assert [row.batch_norm for row in table.rows if row.name == "inner"] == ["stored"]


# --- what plain model.fit does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "nested"])
def test_plain_fit_keeps_statistics_bit_for_bit_and_moves_gamma(kind, data, request):
    model = request.getfixturevalue(kind)
    greffon.freeze(model, "conv5")
    before = snapshot(model)
    fit(model, data)
    assert moved(model, before) == trained(model)
    assert any(path.startswith("conv5") and path.endswith("gamma") for path in trained(model))
    assert not any("moving" in path for path in moved(model, before))


@pytest.mark.parametrize("kind", ["small", "nested"])
def test_batch_norm_train_moves_the_statistics_of_what_is_unfrozen(kind, data, request):
    model = request.getfixturevalue(kind)
    table = greffon.freeze(model, "conv5", batch_norm="train")
    before = snapshot(model)
    fit(model, data)
    statistics = {path for path in moved(model, before) if "moving" in path}
    assert statistics == {path for path in before if path.startswith("conv5") and "moving" in path}
    assert moved(model, before) - statistics == trained(model)
    assert {row.batch_norm for row in table.rows if row.group == "conv5"} == {"", "batch"}
    assert {row.batch_norm for row in table.rows if row.group == "conv4"} == {"", "stored"}


def test_training_and_inference_agree_with_stored_statistics(small, data):
    greffon.freeze(small, "all")
    features = features_of(small)
    training, inference = (
        keras.ops.convert_to_numpy(features(data[0], training=training)) for training in (True, False)
    )
    assert np.array_equal(training, inference)


# --- saving, loading, resuming ---------------------------------------------------------------------------------


def test_a_keras_file_forgets_gammas_flags_and_they_can_be_set_again(small, data, tmp_path):
    greffon.freeze(small, "conv5")
    state = json.loads(json.dumps(trainable_state(small)))
    expected = trained(small)
    small.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert trained(loaded) == {path for path in expected if not path.endswith(("gamma", "beta"))}  # what Keras does
    set_trainable_state(loaded, state)
    assert trained(loaded) == expected
    assert trainable_state(loaded) == state
    before = snapshot(loaded)
    fit(loaded, data)
    assert moved(loaded, before) == expected


def test_rules_are_reapplied(small, tmp_path):
    greffon.freeze(small, ("conv5", "!*_conv"))
    expected = trained(small)
    small.trainable = False
    small.trainable = True
    assert trained(small) != expected
    reapply(small)
    assert trained(small) == expected
    small.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(FreezeError, match="knows no freeze rules"):
        reapply(loaded)
    reapply(loaded, FreezeRules.of(("conv5", "!*_conv")))
    assert trained(loaded) == expected


def test_an_optimizer_loaded_before_the_flags_is_dropped_by_keras_and_found_stale(small, data, tmp_path):
    greffon.freeze(small, "conv5")
    state = trainable_state(small)
    fit(small, data, epochs=1)
    small.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):  # what Keras does
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    set_trainable_state(loaded, state)
    assert any("gamma" in name for name in compiled_state_changed(loaded))


def test_flags_of_another_model_are_refused(small, nested):
    with pytest.raises(FreezeError, match="another model"):
        set_trainable_state(small, trainable_state(nested))


def test_resuming_with_flags_and_optimizer_equals_going_on(small, data, tmp_path):
    """Save, load with compile=False, set the flags, compile, restore the optimizer: the next epoch is the same."""
    greffon.freeze(small, "conv5")
    fit(small, data, keras.optimizers.Adam(1e-3), epochs=2, shuffle=False)
    state, kept = trainable_state(small), {}
    small.optimizer.save_own_variables(kept)
    kept = {name: np.array(value) for name, value in kept.items()}
    small.save(tmp_path / "model.keras")
    small.fit(*data, epochs=1, batch_size=4, verbose=0, shuffle=False)
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    set_trainable_state(loaded, state)
    loaded.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy")
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.optimizer.load_own_variables(kept)
    loaded.fit(*data, epochs=1, batch_size=4, verbose=0, shuffle=False)
    assert not moved(loaded, snapshot(small))


# --- changed since compile -------------------------------------------------------------------------------------


def test_nothing_changed_since_compile(small, data):
    greffon.freeze(small, "conv5")
    assert compiled_state_changed(small) == []
    fit(small, data, epochs=1)
    assert compiled_state_changed(small) == []
    greffon.freeze(small, "conv5")
    assert compiled_state_changed(small) == []


@pytest.mark.parametrize("fitted", [False, True])
def test_a_layer_changed_since_compile(small, data, fitted):
    greffon.freeze(small, "none")
    small.compile("adam", "categorical_crossentropy")
    if fitted:
        fit(small, data, epochs=1)
    small.get_layer("conv5_block1_3_conv").trainable = True
    assert "conv5_block1_3_conv" in compiled_state_changed(small)
    small.get_layer("conv5_block1_3_conv").trainable = False
    assert compiled_state_changed(small) == []


@pytest.mark.parametrize("fitted", [False, True])
def test_gamma_alone_changed_since_compile(small, data, fitted):
    greffon.freeze(small, "none")
    small.compile("adam", "categorical_crossentropy")
    if fitted:
        fit(small, data, epochs=1)
    greffon.freeze(small, "conv5_block1_3_bn")
    assert "conv5_block1_3_bn/gamma" in compiled_state_changed(small)
    greffon.freeze(small, "none")
    assert compiled_state_changed(small) == []
    greffon.freeze(small, "conv5_block1_3_bn")
    small.compile("adam", "categorical_crossentropy")
    assert compiled_state_changed(small) == []


def test_a_model_that_is_not_compiled_has_not_changed(small):
    greffon.freeze(small, "conv5")
    assert compiled_state_changed(small) == []


def test_the_optimizer_inside_a_loss_scale_optimizer_counts(small, data):
    greffon.freeze(small, "none")
    fit(small, data, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), epochs=1)
    assert compiled_state_changed(small) == []
    small.get_layer("conv5_block1_3_bn").gamma.trainable = True
    assert compiled_state_changed(small) == ["conv5_block1_3_bn/gamma"]


# --- the table -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "nested"])
@pytest.mark.parametrize("rules", ["none", 10, "conv5_*_bn", "all"])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_totals_are_what_the_optimizer_holds(kind, rules, batch_norm, request):
    model = request.getfixturevalue(kind)
    table = greffon.freeze(model, rules, batch_norm=batch_norm)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    sizes = [int(np.prod(variable.shape)) for variable in optimizer.variables]
    assert len(sizes) == 2 + 2 * table.trainable_tensors  # iterations, learning rate; momentum and velocity of each
    assert sum(sizes) == 2 + 2 * table.trainable_count
    assert table.total_count == model.count_params()
    assert table.trainable_count + table.frozen_count == table.total_count
    assert sum(group["trainable"] for group in table.groups().values()) == table.trainable_count
    assert sum(group["layers"] for group in table.groups().values()) == len(table.rows)


def test_the_table_tells_what_is_asked(full):
    rows = {row.name: row for row in greffon.freeze(full, "conv5_block3").rows}
    conv, norm = rows["conv5_block3_2_conv"], rows["conv4_block6_1_bn"]
    assert (conv.index, conv.block, conv.group, conv.kind) == (168, "conv5_block3", "conv5", "Conv2D")
    assert (conv.shape, conv.parameters, conv.learnable, conv.trainable) == ((None, 2, 2, 512), *[2_359_808] * 3)
    assert (conv.trains, conv.batch_norm) == ("yes", "")
    assert (norm.parameters, norm.learnable, norm.trainable, norm.trains, norm.batch_norm) == (
        *(1024, 512, 0),
        *("no", "stored"),
    )
    assert rows["conv5_block3_add"].trains == ""
    assert (rows["pictures"].index, rows["head_output"].index) == (None, None)


def test_the_text_folds_what_is_frozen_and_shows_what_trains(full):
    table = greffon.freeze(full, "conv5_block3")
    text, lines = str(table), str(table).splitlines()
    assert "  93-102  10 layers: 3 conv, 3 BN" in text.replace(" 93-102", "  93-102")
    assert sum("conv5_block3_" in line and line.split()[0].isdigit() for line in lines) == 10
    assert len(lines) < 40
    assert len(str(table.full()).splitlines()) == len(full.layers) + 4
    assert len(str(table.compact()).splitlines()) == len(lines) - 9
    assert "4,486,154 parameters in 14 tensors train" in text
    assert text.isascii()
    assert repr(table) == text
    everything = greffon.freeze(full, "all")
    assert len(str(everything).splitlines()) < 30
    assert "the whole backbone, 23,534,592 of 23,534,592" in everything.describe()


def test_a_block_that_trains_in_part_is_never_folded(full):
    table = greffon.freeze(full, ("conv5_block3", "!*_1_conv")).compact()
    assert sum("conv5_block3_" in line for line in str(table).splitlines()[:-1]) == 10


def test_what_trains_in_one_line(full):
    def text(*rules, **options):
        return greffon.freeze(full, rules, **options).describe()

    assert text("none") == "trains: head (head_output: 20,490), 0 of 23,534,592 backbone parameters"
    assert "conv5 (32 layers: 10 conv, 10 BN with batch statistics)" in text("conv5", batch_norm="train")
    assert "10 layers of conv5 (10 BN with stored statistics)" in text("conv5_*_bn")
    assert "conv5_block2 (10 layers: 3 conv, 3 BN with stored statistics) + conv5_block1_0_conv" in text(
        "conv5_block1_0_conv", "conv5_block2"
    )


def test_the_table_in_a_terminal_and_in_a_notebook(full):
    from rich.console import Console

    table = greffon.freeze(full, "conv5_block3")
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
    assert "conv5_block3_2_conv " in capture.get()
    assert "4,486,154 parameters in 14 tensors train" in capture.get()
    narrow = Console(width=80)
    with narrow.capture() as capture:
        narrow.print(table.compact())
    blocks = [line for line in capture.get().splitlines() if " conv, " in line and "parameters" not in line]
    assert len([line for line in blocks if "stored" in line]) == 17  # the stem and 16 blocks, a line for each
    page = table._repr_html_()
    assert page.count("<tr") == len(str(table).splitlines()) - 3
    assert "conv5_block3_2_conv (Conv2D)" in page
    small = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a<b")])
    assert "a&lt;b" in greffon.layers(small)._repr_html_()


def test_the_table_as_json(full):
    table = greffon.freeze(full, ("conv5", "!*_bn"))
    read = json.loads(json.dumps(table.to_dict()))
    assert read["unfreeze"] == ["conv5", "!*_bn"]
    assert read["trainable_parameters"] == table.trainable_count
    assert len(read["layers"]) == len(full.layers)
    assert read["groups"]["conv5"]["trainable"] + 20_490 == table.trainable_count
    assert read["layers"][-1] | {"shape": None} == {
        "index": None,
        "name": "head_output",
        "part": "head",
        "block": "",
        "group": "",
        "kind": "Dense",
        "shape": None,
        "parameters": 20_490,
        "learnable": 20_490,
        "trainable": 20_490,
        "batch_norm": "",
        "trains": "yes",
    }


def test_what_changes_from_one_stage_to_the_next_is_one_line(full):
    head = greffon.freeze(full, "none")
    block = greffon.freeze(full, "conv5_block3")
    deeper = greffon.freeze(full, "conv5")
    batch = greffon.freeze(full, "conv5", batch_norm="train")
    assert block.changes(head) == "conv5_block3 trains too (4,465,664 parameters)"
    more = deeper.trainable_count - block.trainable_count
    assert deeper.changes(block) == f"conv5_block1, conv5_block2 train too ({more:,} parameters)"
    assert batch.changes(deeper) == "BatchNorm takes statistics of each batch"
    assert deeper.changes(batch) == "BatchNorm takes its stored statistics"
    frozen = deeper.trainable_count - head.trainable_count
    assert head.changes(deeper) == f"conv5 is frozen again ({frozen:,} parameters)"
    assert batch.changes(head) == f"conv5 trains too ({frozen:,} parameters); BatchNorm takes statistics of each batch"
    assert head.changes(head) == "trains what the stage before it did"
    assert greffon.freeze(full, "conv5_*_conv").changes(head).startswith("10 layers train too (")
    assert greffon.freeze(full, "conv5_block3_1_conv").changes(head).startswith("conv5_block3_1_conv trains too (")
    assert (head.groups_that_train(), deeper.groups_that_train()) == ([], ["conv5"])


def test_layers_shows_any_model_as_it_is(nested, bare):
    nested.layers[0].trainable = False
    nested.layers[0].layers[-5].trainable = True
    table = greffon.layers(nested)
    assert table.trainable_count == sum(int(np.prod(v.shape)) for v in nested.trainable_variables)
    assert table.unfreeze is None
    assert table.rows[1].name == f"{nested.layers[0].name}/{bare.layers[1].name}" == "resnet/conv1_pad"
    assert greffon.layers(bare).trainable_count + greffon.layers(bare).frozen_count == bare.count_params()


def test_layers_of_a_subclassed_model_counts_what_it_holds_itself():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2, name="dense")
            self.own = self.add_weight(shape=(3, 5), name="own")

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 4), "float32"))
    table = greffon.layers(model)
    assert table.total_count == table.trainable_count == model.count_params() == 4 * 2 + 2 + 15


def test_layers_of_a_file(small, tmp_path):
    greffon.freeze(small, "conv5", batch_norm="train")
    small.save(tmp_path / "model.keras")
    for path in (tmp_path / "model.keras", str(tmp_path / "model.keras"), tmp_path):
        assert greffon.layers(path).trainable_count == greffon.layers(small).trainable_count
    with pytest.raises(InputError, match=r"expected a \.keras file, a run's folder or a weight set"):
        greffon.layers(tmp_path / "none.keras")
    (tmp_path / "bad.keras").write_bytes(b"not a model")
    with pytest.raises(InputError, match="cannot be opened as a Keras model"):
        greffon.layers(tmp_path / "bad.keras")


def test_layers_of_a_run_are_as_its_last_stage_froze_them(small, tmp_path):
    expected = greffon.freeze(small, "conv5")
    small.save(tmp_path / "model.keras")
    stages = (greffon.Stage(), greffon.Stage(name="last", unfreeze="conv5"))
    (tmp_path / "recipe.yaml").write_text(greffon.Recipe(stages=stages).to_yaml(), encoding="utf-8")
    table = greffon.layers(tmp_path)
    assert (table.trainable_count, table.unfreeze) == (expected.trainable_count, ("conv5",))


def test_layers_of_a_weight_set():
    table = greffon.layers("thin")
    assert (len(table.rows), table.total_count) == (175, resnet(variant="thin").count_params())
