"""Weights written in other formats, and read by what reads them elsewhere."""

import hashlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import greffon
from greffon.backbone import convert as module
from greffon.backbone.convert import convert
from greffon.backbone.formats import torch_name
from greffon.backbone.resnet import resnet
from greffon.errors import InputError, WeightFileError
from greffon.weights.identify import identify
from greffon.weights.read import opened
from greffon.weights.restore import find_weights
from greffon.weights.sets import embedded_path, weight_set

SMALL = (1, 1, 1, 1)


def randomised(model, seed=0):
    """Random weights that keep activations near 1, BatchNorm's statistics included."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        shape = tuple(variable.shape)
        values = random.normal(size=shape) * 0.1
        if variable.name == "kernel":
            values *= 10 * np.sqrt(2 / np.prod(shape[:-1]))
        elif variable.name in {"moving_variance", "gamma"}:
            values = random.uniform(0.5, 1.5, shape)
        variable.assign(values.astype(np.float32))
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One small network of each variant with a classifier of five classes, and its file."""
    folder = tmp_path_factory.mktemp("small")
    made = {}
    for variant in ("v1", "v1.5", "thin"):
        model = randomised(resnet(SMALL, variant, include_top=True, classes=5, input_shape=(64, 64, 3)))
        arrays = {
            f"{layer.name}/{variable.name}": np.asarray(variable)
            for layer in model.layers
            for variable in layer.weights
        }
        path = folder / f"{variant}.safetensors"
        safetensors.numpy.save_file(arrays, path, metadata={"variant": variant, "preprocessing": "torch"})
        made[variant] = (path, model)
    return made


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(7).uniform(-2, 2, (2, 64, 64, 3)).astype(np.float32)


def answers(model, pictures):
    return np.asarray(model(pictures))


@pytest.mark.parametrize(
    ("variant", "name", "to"),
    [
        ("v1", "out.safetensors", None),
        ("v1", "out.weights.h5", None),
        ("v1.5", "out.safetensors", "torch"),
        ("thin", "out.safetensors", None),
        ("thin", "out.weights.h5", "weights-h5"),
    ],
)
def test_there_and_back(small, pictures, variant, name, to, tmp_path):
    path, model = small[variant]
    written = convert(path, tmp_path / name, to=to)
    assert (written.variant, written.include_top) == (variant, True)
    assert written.sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest()
    assert written.parameters == model.count_params()
    assert [it.name for it in tmp_path.iterdir()] == [name]
    if sys.platform != "win32":
        (tmp_path / "usual").touch()
        assert written.path.stat().st_mode == (tmp_path / "usual").stat().st_mode, "others may read it as any file"
    again = resnet(SMALL, variant, include_top=True, classes=5, input_shape=(64, 64, 3))
    found = find_weights(written.path, variant=variant)
    found.restore(again)
    np.testing.assert_array_equal(answers(again, pictures), answers(model, pictures))
    if name.endswith("tensors"):
        assert (found.variant, found.preprocessing.name) == (variant, "torch")
        with safetensors.safe_open(written.path, "np") as file:
            about = file.metadata()
        assert (about["variant"], about["preprocessing"], about["writer"]) == (variant, "torch", "greffon")
        assert about["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_plain_keras_loads_its_legacy_file(small, pictures, tmp_path):
    path, model = small["v1"]
    again = resnet(SMALL, "v1", include_top=True, classes=5, input_shape=(64, 64, 3))
    again.load_weights(convert(path, tmp_path / "out.h5").path)
    np.testing.assert_array_equal(answers(again, pictures), answers(model, pictures))
    backbone = resnet(SMALL, "v1", input_shape=(64, 64, 3))
    backbone.load_weights(convert(path, tmp_path / "notop.h5", include_top=False).path)
    features = keras.Model(model.input, model.get_layer("conv5_block1_out").output)
    np.testing.assert_array_equal(answers(backbone, pictures), answers(features, pictures))


@pytest.mark.large
@pytest.mark.parametrize("top", [True, False])
def test_keras_applications_loads_a_converted_file(top, tmp_path):
    original = randomised(
        keras.applications.ResNet50(weights=None, include_top=True, classes=1000, input_shape=(224, 224, 3))
    )
    original.save(tmp_path / "mine.keras")
    written = convert(tmp_path / "mine.keras", tmp_path / "out.h5", include_top=top)
    shape = {} if top else {"input_shape": (64, 64, 3)}
    again = keras.applications.ResNet50(weights=written.path, include_top=top, **shape)
    expected = original if top else keras.Model(original.input, original.get_layer("conv5_block3_out").output)
    side = 224 if top else 64
    picture = np.random.default_rng(0).uniform(-2, 2, (1, side, side, 3)).astype(np.float32)
    if not top:
        expected = greffon.resnet50(tmp_path / "mine.keras", input_shape=(64, 64, 3))
    np.testing.assert_allclose(answers(again, picture), answers(expected, picture), rtol=1e-5, atol=1e-6)


def test_torch_names_and_axes(small, tmp_path):
    path, model = small["v1.5"]
    written = convert(path, tmp_path / "out.safetensors", to="torch")
    tensors = safetensors.numpy.load_file(written.path)
    kernel = np.asarray(model.get_layer("conv3_block1_0_conv").kernel)
    np.testing.assert_array_equal(tensors["layer2.0.downsample.0.weight"], kernel.transpose(3, 2, 0, 1))
    assert tensors["fc.weight"].shape == (5, 2048)
    assert tensors["bn1.num_batches_tracked"].shape == ()
    assert {name for name in tensors if name.startswith("layer4.0.bn3")} == {
        f"layer4.0.bn3.{weight}" for weight in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    with opened(written.path) as contents:
        identity = identify(contents)
    assert (identity.variant, identity.classes, identity.preprocessing.name) == ("v1.5", 5, "torch")


def test_torch_loads_what_was_written(small, pictures, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "weights")
    from torch_nets import ResNet

    path, model = small["v1.5"]
    written = convert(path, tmp_path / "out.safetensors", to="torch")
    net = ResNet(SMALL, classes=5).eval()
    arrays = safetensors.numpy.load_file(written.path)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
    with torch.no_grad():
        logits = net(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())).numpy()
    expected = answers(model, pictures)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exp / exp.sum(axis=1, keepdims=True), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "name", "to", "said"),
    [
        ("v1", "out.safetensors", "torch", r"'v1', which cannot be written as torch.*every feature would be wrong"),
        ("thin", "out.safetensors", "torch", "half width"),
        ("v1.5", "out.h5", None, r"plain Keras' ResNet50 is v1.*written as safetensors, torch, weights-h5"),
        ("thin", "out.h5", "keras-h5", "half width"),
    ],
)
def test_a_network_that_the_format_does_not_know(small, variant, name, to, said, tmp_path):
    with pytest.raises(InputError, match=said):
        convert(small[variant][0], tmp_path / name, to=to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "to", "said"),
    [
        ("out.pth", None, "Greffon writes no pickles"),
        ("out", None, r"must end with .safetensors, .weights.h5 or .h5"),
        ("out.h5", "weights-h5", r"must be called \*.weights.h5"),
        ("out.weights.h5", "keras-h5", r"\*.h5 and not \*.weights.h5"),
        ("out.h5", "torch", r"must be called \*.safetensors"),
        ("out.safetensors", "tourch", "did you mean 'torch'"),
        ("nowhere/out.h5", None, "does not exist: make it first"),
        (".", "torch", "must be called"),
    ],
)
def test_names_that_do_not_fit(small, name, to, said, tmp_path):
    with pytest.raises(InputError, match=said):
        convert(small["v1"][0], tmp_path / name, to=to)


def test_nothing_is_overwritten_unless_asked(small, tmp_path):
    out = tmp_path / "out.weights.h5"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists: choose another name"):
        convert(small["thin"][0], out)
    assert out.read_bytes() == b"mine"
    assert convert(small["thin"][0], out, force=True).size == out.stat().st_size > 1000


def test_a_file_that_cannot_be_written_leaves_what_was_there(small, tmp_path, monkeypatch):
    out = tmp_path / "out.weights.h5"
    out.write_bytes(b"mine")

    def full(self, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(InputError, match="No space left"):
        convert(small["thin"][0], out, force=True)
    assert [it.read_bytes() for it in tmp_path.iterdir()] == [b"mine"]


def test_a_writer_that_writes_something_else_is_found_out(small, tmp_path, monkeypatch):
    write = module.WRITERS["safetensors"]

    def wrong(model, path, metadata):
        model.get_layer("conv1_conv").kernel.assign(model.get_layer("conv1_conv").kernel * 2)
        write(model, path, metadata)
        model.get_layer("conv1_conv").kernel.assign(model.get_layer("conv1_conv").kernel * 2)

    monkeypatch.setitem(module.WRITERS, "safetensors", wrong)
    with pytest.raises(WeightFileError, match="conv1_conv/kernel came out otherwise"):
        convert(small["thin"][0], tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_sources_that_are_none(tmp_path, small):
    with pytest.raises(InputError, match=r"there is no nowhere\.h5"):
        convert("nowhere.h5", tmp_path / "out.h5")
    with pytest.raises(InputError, match="'none' has no file"):
        convert("none", tmp_path / "out.h5")
    (tmp_path / "page.h5").write_text("<html>")
    with pytest.raises(WeightFileError, match="web page"):
        convert(tmp_path / "page.h5", tmp_path / "out.h5")
    with pytest.raises(InputError, match="holds no classifier"):
        convert(embedded_path(weight_set("thin").file()), tmp_path / "out.safetensors", include_top=True)


def test_no_name_in_pytorch_for_what_is_no_resnet():
    with pytest.raises(InputError, match="expected a tensor of a ResNet"):
        torch_name("dense/kernel")
