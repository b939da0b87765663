"""One network, saved by everything that saves networks, restored from each file: the same features and logits."""

import sys

import keras
import numpy as np
import pytest

from greffon.backbone.resnet import resnet
from greffon.errors import WeightFileError
from greffon.weights.restore import find_weights

SIZE = {"input_shape": (64, 64, 3)}
CLASSES = 7


def _agree(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert expected.std() > 1e-3, "outputs that are all alike prove nothing"
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def source(randomise):
    return randomise(resnet((1, 1, 1, 1), "v1", include_top=True, classes=CLASSES, **SIZE), seed=3)


def _legacy(model, path):
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def _checkpoint(model, path):
    import tensorflow as tf

    tf.train.Checkpoint(model=model).save(str(path / "ckpt"))


def _safetensors(model, path):
    from safetensors.numpy import save_file

    save_file({f"{v.path.split('/')[-2]}/{v.name}": np.asarray(v) for v in model.weights}, path)


def _npz(model, path):
    np.savez(path, **{f"{v.path.split('/')[-2]}/{v.name}": np.asarray(v) for v in model.weights})


def _onnx(model, path):
    from greffon.frozen.emit import emit
    from greffon.frozen.graph import flatten

    path.write_bytes(emit(flatten(model)))


KERAS_FORMATS = {
    "legacy.h5": _legacy,
    "whole.h5": lambda model, path: model.save(path),
    "three.weights.h5": lambda model, path: model.save_weights(path),
    "three.keras": lambda model, path: model.save(path),
    "checkpoint": _checkpoint,
    "saved_model": lambda model, path: model.export(path, verbose=False),
    "plain.safetensors": _safetensors,
    "arrays.npz": _npz,
    "folded.onnx": _onnx,
}


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")

    def write(name):
        path = folder / name
        if not path.exists():
            if name == "checkpoint":
                path.mkdir()
            KERAS_FORMATS[name](source, path)
        return path

    return write


@pytest.mark.parametrize("name", KERAS_FORMATS)
def test_features_and_logits(written, source, pictures, name):
    told = []
    target = resnet((1, 1, 1, 1), "v1", include_top=True, classes=CLASSES, **SIZE)
    restored = find_weights(written(name), variant="v1").restore(target, tell=told.append)
    assert restored.coverage == 1.0
    assert "matched" in told[0]
    _agree(target(pictures), source(pictures))
    for model in (target, source):
        model.pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    _agree(target.pooled(pictures), source.pooled(pictures))


@pytest.mark.parametrize("name", KERAS_FORMATS)
def test_a_backbone_from_a_file_with_a_top(written, source, pictures, name):
    backbone = resnet((1, 1, 1, 1), "v1", pooling="avg", **SIZE)
    restored = find_weights(written(name), variant="v1").restore(backbone, tell=lambda text: None)
    assert restored.coverage == 1.0
    _agree(backbone(pictures), keras.Model(source.input, source.get_layer("avg_pool").output)(pictures))


def test_a_checkpoint_by_its_prefix(written, source, pictures):
    path = written("checkpoint") / "ckpt-1"
    target = resnet((1, 1, 1, 1), "v1", include_top=True, classes=CLASSES, **SIZE)
    find_weights(path, variant="v1").restore(target, tell=lambda text: None)
    _agree(target(pictures), source(pictures))


# --- PyTorch's, where it is installed ---


@pytest.fixture(scope="module")
def net():
    pytest.importorskip("torch")
    from torch_nets import ResNet, randomised

    return randomised(ResNet((1, 1, 1, 1), classes=CLASSES))


def _save_torch(net, path, name):
    import torch
    from safetensors.torch import save_file

    state = net.state_dict()
    if name == "zip.pth":
        torch.save(state, path)
    elif name == "old.pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif name == "checkpoint.pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": it for key, it in state.items()}}, path)
    elif name == "whole.pth":
        torch.save(net, path)
    elif name == "state.safetensors":
        save_file({key: it.contiguous() for key, it in state.items()}, path)
    elif name == "half.pth":
        torch.save({key: it.half() if it.is_floating_point() else it for key, it in state.items()}, path)


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "checkpoint.pth", "whole.pth", "state.safetensors"])
def test_pytorch(net, pictures, tmp_path, name):
    import torch

    path = tmp_path / name
    _save_torch(net, path, name)
    found = find_weights(path)
    assert found.variant == "v1.5"
    target = resnet((1, 1, 1, 1), found.variant, include_top=True, classes=CLASSES, **SIZE)
    found.restore(target, tell=lambda text: None)
    target.get_layer("predictions").activation = keras.activations.linear
    with torch.no_grad():
        expected = net(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())).numpy()
    _agree(target(pictures), expected)


def test_half_precision_is_read_as_float32(net, tmp_path):
    path = tmp_path / "half.pth"
    _save_torch(net, path, "half.pth")
    kernel = find_weights(path).weights.arrays["conv1_conv/kernel"]
    assert kernel.dtype == np.float32
    expected = net.state_dict()["conv1.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, atol=1e-3)


def test_a_v15_file_asked_into_v1_is_refused(net, tmp_path):
    path = tmp_path / "zip.pth"
    _save_torch(net, path, "zip.pth")
    with pytest.raises(WeightFileError, match=r"for variant 'v1.5', not 'v1'"):
        find_weights(path, variant="v1")


# --- what must fail loudly ---


@pytest.mark.parametrize("change", ["missing", "nan"])
def test_one_statistic_missing_or_no_number(source, tmp_path, change, fingerprint):
    from safetensors.numpy import save_file

    arrays = {f"{v.path.split('/')[-2]}/{v.name}": np.asarray(v).copy() for v in source.weights}
    name = "conv4_block1_2_bn/moving_variance"
    if change == "missing":
        del arrays[name]
    else:
        arrays[name][3] = np.nan
    save_file(arrays, tmp_path / "damaged.safetensors")
    target = resnet((1, 1, 1, 1), "v1", include_top=True, classes=CLASSES, **SIZE)
    before = fingerprint(target)
    with pytest.raises(WeightFileError, match="conv4_block1_2_bn/moving_variance"):
        find_weights(tmp_path / "damaged.safetensors", variant="v1").restore(target, tell=lambda text: None)
    assert fingerprint(target) == before


def test_no_reader_needs_torch():
    """Users never need it to read a .pth file."""
    import subprocess

    script = "import sys, greffon.weights.read, greffon.weights.identify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
