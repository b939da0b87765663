from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import polars as pl
import pytest
from made_up_runs import NAMES, contents_of, grafted

import greffon
from greffon.backbone.freeze import trainable_state
from greffon.bundle.read import read_bundle
from greffon.bundle.write import weights_digest, write_bundle
from greffon.errors import InputError
from greffon.weights.sets import PREPROCESSINGS, Preprocessing


def test_what_was_written_comes_back(run, model):
    written, bundle = contents_of(model), read_bundle(run)
    assert bundle.class_names == tuple(NAMES)
    assert bundle.recipe == written.recipe
    assert bundle.split.equals(written.split)
    assert bundle.history.equals(written.history)  # floats to the last bit
    assert bundle.history.schema == written.history.schema
    assert bundle.table.equals(written.validation)
    assert bundle.notes == ["Two pictures are few"]
    assert bundle.record["trunk"] == {"pictures": 2}
    assert bundle.preprocessing.name == "open_nsfw"
    assert bundle.preprocessing.channel_order == "BGR"
    assert (bundle.preprocessing.size, bundle.preprocessing.resize) == (64, "crop")
    assert not bundle.several_labels
    assert bundle.earlier.is_empty() and set(bundle.known.values()) <= {"train", "val"}


def test_the_model_comes_back_with_the_flags_of_single_variables(run, model):
    again = read_bundle(run).model()
    assert weights_digest(again) == weights_digest(model)
    assert trainable_state(again) == trainable_state(model)
    assert again.get_layer("conv5_block1_1_bn").gamma.trainable
    assert not keras.models.load_model(run / "model.keras").get_layer("conv5_block1_1_bn").gamma.trainable
    assert again.greffon_freeze == model.greffon_freeze
    assert [v.path for v in again.trainable_variables] == [v.path for v in model.trainable_variables]


@pytest.mark.parametrize(
    "record", [None, "none", "caffe", Preprocessing("mine", channel_order="BGR", mean=(1.0, 2.0, 3.0), scale=0.5)]
)
def test_every_preprocessing_comes_back(tmp_path, record):
    import logging

    logging.getLogger("greffon").setLevel(logging.ERROR)
    model = grafted(preprocessing=record)
    before = pl.DataFrame({"hash": ["old", "seen", "h1", "h2"], "split": ["train", "val", "val", "train"]})
    bundle = read_bundle(write_bundle(tmp_path / "run", contents_of(model, resize="pad", earlier=before)))
    assert bundle.known == {"h1": "train", "h2": "train", "old": "train", "seen": "val"}
    assert (bundle.preprocessing.size, bundle.preprocessing.resize) == (64, "pad")
    if isinstance(record, Preprocessing):
        assert bundle.preprocessing.name == "mine"
        assert bundle.preprocessing.mean == (2.0, 4.0, 6.0)  # as the layer applies it, with scale 1
    else:
        assert bundle.preprocessing.mean == PREPROCESSINGS[record or "none"].mean


def test_nothing_heavy_is_loaded_to_read(run):
    script = (
        "import sys\n"
        "from greffon.bundle.read import read_bundle\n"
        "bundle = read_bundle(sys.argv[1])\n"
        "bundle.record, bundle.class_names\n"
        "heavy = {'tensorflow', 'keras', 'onnxruntime', 'polars', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script, str(run)], check=True)


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(InputError, match=r"is no run of greffon: .*there is no such folder"):
        read_bundle(tmp_path / "absent")
    with pytest.raises(InputError, match=r"it is a file; give the folder"):
        read_bundle(run / "model.keras")
    with pytest.raises(InputError, match=r"a folder in it has one: .*first"):
        read_bundle(run.parent)
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        read_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text(
        '{"kind": "keras run", "format_version": 1, "greffon": "0.1.0", "files": {}}'
    )
    with pytest.raises(InputError, match="must be a run of greffon, got 'keras run'"):
        read_bundle(tmp_path)


def test_a_newer_format_is_refused_with_what_to_do(copied_run):
    manifest = json.loads((copied_run / "manifest.json").read_text())
    (copied_run / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99, "greffon": "7.0"}))
    with pytest.raises(InputError, match=r"written by greffon 7\.0 \(format 99\).*Install a newer greffon"):
        read_bundle(copied_run)


@pytest.mark.parametrize("name", ["model.keras", "classes.json", "split.parquet"])
def test_a_missing_file_is_named(copied_run, name):
    (copied_run / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing; copy the run again"):
        read_bundle(copied_run)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("classes.json", lambda bundle: bundle.class_names),
        ("preprocessing.json", lambda bundle: bundle.preprocessing),
        ("model.keras", lambda bundle: bundle.model()),
        ("freeze.json", lambda bundle: bundle.model()),
        ("recipe.yaml", lambda bundle: bundle.recipe),
        ("history.csv", lambda bundle: bundle.history),
        ("split.parquet", lambda bundle: bundle.split),
        ("validation.parquet", lambda bundle: bundle.table),
        ("run.json", lambda bundle: bundle.record),
    ],
)
def test_a_changed_file_is_refused_by_name(copied_run, name, use):
    content = bytearray((copied_run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied_run / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not the file that training wrote.*Put the original back"):
        use(read_bundle(copied_run))


def test_an_exchanged_model_is_refused(copied_run):
    grafted(seed=1).save(copied_run / "model.keras")
    with pytest.raises(InputError, match=r"model\.keras is not the file that training wrote"):
        greffon.load(copied_run).keras()


def test_an_exchanged_or_missing_onnx_file_is_refused(copied_run):
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    (copied_run / "model.onnx").write_bytes((copied_run / "model.onnx").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"model\.onnx is not the file that training wrote"):
        greffon.load(copied_run).predict(pictures)
    (copied_run / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"model\.onnx is missing"):
        greffon.load(copied_run).predict(pictures)


class UnknownHead(keras.layers.Layer):
    """Not registered: Keras has to be told of it."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, x):
        return keras.ops.softmax(x @ self.kernel)


def test_a_head_of_the_users_own_is_opened_with_its_class(tmp_path):
    model = grafted(head=greffon.Head(layer=UnknownHead(name="own")))
    bundle = read_bundle(write_bundle(tmp_path / "run", contents_of(model)))
    with pytest.raises(InputError, match=r"cannot be opened: .*UnknownHead.*custom_objects"):
        bundle.model()
    again = bundle.model(custom_objects={"UnknownHead": UnknownHead})
    assert weights_digest(again) == weights_digest(model)
    picture = np.full((1, 64, 64, 3), 100.0, np.float32)
    np.testing.assert_allclose(again(picture), model(picture), atol=1e-6)


def test_a_training_that_has_not_ended_is_named_with_the_way_to_go_on(tmp_path):
    left = tmp_path / "my run.partial"
    left.mkdir()
    (left / "job.json").write_text("{}")
    for name in ("my run", "my run.partial"):
        with pytest.raises(InputError, match=r"my run is no run yet: .*my run\.partial") as refused:
            read_bundle(tmp_path / name)
        assert f"greffon train --resume '{tmp_path}/my run'" in str(refused.value)
    with pytest.raises(InputError, match="there is no such folder"):
        read_bundle(tmp_path / "other")
    (tmp_path / "my run").mkdir()
    with pytest.raises(InputError, match="is no run of greffon: it has no manifest"):
        read_bundle(tmp_path / "my run")
