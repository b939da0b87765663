"""From `weights=...` to a filled backbone: every format, the same features."""

import dataclasses
import hashlib
import http.server
import re
import threading

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy

import greffon
from greffon.backbone.preprocessing import preprocessing_layers
from greffon.errors import InputError, WeightFileError
from greffon.weights.restore import find_weights
from greffon.weights.sets import PREPROCESSINGS, WEIGHT_SETS, Preprocessing, embedded_path, weight_set


def _same_features(model, expected_model, pictures):
    expected, got = (np.asarray(it(pictures)) for it in (expected_model, model))
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture
def written(tmp_path, trained, tutorial, save_legacy_weights):
    def write(name):
        path = tmp_path / name
        model = tutorial if name.startswith("tutorial") else trained
        if "legacy" in name:
            save_legacy_weights(model, path)
        elif name.endswith(".weights.h5"):
            model.save_weights(path)
        else:
            model.save(path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("legacy.h5", False),
        ("whole.h5", False),
        ("three.weights.h5", False),
        ("three.keras", False),
        ("tutorial.h5", True),
        ("tutorial.keras", True),
        ("tutorial.weights.h5", True),
        ("tutorial_legacy.h5", True),
    ],
)
def test_every_file_that_keras_writes_gives_the_same_features(written, build, trained, pictures, name, left_out):
    path = written(name)
    found = find_weights(path)
    assert found.variant == "thin", "told by its width"
    model = build()
    record = found.restore(model)
    _same_features(model, trained, pictures)
    said = r"the file's own head\): dense(_\d+)?, dense_\d+"  # Keras counts on from the tests before
    assert any(re.search(said, note) for note in record.notes) == left_out
    assert record.weights == str(path)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.preprocessing is None, "such a file does not tell"
    assert record.coverage == 1.0


def test_frozen_and_unfrozen_models_write_files_that_agree(tmp_path, build, randomise, pictures, save_legacy_weights):
    """Keras orders a nested model's weights by what trains; names do not care."""
    backbone = randomise(build(), seed=11)
    for layer in backbone.layers[:-10]:
        layer.trainable = False
    model = keras.Sequential([backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    model.build((None, 64, 64, 3))
    for path in (save_legacy_weights(model, tmp_path / "a.h5"), tmp_path / "b.weights.h5", tmp_path / "c.keras"):
        if path.name != "a.h5":
            model.save_weights(path) if "weights" in path.name else model.save(path)
        restored = build()
        find_weights(path).restore(restored)
        _same_features(restored, backbone, pictures)


def test_one_full_network_from_its_own_file(tmp_path, randomise):
    original = randomise(
        keras.applications.ResNet50(weights=None, include_top=True, input_shape=(64, 64, 3), classes=9)
    )
    original.save(tmp_path / "mine.keras")
    backbone = greffon.resnet50(tmp_path / "mine.keras", input_shape=(64, 64, 3))
    record = backbone.greffon_weights
    assert record.variant == "v1"
    assert any("predictions" in note for note in record.notes)
    picture = np.random.default_rng(0).uniform(-100, 150, (1, 64, 64, 3)).astype(np.float32)
    features = keras.Model(original.input, original.get_layer("conv5_block3_out").output)
    _same_features(backbone, features, picture)
    with pytest.raises(WeightFileError, match="classifier has 9 classes"):
        greffon.resnet50(tmp_path / "mine.keras", input_shape=(64, 64, 3), include_top=True)


def test_the_embedded_set():
    record = greffon.resnet50("thin").greffon_weights
    assert (record.weights, record.variant, record.coverage) == ("thin", "thin", 1.0)
    assert record.preprocessing is PREPROCESSINGS["open_nsfw"]
    assert record.sha256 == weight_set("thin").file().sha256
    assert any("BatchNorm is folded" in note for note in record.notes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.weights = "other"


def test_the_file_of_a_known_set_is_recognised(tmp_path):
    path = tmp_path / "anything.bin"
    path.write_bytes(embedded_path(weight_set("thin").file()).read_bytes())
    found = find_weights(path)
    assert found.preprocessing is PREPROCESSINGS["open_nsfw"]
    assert found.notes == ("The file is that of the weight set 'thin'.",)
    with pytest.raises(WeightFileError, match="are for variant 'thin', not 'v1'"):
        find_weights(path, variant="v1")


@pytest.mark.parametrize("weights", [None, "none"])
def test_random_weights(weights):
    found = find_weights(weights, variant="v1.5")
    assert (found.name, found.variant, found.weights, found.preprocessing) == ("none", "v1.5", None, None)
    assert find_weights(weights).variant == "v1"


def test_a_file_without_biases_is_v1_5(tmp_path, build, randomise, pictures):
    original = randomise(build("v1.5", blocks=(1, 1)))
    original.save_weights(tmp_path / "a.weights.h5")
    found = find_weights(tmp_path / "a.weights.h5")
    assert found.variant == "v1.5"
    model = build("v1.5", blocks=(1, 1))
    found.restore(model)
    _same_features(model, original, pictures)
    with pytest.raises(WeightFileError, match=r"have no biases, as in v1\.5"):
        find_weights(tmp_path / "a.weights.h5", variant="v1").restore(build("v1", blocks=(1, 1)))


def test_a_models_strides_tell_the_variant_where_shapes_cannot(tmp_path):
    """v1 with its strides moved: every shape agrees, every number would be wrong."""
    first = keras.layers.Conv2D(64, 1, strides=1, name="conv3_block1_1_conv")
    second = keras.layers.Conv2D(64, 3, strides=2, name="conv3_block1_2_conv")
    keras.Sequential([keras.Input((8, 8, 3)), first, second]).save(tmp_path / "moved.keras")
    keras.Sequential([keras.Input((8, 8, 3)), first, second]).save(tmp_path / "moved.h5")
    for name in ("moved.keras", "moved.h5"):
        assert find_weights(tmp_path / name).variant == "v1.5"
        with pytest.raises(WeightFileError, match="strides differ and the features would be wrong"):
            find_weights(tmp_path / name, variant="v1")


def test_our_own_metadata_tells_variant_and_preprocessing(tmp_path, arrays_of, build):
    path = tmp_path / "a.safetensors"
    metadata = {"variant": "v1.5", "preprocessing": "tf"}
    safetensors.numpy.save_file(arrays_of(build("v1.5")), path, metadata=metadata)
    found = find_weights(path)
    assert found.variant == "v1.5"
    assert found.preprocessing is PREPROCESSINGS["tf"]


@pytest.mark.parametrize(
    "preprocessing",
    [
        PREPROCESSINGS["caffe"],
        PREPROCESSINGS["torch"],
        Preprocessing("mine", channel_order="BGR", mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0)),
    ],
    ids=lambda it: it.name,
)
@pytest.mark.parametrize("name", ["run.keras", "run.h5", "run.weights.h5"])
def test_a_grafted_models_channel_order_is_unfolded(tmp_path, build, trained, pictures, preprocessing, name):
    """In a grafted model the first kernel takes RGB, whatever the backbone was trained on."""
    grafted = keras.models.clone_model(trained)
    grafted.set_weights(trained.get_weights())
    first = grafted.get_layer("conv1_conv")
    kernel, bias = first.get_weights()
    if preprocessing.channel_order == "BGR":
        first.set_weights([kernel[:, :, ::-1, :], bias])
    inputs = keras.Input((64, 64, 3))
    x = inputs
    for layer in [*preprocessing_layers(preprocessing), *grafted.layers[1:4]]:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head_output")(keras.layers.Flatten()(x)))
    path = tmp_path / name
    model.save_weights(path) if name == "run.weights.h5" else model.save(path)
    if preprocessing.name == "mine" and name == "run.weights.h5":
        with pytest.raises(WeightFileError, match="use the whole model"):
            find_weights(path)
        return
    found = find_weights(path)
    assert found.preprocessing.name == preprocessing.name
    assert found.preprocessing.channel_order == preprocessing.channel_order
    np.testing.assert_array_equal(found.weights.arrays["conv1_conv/kernel"], kernel)
    assert any("grafted model" in note for note in found.notes)


def test_a_refused_file_leaves_the_network_as_it_was(written, build, fingerprint):
    path = written("legacy.h5")
    with h5py.File(path, "a") as file:
        file["conv5_block1_3_bn/conv5_block1_3_bn/beta"][0] = np.nan
    model = build()
    before = fingerprint(model)
    with pytest.raises(WeightFileError) as error:
        find_weights(path).restore(model)
    assert fingerprint(model) == before
    assert str(path) in str(error.value)
    assert "Keras legacy HDF5 weights" in str(error.value)
    assert "conv5_block1_3_bn/beta (1 of 1,024 values" in str(error.value)


def test_what_may_be_missing(written, build, trained):
    path = written("legacy.h5")
    with h5py.File(path, "a") as file:
        names = [it for it in file.attrs["layer_names"] if not it.startswith("conv5_block1_3")]
        file.attrs["layer_names"] = names
    with pytest.raises(WeightFileError, match=r"Missing from the file \(6\)"):
        find_weights(path).restore(build())
    record = find_weights(path).restore(build(), allow_missing=["conv5_block1_3_*"])
    assert 0 < record.coverage < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "imagnet"}, "'imagnet' is neither; did you mean 'imagenet'"),
        ({"weights": "nowhere/weights.h5"}, "there is no such file or folder, and no weight set of that name"),
        ({"weights": "thin", "variant": "v1"}, "set 'thin' are for variant 'thin', not 'v1'"),
        ({"weights": "thin", "variant": "v3"}, "variant must be one of v1, v1.5, thin"),
        ({"weights": "thin", "include_top": True}, "no file with a classifier"),
        ({"weights": "thin", "depth": 101}, "for a ResNet-50, not a ResNet-101"),
        ({"weights": "imagenet", "include_top": True, "classes": 3}, "has 1000 classes, got classes=3"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_fetched(options, message):
    with pytest.raises(InputError, match=message):
        find_weights(options.pop("weights"), **options)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(WeightFileError, match="it is a folder"):
        find_weights(tmp_path)


def test_imagenet_is_fetched_when_it_is_asked_for(tmp_path, monkeypatch, trained, build, pictures, capsys):
    """With a record of the test's own behind the name, and a server on this machine."""
    served = tmp_path / "served"
    served.mkdir()
    trained.save_weights(served / "set.weights.h5")
    data = (served / "set.weights.h5").read_bytes()
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: handler(*args, directory=str(served))
    ) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        file = dataclasses.replace(
            weight_set("imagenet").file(),
            filename="set.weights.h5",
            url=f"http://127.0.0.1:{server.server_port}/set.weights.h5",
            size=len(data),
            md5=hashlib.md5(data).hexdigest(),
        )
        record = dataclasses.replace(weight_set("imagenet"), variant="thin", files=(file,))
        monkeypatch.setitem(WEIGHT_SETS, "imagenet", record)
        found = find_weights("imagenet")
        server.shutdown()
    assert "Fetching set.weights.h5" in capsys.readouterr().err
    assert any("was written down beside it" in note for note in found.notes)
    model = build()
    restored = found.restore(model)
    assert restored.preprocessing is PREPROCESSINGS["caffe"]
    assert restored.sha256 == hashlib.sha256(data).hexdigest()
    _same_features(model, trained, pictures)
    assert find_weights("imagenet").name == "imagenet", "from the cache, the server being gone"
