"""The tutorial, in both languages, run as it stands: the whole network on 224 pixels, all ten epochs, few pictures.

What the reader has is made here: a file of weights (random ones), a model saved as a whole, a file of pictures, and a
server in place of the one that publishes the ImageNet weights.
"""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
from markdown_blocks import ROOT, blocks_of, commands_of, programs, run

ENGLISH, FRENCH = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutoriel.fr.md"
TRAIN, VAL = 8, 4


def values(variables):
    """Copies of variables, by name."""
    import keras

    return {variable.path: np.array(keras.ops.convert_to_numpy(variable)) for variable in variables}


@pytest.fixture(scope="module")
def readers_files(tmp_path_factory):
    """my_weights.h5, whole_model.h5 and pictures.npz, and the weights in them by name."""
    import h5py
    import keras
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    folder = tmp_path_factory.mktemp("reader")
    keras.utils.set_random_seed(1)
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
    random = np.random.default_rng(1)
    for layer in base.layers:
        if layer.name.endswith("_bn"):
            layer.moving_mean.assign(random.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, layer.moving_variance.shape))
    with h5py.File(folder / "my_weights.h5", "w") as file:
        save_weights_to_hdf5_group(file, base)
    head = [keras.layers.Dense(8, name="dense"), keras.layers.Dropout(0.5), keras.layers.Dense(10, name="dense_1")]
    whole = keras.Sequential([base, keras.layers.Flatten(), *head])
    whole.save(folder / "whole_model.h5", include_optimizer=False)
    sizes = {"train": TRAIN, "val": VAL}
    np.savez(
        folder / "pictures.npz",
        **{f"{side}_data": random.integers(0, 256, (n, 224, 224, 3), np.uint8) for side, n in sizes.items()},
        **{f"{side}_labels": np.eye(10, dtype=np.float32)[random.integers(0, 10, n)] for side, n in sizes.items()},
    )
    return folder, values(base.weights)


@pytest.fixture
def imagenet(readers_files, mirror, monkeypatch):
    """The record `imagenet` with the reader's file in place of the published one."""
    from greffon.weights.sets import WEIGHT_SETS

    record = WEIGHT_SETS["imagenet"]
    source = readers_files[0] / "my_weights.h5"
    published = record.file(include_top=False)
    shutil.copyfile(source, mirror.folder / published.filename)
    content = source.read_bytes()
    file = replace(published, size=len(content), md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(WEIGHT_SETS, "imagenet", replace(record, files=(file,)))
    return file.filename


# The French one has the same code, which a test below shows: it need not run each time.
@pytest.mark.parametrize(
    "document", [ENGLISH, pytest.param(FRENCH, marks=pytest.mark.large)], ids=["english", "french"]
)
def test_runs_as_it_stands_and_what_it_says_is_so(document, readers_files, imagenet, mirror, session_folder):
    folder, saved = readers_files
    for file in folder.iterdir():
        (session_folder / file.name).symlink_to(file)
    session = {"__name__": "__main__"}

    run(document, blocks_of(document), session)

    assert mirror.asked == [f"/{imagenet}"]
    history = session["history"].history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(numbers) == 10 and np.isfinite(numbers).all() for numbers in history.values())
    assert session["history"].greffon.why_not is None
    assert session["history"].greffon.cut == "conv5_block2_out"

    by_hand = values(session["base"].weights)
    moved = {path for path, value in by_hand.items() if not np.array_equal(value, saved[path])}
    assert moved == {path for path in saved if path.startswith("conv5_block3")}, "statistics of BatchNorm included"

    model, same = session["model"], session["same"]
    grafted = values(model.weights)
    original = {path: value for path, value in saved.items() if path != "conv1_conv/kernel"}
    moved = {path for path, value in original.items() if not np.array_equal(value, grafted[path])}
    assert moved == {path for path in saved if path.startswith("conv5_block3") and "moving" not in path}
    pictures = session["val_data"]
    np.testing.assert_array_equal(same.predict(pictures, verbose=0), model.predict(pictures, verbose=0))


def test_both_languages_have_the_same_code():
    assert programs(FRENCH) == programs(ENGLISH)
    assert commands_of(FRENCH) == commands_of(ENGLISH)


def test_what_is_said_of_pooling_is_so():
    import keras

    from greffon.backbone.resnet import resnet

    pooled = resnet((1, 1, 1, 3), pooling="avg", input_shape=(32, 32, 3))
    last = [layer.name for layer in pooled.layers[-10:]]
    assert last[0] == "conv5_block3_1_bn"
    assert isinstance(pooled.layers[-1], keras.layers.GlobalAveragePooling2D)
    averaged = keras.Sequential(
        [keras.Input((7, 7, 2048)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(256)]
    )
    assert averaged.count_params() == 524_544
