"""Files whose writers called the layers otherwise."""

import h5py
import numpy as np
import pytest

from greffon.errors import WeightFileError
from greffon.weights.match import match
from greffon.weights.read import read
from greffon.weights.structure import (
    blocks_from_kernels,
    blocks_of,
    find_renaming,
    modern_name,
    network_shapes,
    shapes_of,
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("conv1", "conv1_conv"),
        ("bn_conv1", "conv1_bn"),
        ("fc1000", "predictions"),
        ("res2a_branch1", "conv2_block1_0_conv"),
        ("res2a_branch2a", "conv2_block1_1_conv"),
        ("bn3d_branch2b", "conv3_block4_2_bn"),
        ("res5c_branch2c", "conv5_block3_3_conv"),
        ("res4b22_branch2a", "conv4_block23_1_conv"),  # ResNet-101 as converted from Caffe
        ("bn4a_branch1", "conv4_block1_0_bn"),
        ("block1_conv1", "block1_conv1"),
        ("conv2_block1_1_conv", "conv2_block1_1_conv"),
    ],
)
def test_names_of_older_keras(old, new):
    assert modern_name(old) == new


def _old_name(layer):
    if layer == "conv1_conv":
        return "conv1"
    if layer == "conv1_bn":
        return "bn_conv1"
    if layer == "predictions":
        return "fc1000"
    stage, block, branch, kind = layer.split("_")
    letter = "abcdef"[int(block.removeprefix("block")) - 1]
    branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[branch]
    return f"{'res' if kind == 'conv' else 'bn'}{stage.removeprefix('conv')}{letter}_branch{branch}"


def _write(path, arrays, names):
    """A legacy file in the manner of tf.keras 1.13, its layers called and ordered as `names` (new -> old) says."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([old.encode() for old in names.values()])
        for new, old in names.items():
            group = file.create_group(old)
            inside = [name.rpartition("/")[2] for name in arrays if name.rpartition("/")[0] == new]
            group.attrs["weight_names"] = np.array([f"{old}/{weight}:0".encode() for weight in inside])
            for weight in inside:
                group[f"{old}/{weight}:0"] = arrays[f"{new}/{weight}"]
    return path


def _layers(arrays):
    return list(dict.fromkeys(name.rpartition("/")[0] for name in arrays))


def _assert_restores(path, model, arrays, arrays_of, note):
    found = match(read(path), model)
    found.assign()
    assert any(note in text for text in found.notes)
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


@pytest.mark.parametrize("include_top", [False, True])
def test_a_file_with_the_old_names(tmp_path, build, randomise, arrays_of, include_top):
    arrays = arrays_of(randomise(build(blocks=(2, 1), include_top=include_top, classes=4), seed=3))
    path = _write(tmp_path / "old.h5", arrays, {layer: _old_name(layer) for layer in _layers(arrays)})
    model = build(blocks=(2, 1), include_top=include_top, classes=4)
    _assert_restores(path, model, arrays, arrays_of, "older Keras versions")


def _created(shortcut_last):
    """Order in which Keras creates the layers: a block's shortcut first, or last as it did once."""

    def key(layer):
        if layer.startswith("conv1_"):
            return (1,)
        stage, block, branch, _ = layer.split("_")
        branch = 9 if branch == "0" and shortcut_last else int(branch)
        return (int(stage.removeprefix("conv")), int(block.removeprefix("block")), branch)

    return key


def _numbered(layers):
    """Auto names of tf.keras, numbered over all layers of a class."""
    counts, names = {}, {}
    for layer in layers:
        kind = "conv2d" if layer.endswith("conv") else "batch_normalization"
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        names[layer] = f"{kind}_{number}" if number else kind
    return names


@pytest.mark.parametrize("shortcut_last", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_layers_that_were_only_numbered(tmp_path, build, randomise, arrays_of, shortcut_last, shuffled):
    arrays = arrays_of(randomise(build(blocks=(2, 2)), seed=4))
    names = _numbered(sorted(_layers(arrays), key=_created(shortcut_last)))
    if shuffled:  # the numbers count, not the order in the file
        names = dict(sorted(names.items(), key=lambda item: item[1]))
    path = _write(tmp_path / "numbered.h5", arrays, names)
    _assert_restores(path, build(blocks=(2, 2)), arrays, arrays_of, "matched by their order")


def test_layers_with_names_of_ones_own_go_by_the_order_in_the_file(tmp_path, build, randomise, arrays_of):
    arrays = arrays_of(randomise(build(blocks=(1, 1)), seed=5))
    path = _write(tmp_path / "own.h5", arrays, {layer: f"my_{layer}_x" for layer in _layers(arrays)})
    _assert_restores(path, build(blocks=(1, 1)), arrays, arrays_of, "matched by their order")


def test_a_numbered_file_at_full_depth(arrays_of, build):
    """Every order that a writer may have used gives its own assignment, and only one of them fits the shapes."""
    layers = shapes_of(arrays_of(build(blocks=(3, 4, 6, 3))))
    for shortcut_last in (False, True):
        names = _numbered(sorted(layers, key=_created(shortcut_last)))
        renaming = find_renaming({old: layers[new] for new, old in names.items()}, layers)
        assert renaming.layers == {old: new for new, old in names.items()}


def test_an_order_that_cannot_be_told_is_refused(arrays_of, build):
    """In one lone stage the shortcut and the last convolution have the same shapes."""
    layers = shapes_of(arrays_of(build("v1", blocks=(1,))))
    names = _numbered(sorted(layers, key=_created(shortcut_last=True)))
    file = {old: layers[new] for new, old in names.items()}
    with pytest.raises(WeightFileError, match="more than one order fits"):
        find_renaming(file, layers)


def test_numbered_layers_of_another_network_are_not_taken(arrays_of, build):
    thin, wide = (shapes_of(arrays_of(build(variant, blocks=(1, 1)))) for variant in ("thin", "v1"))
    names = _numbered(sorted(wide, key=_created(shortcut_last=False)))
    assert find_renaming({old: wide[new] for new, old in names.items()}, thin) is None
    assert find_renaming({old: wide[new] for new, old in list(names.items())[:-2]}, wide) is None


def test_a_head_beside_a_numbered_backbone(tmp_path, trained, tutorial, build, arrays_of):
    path = tmp_path / "tutorial.weights.h5"
    tutorial.save_weights(path)
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, it: it.attrs.pop("name", None) and None)
    model = build()
    found = match(read(path), model)
    found.assign()
    assert found.left_out == ["dense", "dense_1"]
    expected = arrays_of(trained)
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize(("variant", "blocks"), [("v1.5", (3, 4, 6, 3)), ("thin", (1, 2))])
def test_the_shapes_of_a_network_without_keras(arrays_of, build, variant, blocks):
    """Names, shapes and the order are those of the graph."""
    expected = {}
    for layer, weights in shapes_of(arrays_of(build(variant, blocks=blocks))).items():
        expected[layer] = {weight: shape for weight, shape in weights.items() if weight != "bias"}
    width = 32 if variant == "thin" else 64
    shapes = network_shapes(blocks, width)
    assert shapes == expected
    assert [it for it in shapes if it.endswith("_conv")] == [it for it in expected if it.endswith("_conv")]
    assert [it for it in shapes if it.endswith("_bn")] == [it for it in expected if it.endswith("_bn")]
    assert blocks_of(shapes) == blocks
    kernels = [weights["kernel"] for weights in shapes.values() if "kernel" in weights]
    assert blocks_from_kernels(reversed(kernels)) == (blocks, width)


def test_kernels_that_are_no_resnets():
    kernels = [weights["kernel"] for weights in network_shapes((2, 1), 64).values() if "kernel" in weights]
    assert blocks_from_kernels(kernels) == ((2, 1), 64)
    for other in ([], kernels[1:], kernels[:-1], [*kernels, (5, 5, 3, 3)], [*kernels, (3, 3, 64, 32)], [(3, 3, 3, 3)]):
        assert blocks_from_kernels(other) is None
