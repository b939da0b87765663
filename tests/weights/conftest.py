import hashlib

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_caches_of_this_machine(monkeypatch, tmp_path):
    """Neither the user's cache, nor that of Keras, nor a proxy may decide what a test sees."""
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("GREFFON_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def _variables(model):
    return [
        (f"{layer.name}/{variable.name}", variable)
        for layer in model._flatten_layers(include_self=False)
        if not hasattr(layer, "layers")
        for variable in layer.weights
    ]


@pytest.fixture(scope="session")
def randomise():
    """Fill a model with random weights, BN statistics included, that keep activations near 1."""

    def fill(model, seed=0):
        random = np.random.default_rng(seed)
        for name, variable in _variables(model):
            shape = tuple(variable.shape)
            values = random.normal(size=shape)
            if name.endswith("kernel"):
                values *= np.sqrt(2 / np.prod(shape[:-1]))
            elif name.endswith(("variance", "gamma")):
                values = random.uniform(0.5, 1.5, shape)
            else:
                values *= 0.1
            variable.assign(values.astype(np.float32))
        return model

    return fill


@pytest.fixture(scope="session")
def arrays_of():
    """`layer/weight` -> array of a model."""

    from keras import ops

    def collect(model):
        return {name: ops.convert_to_numpy(variable) for name, variable in _variables(model)}

    return collect


@pytest.fixture(scope="session")
def fingerprint(arrays_of):
    """One hash over every weight of a model."""

    def digest(model):
        total = hashlib.sha256()
        for name, array in arrays_of(model).items():
            total.update(name.encode() + array.tobytes())
        return total.hexdigest()

    return digest


@pytest.fixture(scope="session")
def pictures():
    return np.random.default_rng(7).uniform(-100, 150, (2, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def build():
    """A network of one block per stage, `thin` unless asked otherwise."""
    from greffon.backbone.resnet import resnet

    def make(variant="thin", blocks=(1, 1, 1, 1), **options):
        return resnet(blocks, variant, **({"input_shape": (64, 64, 3)} | options))

    return make


@pytest.fixture(scope="session")
def trained(build, randomise):
    """A small `thin` backbone whose weights every test of the session may read."""
    return randomise(build())


@pytest.fixture(scope="session")
def tutorial(trained):
    """The tutorial's model: a backbone nested in a Sequential, Flatten and Dense on top."""
    import keras

    return keras.Sequential(
        [
            trained,
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.fixture
def save_legacy_weights():
    """Write weights as Keras 1 and 2 did with `save_weights("x.h5")`."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    def save(model, path):
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, model)
        return path

    return save
