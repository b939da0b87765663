"""Every format, written by Keras itself, read back: names and numbers, and what is no weight file."""

import gzip
import io
import json
import pickle
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from greffon.errors import WeightFileError
from greffon.weights.read import read


def _without_layer_names(file):
    """As Keras 3 wrote its files before it put the layers' names into them."""

    def drop(_, it):
        if "name" in it.attrs:
            del it.attrs["name"]

    file.visititems(drop)


def _assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == np.float32


@pytest.fixture
def written(tmp_path, trained, arrays_of, save_legacy_weights):
    def write(name):
        path = tmp_path / name
        if name == "legacy.h5":
            return save_legacy_weights(trained, path)
        if name.endswith(".weights.h5"):
            trained.save_weights(path)
        elif name.endswith(".safetensors"):
            safetensors.numpy.save_file(arrays_of(trained), path)
        else:
            trained.save(path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("legacy.h5", "Keras legacy HDF5 weights"),
        ("whole.h5", "Keras whole-model HDF5"),
        ("three.weights.h5", "Keras 3 weights (HDF5)"),
        ("three.keras", "Keras 3 model (.keras)"),
        ("plain.safetensors", "safetensors"),
    ],
)
def test_every_format_gives_names_and_numbers(written, trained, arrays_of, tmp_path, name, kind):
    path = written(name)
    found = read(path)
    assert found.format == kind
    _assert_same(found.arrays, arrays_of(trained))
    # By content, never by name.
    renamed = tmp_path / "weights.bin"
    path.rename(renamed)
    assert read(renamed).format == kind


def test_what_the_file_says_about_itself(written):
    import keras

    assert read(written("legacy.h5")).metadata["keras_version"] == keras.__version__
    whole = read(written("whole.h5"))
    assert whole.configs["conv3_block1_1_conv"]["strides"] == [2, 2]
    assert read(written("three.keras")).configs["conv1_bn"]["class_name"] == "BatchNormalization"
    assert "conv5_block1_out" in read(written("three.weights.h5")).layer_names


@pytest.mark.parametrize("name", ["tutorial.h5", "tutorial.keras", "tutorial.weights.h5", "tutorial_legacy.h5"])
def test_a_nested_backbone_is_unfolded(tmp_path, tutorial, arrays_of, save_legacy_weights, name):
    path = tmp_path / name
    if name.endswith(".weights.h5"):
        tutorial.save_weights(path)
    elif name == "tutorial_legacy.h5":
        save_legacy_weights(tutorial, path)
    else:
        tutorial.save(path)
    _assert_same(read(path).arrays, arrays_of(tutorial))


@pytest.mark.parametrize("nested", [False, True])
def test_names_come_from_the_configuration_where_the_weights_have_none(tmp_path, trained, tutorial, arrays_of, nested):
    model = tutorial if nested else trained
    whole, path = tmp_path / "whole.keras", tmp_path / "older.keras"
    model.save(whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as older:
        weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            _without_layer_names(file)
        older.writestr("config.json", archive.read("config.json"))
        older.writestr("model.weights.h5", weights.getvalue())
    _assert_same(read(path).arrays, arrays_of(model))


def _as_keras_2_13(source, target):
    """The layout of tf.keras 2.13: another container, weighted layers counted twice, Windows' separators."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(group, path):
            counts = {}
            # Keras 3 numbers in the model's order, which is what the older one went by too.
            for name in sorted(group, key=lambda it: (it.rstrip("_0123456789"), _number(it))):
                kind = name.rstrip("_0123456789")
                number = counts.get(kind, 0)
                counts[kind] = number + (2 if len(group[name]["vars"]) else 1)
                inner = f"{path}_layer_checkpoint_dependencies\\{kind}{f'_{number}' if number else ''}"
                made = new.create_group(inner).create_group("vars")
                for key, it in group[name]["vars"].items():
                    made[key] = it[()]
                if "layers" in group[name]:
                    copy(group[name]["layers"], f"{inner}\\")

        copy(old["layers"], "")
    return target


def _number(name):
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


@pytest.mark.parametrize("nested", [False, True])
def test_the_layout_of_keras_2_13(tmp_path, trained, tutorial, arrays_of, nested):
    model = tutorial if nested else trained
    model.save(tmp_path / "whole.keras")
    model.save_weights(tmp_path / "three.weights.h5")
    weights = _as_keras_2_13(tmp_path / "three.weights.h5", tmp_path / "two.weights.h5")
    path = tmp_path / "two.keras"
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive, zipfile.ZipFile(path, "w") as older:
        older.writestr("config.json", archive.read("config.json"))
        older.write(weights, "model.weights.h5")
    _assert_same(read(path).arrays, arrays_of(model))


def test_layers_are_only_numbered_where_nothing_names_them(tmp_path, trained, arrays_of):
    path = tmp_path / "older.weights.h5"
    trained.save_weights(path)
    with h5py.File(path, "a") as file:
        _without_layer_names(file)
    found = read(path).arrays
    expected = arrays_of(trained)
    np.testing.assert_array_equal(found["conv2d/kernel"], expected["conv1_conv/kernel"])
    np.testing.assert_array_equal(found["batch_normalization/moving_variance"], expected["conv1_bn/moving_variance"])


def test_optimizer_and_metrics_are_not_weights(tmp_path, build):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((4, 4)), np.zeros((4, 2)), verbose=0)
    for name in ("compiled.keras", "compiled.h5"):
        model.save(tmp_path / name)
        assert set(read(tmp_path / name).arrays) == {"out/kernel", "out/bias"}


def test_names_of_keras_1_and_2(tmp_path):
    path = tmp_path / "old.h5"
    kernel, vector = np.ones((1, 1, 2, 3), np.float32), np.arange(3, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"input_1", b"res2a_branch2a", b"bn2a_branch2a", b"conv1"])
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        conv, norm = file.create_group("res2a_branch2a"), file.create_group("bn2a_branch2a")
        conv.attrs["weight_names"] = np.array([b"res2a_branch2a_W:0", b"res2a_branch2a_b:0"])
        conv["res2a_branch2a_W:0"], conv["res2a_branch2a_b:0"] = kernel, vector
        names = ["gamma", "beta", "running_mean", "running_std"]
        norm.attrs["weight_names"] = np.array([f"bn2a_branch2a_{name}:0".encode() for name in names])
        for number, name in enumerate(names):
            norm[f"bn2a_branch2a_{name}:0"] = vector + number
        again = file.create_group("conv1")  # TensorFlow appended a number to a name that was taken
        again.attrs["weight_names"] = np.array([b"conv1_2/kernel:0", b"conv1_2/bias:0"])
        again["conv1_2/kernel:0"], again["conv1_2/bias:0"] = kernel, vector
    found = read(path)
    assert list(found.arrays) == [
        "res2a_branch2a/kernel",
        "res2a_branch2a/bias",
        "bn2a_branch2a/gamma",
        "bn2a_branch2a/beta",
        "bn2a_branch2a/moving_mean",
        "bn2a_branch2a/moving_variance",
        "conv1/kernel",
        "conv1/bias",
    ]
    np.testing.assert_array_equal(found.arrays["bn2a_branch2a/moving_variance"], vector + 3)
    assert found.metadata["keras_version"] == "1"


def test_weights_without_telling_names_are_known_by_their_place(tmp_path):
    path = tmp_path / "oldest.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"norm"])
        group = file.create_group("norm")
        group.attrs["weight_names"] = np.array([b"param_0", b"param_1", b"param_2", b"param_3"])
        for number in range(4):
            group[f"param_{number}"] = np.full(2, number, np.float32)
    found = read(path).arrays
    assert {name: array[0] for name, array in found.items()} == {
        "norm/gamma": 0,
        "norm/beta": 1,
        "norm/moving_mean": 2,
        "norm/moving_variance": 3,
    }


def test_long_lists_of_names_are_split_over_attributes(tmp_path):
    path = tmp_path / "split.h5"
    with h5py.File(path, "w") as file:
        for number in range(3):
            file.attrs[f"layer_names{number}"] = np.array([f"dense_{number}".encode()])
            group = file.create_group(f"dense_{number}")
            group.attrs["weight_names"] = np.array([b"kernel:0"])
            group["kernel:0"] = np.full((1, 1), number, np.float32)
    assert list(read(path).arrays) == ["dense_0/kernel", "dense_1/kernel", "dense_2/kernel"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_precisions_become_float32(tmp_path, dtype):
    values = np.array([[0.5, -2.0], [3.25, 1.0]])
    legacy, three, plain = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "c.bin"
    with h5py.File(legacy, "w") as file:
        file.attrs["layer_names"] = np.array([b"dense"])
        file.create_group("dense").attrs["weight_names"] = np.array([b"dense/kernel"])
        file["dense"].create_dataset("dense/kernel", data=values.astype(dtype))
    with h5py.File(three, "w") as file:
        made = file.create_group("layers/dense/vars").create_dataset("0", data=values.astype(dtype))
        made.attrs["dtype"] = np.dtype(dtype).name
    safetensors.numpy.save_file({"dense/kernel": values.astype(dtype)}, plain)
    for path in (legacy, three, plain):
        found = read(path).arrays["dense/kernel"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values)


def test_metadata_of_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a/kernel": np.ones(1, np.float32)}, path, metadata={"variant": "v1.5"})
    assert read(path).metadata == {"variant": "v1.5"}


def test_two_networks_with_the_same_names_are_refused(tmp_path, build):
    import keras

    inputs = keras.Input((64, 64, 3))
    first, second = build(name="first"), build(name="second")
    keras.Model(inputs, [first(inputs), second(inputs)]).save(tmp_path / "twins.keras")
    with pytest.raises(WeightFileError, match=r"two arrays .* 'conv\w+/\w+'.* two networks"):
        read(tmp_path / "twins.keras")


@pytest.mark.parametrize("name", ["legacy.h5", "whole.h5", "three.weights.h5", "three.keras", "plain.safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_file_that_is_cut_off_says_so(written, name, share):
    path = written(name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightFileError, match=r"cut off|damaged"):
        read(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"<!doctype html><html>404</html>", "web page"),
        (b"\n\n<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "gzip"),
        (pickle.dumps({"weight": 1}), "pickle"),
        (b'{"class_name": "Functional"}', "JSON"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(600), "it is a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "it is a picture"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "it is a picture"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "it is a picture"),
        (b"no weights at all", "it starts with"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, content, what):
    path = tmp_path / "weights.h5"
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=what):
        read(path)


def test_archives_of_others(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n")
    with pytest.raises(WeightFileError, match=r"it names os\.system, which could run code"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"")
    with pytest.raises(WeightFileError, match=r"1 files \(readme.txt\) and no config.json"):
        read(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(WeightFileError, match="cannot be opened: No such file"):
        read(tmp_path / "nowhere.h5")
    with pytest.raises(WeightFileError, match=r"it is a folder\. Expected one of: .*safetensors"):
        read(tmp_path)


def test_hdf5_of_another_kind(tmp_path):
    path = tmp_path / "table.h5"
    with h5py.File(path, "w") as file:
        file["measurements"] = np.arange(4.0)
    with pytest.raises(WeightFileError, match="not written by Keras"):
        read(path)


def test_a_model_without_weights(tmp_path):
    import keras

    keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]).save(tmp_path / "empty.keras")
    with pytest.raises(WeightFileError, match="holds no weights"):
        read(tmp_path / "empty.keras")


def test_the_configuration_is_never_built(tmp_path, trained):
    """A class name that does not exist, and one that would run code, are nothing but words."""
    whole, path = tmp_path / "whole.keras", tmp_path / "hostile.keras"
    trained.save(whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as hostile:
        config = json.loads(archive.read("config.json"))
        config["config"]["layers"].append(
            {"class_name": "Lambda", "module": "os", "config": {"name": "x", "function": "system"}}
        )
        config["module"], config["class_name"] = "nowhere", "Nothing"
        hostile.writestr("config.json", json.dumps(config))
        hostile.writestr("model.weights.h5", archive.read("model.weights.h5"))
    assert "conv1_conv/kernel" in read(path).arrays
