"""What old releases of Keras really wrote: the same features come out of Greffon's network as came out of theirs.

The files in `golden/` are theirs, each written by the script there that says how to install the release.
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from greffon.weights.match import match
from greffon.weights.read import read

GOLDEN = Path(__file__).parent / "golden"
CLOSE = 1e-4  # of the largest output


@pytest.fixture(scope="module")
def golden():
    """The module that the scripts share."""
    sys.path.insert(0, str(GOLDEN))
    try:
        import golden_network

        yield golden_network
    finally:
        sys.path.remove(str(GOLDEN))


@pytest.fixture(scope="module")
def network(golden):
    """Greffon's own v1 at the golden files' width, with the pooled features and the classes as outputs."""
    import keras

    from greffon.backbone import resnet

    traits = resnet._VARIANTS["v1"]
    resnet._VARIANTS["v1"] = replace(traits, width=golden.WIDTH)
    try:
        shape = (golden.SIDE, golden.SIDE, 3)
        model = resnet.resnet(golden.BLOCKS, "v1", include_top=True, input_shape=shape, classes=golden.CLASSES)
    finally:
        resnet._VARIANTS["v1"] = traits
    return keras.Model(model.inputs[0], [model.get_layer("avg_pool").output, model.output], name="small")


def _outputs(network, path, pictures):
    weights = read(path)
    for variable in network.variables:  # nothing of another file may remain
        variable.assign(np.zeros(variable.shape))
    match(weights, network).assign()
    pooled, classes = network(pictures)
    return weights, {"pooled": np.asarray(pooled), "classes": np.asarray(classes)}


def _assert_close(found, expected):
    for name, values in found.items():
        assert expected[name].std() > 0
        difference = np.abs(values - expected[name]).max() / np.abs(expected[name]).max()
        assert difference < CLOSE, name


@pytest.mark.parametrize(
    ("name", "outputs", "version"),
    [
        ("keras_1_theano_th_weights.h5", "keras_1_theano_th", "1"),
        ("keras_1_theano_th_whole.h5", "keras_1_theano_th", "1.2.2"),
        ("keras_1_theano_tf_weights.h5", "keras_1_theano_tf", "1"),
        ("keras_2_theano_weights.h5", "keras_2_theano", "2.2.4"),
        ("keras_2_theano_whole.h5", "keras_2_theano", "2.2.4"),
        ("tf_keras_weights.h5", "tf_keras", "2.21.0"),
        ("tf_keras_whole.h5", "tf_keras", "2.21.0"),
        ("tf_keras.weights.h5", "tf_keras", None),
        ("tf_keras.keras", "tf_keras", "2.21.0"),
    ],
)
def test_features_are_those_of_the_release_that_wrote_the_file(network, name, outputs, version):
    expected = np.load(GOLDEN / f"{outputs}.npz")
    weights, found = _outputs(network, GOLDEN / name, expected["pictures"])
    _assert_close(found, expected)
    assert weights.metadata.get("keras_version") == version
    theano = "theano" in name
    assert any("turned by 180 degrees" in note for note in weights.notes) == theano
    assert any("(out, in, height, width)" in note for note in weights.notes) == ("_th_" in name)


def test_kernels_that_are_not_turned_give_other_features(network, golden):
    """The same numbers taken as TensorFlow's: what the turn is for, and that the comparison would see it missing."""
    expected = np.load(GOLDEN / "keras_1_theano_th.npz")
    weights = read(GOLDEN / "keras_1_theano_th_weights.h5")
    kernel = weights.arrays["conv1/kernel"]
    np.testing.assert_array_equal(kernel[::-1, ::-1], golden.values("conv1_conv", "kernel", (7, 7, 3, 64)))
    weights.arrays["conv1/kernel"] = kernel[::-1, ::-1]
    match(weights, network).assign()
    pooled, _ = network(expected["pictures"])
    assert np.abs(np.asarray(pooled) - expected["pooled"]).max() > 100 * CLOSE * expected["pooled"].max()


def _keras_1(path, suffix="", **kernels):
    """A weight file as Keras 1 saves it; kernels by layer."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in kernels])
        for name, kernel in kernels.items():
            group = file.create_group(name)
            weight = f"{name}_W{suffix}" if suffix is not None else "param_0"
            group.attrs["weight_names"] = np.array([weight.encode()])
            group[weight] = kernel
    return path


def _kernel(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_tensorflows_kernels_of_keras_1_stay_as_they_are(tmp_path):
    kernel = _kernel(3, 3, 4, 8)
    found = read(_keras_1(tmp_path / "a.h5", ":0", res2a_branch2b=kernel))
    np.testing.assert_array_equal(found.arrays["res2a_branch2b/kernel"], kernel)
    assert found.metadata["backend"] == "tensorflow"
    assert found.notes == []


def test_theanos_order_on_tensorflow_is_transposed_and_not_turned(tmp_path):
    kernel = _kernel(8, 4, 3, 3)
    found = read(_keras_1(tmp_path / "a.h5", ":0", res2a_branch2b=kernel))
    np.testing.assert_array_equal(found.arrays["res2a_branch2b/kernel"], kernel.transpose(2, 3, 1, 0))
    assert len(found.notes) == 1


def test_a_number_behind_the_name_is_no_part_of_it(tmp_path):
    found = read(_keras_1(tmp_path / "a.h5", "_1:0", conv1=_kernel(3, 3, 4, 8)))
    assert list(found.arrays) == ["conv1/kernel"]


def test_a_file_that_does_not_say_its_backend_is_told_so(tmp_path):
    kernel = _kernel(8, 4, 3, 3)
    found = read(_keras_1(tmp_path / "a.h5", None, conv=kernel))
    np.testing.assert_array_equal(found.arrays["conv/kernel"], kernel.transpose(2, 3, 1, 0)[::-1, ::-1])
    assert "does not say which backend wrote it" in found.notes[1]
    unturned = read(_keras_1(tmp_path / "b.h5", None, conv=_kernel(3, 3, 4, 8)))
    assert unturned.notes == []


@pytest.mark.parametrize(("other", "theano"), [((8, 4, 1, 1), True), ((1, 1, 4, 8), False)])
def test_a_kernel_of_four_equal_sides_follows_the_others(tmp_path, other, theano):
    square = _kernel(3, 3, 3, 3)
    found = read(_keras_1(tmp_path / "a.h5", ":0", square=square, other=_kernel(*other))).arrays
    expected = square.transpose(2, 3, 1, 0) if theano else square
    np.testing.assert_array_equal(found["square/kernel"], expected)


def test_what_no_shape_can_tell_is_said(tmp_path):
    found = read(_keras_1(tmp_path / "a.h5", ":0", square=_kernel(3, 3, 3, 3)))
    assert "cannot be told" in found.notes[0]


@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (3, 3, 64, 64), (7, 7, 3, 64), (1, 7, 128, 128), (1, 1, 16, 16)])
def test_the_order_of_axes_is_seen_from_one_kernel(tmp_path, shape):
    kernel = _kernel(*shape)
    for number, stored in enumerate((kernel, kernel.transpose(3, 2, 0, 1))):
        found = read(_keras_1(tmp_path / f"{number}.h5", ":0", conv=stored)).arrays["conv/kernel"]
        np.testing.assert_array_equal(found, kernel)


def test_a_nested_model_of_keras_1_is_unfolded(tmp_path):
    path = tmp_path / "nested.h5"
    kernels = {"conv_1": _kernel(3, 3, 4, 8), "conv_2": _kernel(3, 3, 8, 8)}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"model_1"])
        group = file.create_group("model_1")
        group.attrs["weight_names"] = np.array([f"{name}_W:0".encode() for name in kernels])
        for name, kernel in kernels.items():
            group[f"{name}_W:0"] = kernel
    found = read(path).arrays
    assert set(found) == {"conv_1/kernel", "conv_2/kernel"}


def test_kernels_of_newer_releases_are_never_touched(tmp_path):
    """Even where their shapes are those of the other order: Keras 2 stores (height, width, in, out) alone."""
    path = _keras_1(tmp_path / "a.h5", ":0", conv=_kernel(8, 4, 3, 3))
    with h5py.File(path, "a") as file:
        file.attrs["keras_version"], file.attrs["backend"] = b"2.2.4", b"tensorflow"
    assert read(path).arrays["conv/kernel"].shape == (8, 4, 3, 3)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="needs tf-keras")
def test_features_of_the_tf_keras_that_is_installed(network, golden, tmp_path):
    import write_tf_keras

    expected = write_tf_keras.write(tmp_path)
    for name in write_tf_keras.FILES:
        _, found = _outputs(network, tmp_path / name, golden.pictures())
        _assert_close(found, expected)
