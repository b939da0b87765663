"""Features of all blocks: which they are, which are kept, and that a plain Keras model and the trunk give the same."""

import keras
import numpy as np
import pytest
from keras import layers

import greffon
from greffon.backbone.blocks import channels_of, kept_channels, pool_blocks
from greffon.backbone.freeze import freeze
from greffon.backbone.graft import ungraft
from greffon.backbone.parts import split_parts
from greffon.backbone.resnet import resnet
from greffon.errors import InputError
from greffon.frozen.build import build_engine
from greffon.frozen.cut import find_cut
from greffon.frozen.graph import flatten

SIDE = 64
KEPT = (0, 5, 127, 172, 173, 772, 1872, 2372)
# Through the blocks, of 128, 256, 512, 1024 and 1024 channels.
BY_BLOCK = {
    "conv2_block1": [0, 5, 127],
    "conv3_block1": [44, 45],
    "conv4_block1": [388],
    "conv5_block1": [976],
    "conv5_block2": [452],
}


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    return resnet((1, 1, 1, 2), "thin", input_shape=(SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def model(backbone):
    return greffon.graft(backbone, 4, greffon.Head(pool="blocks", channels=KEPT), preprocessing="caffe")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype("float32")


def _run(model, pictures):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(pictures, training=False))


def test_all_blocks_are_averaged_one_after_the_other(backbone, pictures):
    outs = [layer.output for layer in backbone.layers if layer.name.endswith("_out")]
    maps = _run(keras.Model(backbone.input, outs), pictures)
    got = _run(keras.Model(backbone.input, pool_blocks(backbone.output)), pictures)
    expected = np.concatenate([np.asarray(it).mean(axis=(1, 2)) for it in maps], axis=1)
    assert got.shape == (3, 128 + 256 + 512 + 1024 + 1024)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    kept = _run(keras.Model(backbone.input, pool_blocks(backbone.output, KEPT)), pictures)
    np.testing.assert_allclose(kept, expected[:, KEPT], rtol=1e-4, atol=1e-5)


def test_the_model_says_what_it_keeps_and_opens_without_greffon(model, pictures, tmp_path):
    assert kept_channels(model) == BY_BLOCK
    parts = split_parts(model)
    assert parts.backbone[-1].name == "conv5_block2_out"
    assert [layer.name for layer in parts.head] == [
        *(f"head_pool_{it}" for it in BY_BLOCK),
        "head_blocks",
        "head_output",
    ]
    model.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert kept_channels(plain) == BY_BLOCK
    np.testing.assert_array_equal(_run(plain, pictures), _run(model, pictures))
    assert '"module": "greffon' not in plain.to_json()


def test_names_do_not_tell_how_many_models_were_made_before(backbone, model):
    again = greffon.graft(
        backbone, 4, greffon.Head(pool="blocks", channels=KEPT), preprocessing="caffe", name=model.name
    )
    assert again.to_json() == model.to_json()


def test_the_engine_gives_what_keras_gives(model, pictures):
    engine = build_engine(flatten(model))
    assert engine.name == "onnx"
    np.testing.assert_allclose(engine.run([pictures])[0], _run(model, pictures), atol=1e-5)


def test_what_is_frozen_is_cut_at_the_kept_channels(model):
    freeze(model, "none")
    assert find_cut(model).shapes == [(len(KEPT),)]
    freeze(model, "conv5_block2")
    shapes = find_cut(model).shapes
    assert (2, 2, 1024) in shapes
    assert sorted(shape for shape in shapes if len(shape) == 1) == [(1,), (1,), (2,), (3,)]


def test_of_a_grid_every_cell_has_its_own_channels(backbone, pictures):
    outs = [layer.output for layer in backbone.layers if layer.name.endswith("_out")]
    maps = [np.asarray(it) for it in _run(keras.Model(backbone.input, outs), pictures)]
    cells = [it.reshape(3, 2, it.shape[1] // 2, 2, it.shape[2] // 2, -1).mean((2, 4)).reshape(3, -1) for it in maps]
    expected, kept = np.concatenate(cells, axis=1), (0, 511, 512, 11775)
    model = greffon.graft(backbone, 4, greffon.Head(pool="blocks2", channels=kept), preprocessing="none")
    got = _run(keras.Model(model.input, model.get_layer("head_output").input), pictures)
    np.testing.assert_allclose(got, expected[:, kept], rtol=1e-4, atol=1e-5)
    assert kept_channels(model) == {"conv2_block1": [0, 511], "conv3_block1": [0], "conv5_block2": [4095]}
    head = [layer.name for layer in split_parts(model).head]
    assert head[0] == "head_pool_conv2_block1"
    assert head[-2:] == ["head_blocks", "head_output"]
    np.testing.assert_allclose(build_engine(flatten(model)).run([pictures])[0], _run(model, pictures), atol=1e-5)


def test_a_map_without_so_many_cells_is_refused():
    small = resnet((1, 1, 1, 1), "thin", input_shape=(32, 32, 3))
    with pytest.raises(InputError, match="at least 2 x 2, got 1 x 1"):
        greffon.graft(small, 4, greffon.Head(pool="blocks2"))


def test_one_block_alone_is_not_joined_and_all_of_it_not_taken_apart(backbone):
    model = greffon.graft(backbone, 4, greffon.Head(pool="blocks", channels=tuple(range(128, 384))))
    assert kept_channels(model) == {"conv3_block1": None}
    assert [layer.name for layer in split_parts(model).head] == ["head_pool_conv3_block1", "head_output"]


def test_the_backbone_comes_off_again(backbone, model):
    taken = ungraft(model)
    assert sum(array.size for array in taken.values()) == backbone.count_params()


def test_what_a_head_keeps_can_be_said_again(backbone, model):
    assert channels_of(model) == KEPT
    of_cells = (0, 3, 130, 4 * 128 + 7, 4 * (128 + 256 + 512 + 1024) + 5)
    grid = greffon.graft(backbone, 4, greffon.Head(pool="blocks2", channels=of_cells), preprocessing="caffe")
    assert channels_of(grid) == of_cells
    assert channels_of(greffon.graft(backbone, 4, greffon.Head(pool="blocks2"), preprocessing="caffe")) is None
    assert channels_of(greffon.graft(backbone, 4, greffon.Head(pool="grid2"), preprocessing="caffe")) is None


def test_heads_that_pool_otherwise_keep_no_channels(backbone):
    assert kept_channels(greffon.graft(backbone, 4, greffon.Head())) == {}


@pytest.mark.parametrize("channels", [(), (3, 2), (1, 1), (0, 2944)])
def test_channels_that_are_not_there_are_refused(backbone, channels):
    with pytest.raises(InputError, match="ascending numbers below 2944, at least one"):
        pool_blocks(backbone.output, channels)


def test_a_backbone_without_blocks_is_refused():
    inputs = keras.Input((8, 8, 3))
    plain = keras.Model(inputs, layers.Conv2D(2, 3, name="some_conv")(inputs))
    with pytest.raises(InputError, match="layers are named by block"):
        greffon.graft(plain, 4, greffon.Head(pool="blocks"), preprocessing="none")


@pytest.mark.parametrize("channels", [(-1,), ("a",)])
def test_a_head_takes_numbers_only(channels):
    with pytest.raises(InputError, match="channels"):
        greffon.Head(pool="blocks", channels=channels)


def test_the_freeze_table_has_one_line_for_all_pooled_blocks(backbone):
    grid = greffon.graft(backbone, 4, greffon.Head(pool="blocks2"), preprocessing="caffe")
    table = freeze(grid, "conv5_block2")
    lines = str(table).splitlines()
    [folded] = [line for line in lines if "pool" in line and "head" in line]
    assert "5 pooled blocks (AveragePooling2D, Flatten)" in folded
    assert folded.split()[-2:] == ["head", "0"]
    assert not any("head_flatten" in line for line in lines)
    assert sum("head_blocks" in line for line in lines) == 1
    assert "5 pooled blocks" in str(table.compact())
    names = ("head_pool_", "head_flatten_")
    assert sum(line.lstrip().startswith(names) for line in str(table.full()).splitlines()) == 10
    assert sum(row.name.startswith(names) for row in table.rows) == 10
    assert len(table.to_dict()["layers"]) == len(grid.layers)
    alone = greffon.graft(backbone, 4, greffon.Head(pool="grid2"), preprocessing="caffe")
    assert "head_flatten (Flatten)" in str(freeze(alone, "none"))
