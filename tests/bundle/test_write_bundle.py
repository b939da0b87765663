from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import polars as pl
import pytest
from made_up_runs import NAMES, contents_of, grafted

import greffon
from greffon.bundle.read import read_bundle
from greffon.bundle.write import check_model, is_run, weights_digest, write_bundle
from greffon.errors import InputError
from greffon.evaluation.table import prediction_table
from greffon.pictures.split import read_split

FILES = [
    "README.md",
    "classes.json",
    "contract.json",
    "freeze.json",
    "history.csv",
    "left_out.csv",
    "manifest.json",
    "model.keras",
    "model.onnx",
    "preprocessing.json",
    *[f"probes/{number}.png" for number in range(1, 9)],
    "recipe.yaml",
    "run.json",
    "split.parquet",
    "validation.parquet",
]


def _json(run, name):
    return json.loads((run / name).read_text(encoding="utf-8"))


def test_a_run_holds_everything(run, model):
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()) == FILES
    assert [path.name for path in run.parent.iterdir()] == ["first"]
    assert is_run(run)
    assert not is_run(run.parent)
    assert _json(run, "classes.json") == {"class_names": NAMES, "several_labels": False}
    prepare = _json(run, "preprocessing.json")
    assert (prepare["resize"], prepare["size"], prepare["inside_model"]["name"]) == ("crop", 64, "open_nsfw")
    record = _json(run, "run.json")
    assert record["trunk"] == {"pictures": 2}
    assert record["seconds"] == {"trunk": 1.5}
    assert record["notes"] == ["Two pictures are few"]
    assert record["weights_sha256"] == weights_digest(model)
    assert {"greffon", "keras", "tensorflow", "onnxruntime", "python", "platform", "keras_backend"} <= set(
        record["versions"]
    )
    assert _json(run, "freeze.json")["rules"] == {"unfreeze": ["conv5_block1"], "batch_norm": "frozen"}


def test_the_manifest_has_the_hash_of_every_file(run):
    manifest = _json(run, "manifest.json")
    assert (manifest["kind"], manifest["format_version"]) == ("greffon run", 1)
    assert sorted(manifest["files"]) == [name for name in FILES if name != "manifest.json"]
    for name, file in manifest["files"].items():
        content = (run / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_json_is_utf8_sorted_and_ends_with_a_line(run):
    for path in run.glob("*.json"):
        text = path.read_bytes().decode("utf-8")
        assert text == json.dumps(json.loads(text), ensure_ascii=False, sort_keys=True, indent=2) + "\n"
    assert "🦉" in (run / "classes.json").read_text(encoding="utf-8")


def test_plain_keras_opens_the_model_without_greffon(run, model, tmp_path):
    pictures = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "pictures.npy", pictures)
    script = (
        "import sys, keras, numpy\n"
        "model = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "assert not model.compiled and getattr(model, 'optimizer', None) is None\n"
        "numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2]), verbose=0))\n"
        "assert not any(name.split('.')[0] == 'greffon' for name in sys.modules)\n"
    )
    files = [run / "model.keras", tmp_path / "pictures.npy", tmp_path / "answers.npy"]
    subprocess.run([sys.executable, "-c", script, *map(str, files)], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(files[2]), model.predict(pictures, verbose=0), atol=1e-6)


def test_a_compiled_model_is_saved_without_its_optimizer_and_stays_compiled(tmp_path):
    model = grafted()

    @keras.saving.register_keras_serializable("not in plain keras")
    def own_loss(y, p):
        return keras.ops.mean(p, axis=-1)

    model.compile("adam", own_loss)
    x = np.zeros((2, 64, 64, 3), np.float32)
    model.fit(x, np.eye(3)[:2], verbose=0)
    write_bundle(tmp_path / "run", contents_of(model))
    assert model.compiled
    assert not keras.models.load_model(tmp_path / "run" / "model.keras").compiled
    steps = int(model.optimizer.iterations)
    model.fit(x, np.eye(3)[:2], verbose=0)
    assert int(model.optimizer.iterations) == steps + 1


def test_the_digest_names_the_numbers(run, model):
    again = keras.models.load_model(run / "model.keras")
    assert weights_digest(again) == weights_digest(model)
    again.weights[0].assign(again.weights[0] + 1e-6)
    assert weights_digest(again) != weights_digest(model)


def test_equal_contents_give_equal_files(run, model, tmp_path):
    again = write_bundle(tmp_path / "again", contents_of(model))
    for name in set(FILES) - {"run.json", "manifest.json", "model.keras"}:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_an_existing_run_stays_unless_asked(copied_run, model):
    before = (copied_run / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        write_bundle(copied_run, contents_of(model))
    assert (copied_run / "manifest.json").read_bytes() == before
    write_bundle(copied_run, contents_of(model, notes=["another"]), overwrite=True)
    assert _json(copied_run, "run.json")["notes"] == ["another"]


def test_a_place_taken_meanwhile_costs_no_training(copied_run, model, caplog):
    with caplog.at_level(logging.WARNING, "greffon"):
        place = write_bundle(copied_run, contents_of(model), if_taken="beside")
    assert place == copied_run.with_name("copied-2")
    assert is_run(place)


def _killed_after(tmp_path, step):
    """Kill a process that writes a run once `step` (a function of the module) has been done."""
    script = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"  # noqa: PTH120  # as text, for the script
        "from made_up_runs import contents_of, grafted\n"
        "from greffon.bundle import write, folder\n"
        "def stop(function):\n"
        "    def stopping(*args, **kwargs):\n"
        "        function(*args, **kwargs)\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(600)\n"
        "    return stopping\n"
        f"{step[0]}.{step[1]} = stop({step[0]}.{step[1]})\n"
        "write.write_bundle(sys.argv[1], contents_of(grafted()))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="killed processes are told by their number")
@pytest.mark.parametrize("step", [("write", "_save_model"), ("folder", "write_manifest")])
def test_a_process_killed_in_the_middle_leaves_no_run(tmp_path, model, step):
    _killed_after(tmp_path, step)
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.endswith(".part")
    assert not (tmp_path / "run").exists()
    write_bundle(tmp_path / "run", contents_of(model))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert is_run(tmp_path / "run")


@keras.saving.register_keras_serializable("test")
class OwnHead(keras.layers.Layer):
    def __init__(self, classes, **options):
        super().__init__(**options)
        self.classes = classes
        self.dense = keras.layers.Dense(classes, activation="softmax", name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


class Forgetful(keras.layers.Layer):
    """Cannot tell its argument."""

    def __init__(self, squash, **options):
        super().__init__(**options)
        self.squash = squash

    def call(self, x):
        return x


def test_a_head_of_the_users_own_is_said(tmp_path):
    head = greffon.Head(layer=OwnHead(3, name="own"))
    model = grafted(head=head)
    (note,) = check_model(model)
    assert re.search(r"OwnHead \(.*test_write_bundle\).*custom_objects", note)
    recipe = greffon.Recipe(weights="thin", image_size=64, head=head)
    run = write_bundle(tmp_path / "run", contents_of(model, recipe=recipe))
    notes = _json(run, "run.json")["notes"]
    assert note in notes
    assert any("recipe.yaml alone cannot repeat" in line for line in notes)
    again = keras.models.load_model(run / "model.keras", custom_objects={"OwnHead": OwnHead})
    assert weights_digest(again) == weights_digest(model)


def test_a_layer_that_cannot_be_made_again_is_refused_before_training():
    with pytest.raises(InputError, match=r"'own' \(Forgetful\) cannot be saved and made again.*get_config"):
        check_model(keras.Sequential([keras.Input((4,)), Forgetful(object(), name="own")]))


@pytest.mark.parametrize("function", [lambda x: x * 2, keras.ops.relu])
def test_a_lambda_is_refused_before_training(function):
    with pytest.raises(InputError, match=r"'twice' holds a lambda.*safe mode"):
        check_model(keras.Sequential([keras.Input((4,)), keras.layers.Lambda(function, name="twice")]))


def test_a_lambda_inside_a_layer_is_refused_too():
    with pytest.raises(InputError, match="holds a lambda"):
        check_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=lambda x: x, name="d")]))


@keras.saving.register_keras_serializable("test")
def own_activation(x):
    return keras.ops.tanh(x)


def test_a_function_of_the_users_own_is_said():
    (note,) = check_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=own_activation)]))
    assert "the function test>own_activation" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["cat", "dog"]}, r"one value for each of 2 classes, its output is \(None, 3\)"),
        ({"class_names": ["cat", "cat", "dog"]}, "must differ"),
        ({"class_names": ["dog", "cat", "owl 🦉"]}, "the validation table must have the classes"),
        ({"image_size": 224}, "image_size must be the model's input, 64 pixels, got 224"),
        ({"split": pl.DataFrame({"path": ["a"]})}, "the split must have the columns .*; hash, label, split is missing"),
        (
            {"split": pl.DataFrame({"path": ["a"], "hash": ["h"], "label": ["cat"], "split": [""]})},
            "must be on one of its sides train, val and test",
        ),
        ({"history": pl.DataFrame({"loss": [1.0]})}, "the history must have the columns .*; stage, epoch is missing"),
        ({"record": {"what": object()}}, "a record holds plain values"),
    ],
)
def test_contents_that_do_not_belong_together_are_refused(tmp_path, model, change, message):
    with pytest.raises(InputError, match=message):
        write_bundle(tmp_path / "run", contents_of(model, **change))
    assert list(tmp_path.iterdir()) == []


def test_files_that_were_left_out_are_listed_apart(tmp_path, model):
    rows = [
        ("cat/1.png", "h1", "cat", "train", "ok", ""),
        ("cat/2.png", "h2", "cat", "val", "ok", ""),
        ("cat/3.png", "", "cat", "", "quarantined", 'is empty (0 bytes), "so" it says\nand more'),
    ]
    split = pl.DataFrame(rows, schema=["path", "hash", "label", "split", "state", "reason"], orient="row")
    run = write_bundle(tmp_path / "run", contents_of(model, split=split))
    assert read_split(run / "split.parquet")["hash"].to_list() == ["h1", "h2"]
    bundle = read_bundle(run)
    assert bundle.split.columns == ["path", "hash", "label", "split"]
    assert bundle.left_out.rows() == [(rows[2][0], *rows[2][4:])]


def test_where_the_weights_came_from_is_written_down(tmp_path):
    backbone = greffon.resnet50(weights="thin", input_shape=(64, 64, 3))
    record = _json(write_bundle(tmp_path / "run", contents_of(greffon.graft(backbone, 3))), "run.json")
    source = record["weights_source"]
    assert (source["weights"], source["variant"]) == ("thin", "thin")
    assert source["sha256"] == backbone.greffon_weights.sha256
    assert source["preprocessing"]["name"] == "open_nsfw"


def test_several_labels_are_written_down(tmp_path):
    model = grafted(head=greffon.Head(output="sigmoid"))
    table = prediction_table(["a"], ["h2"], [["cat"]], np.full((1, 3), 0.5), NAMES, several_labels=True)
    run = write_bundle(tmp_path / "run", contents_of(model, validation=table))
    assert _json(run, "classes.json")["several_labels"] is True
