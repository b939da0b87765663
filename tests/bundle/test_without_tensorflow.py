"""A fresh environment that has never had TensorFlow or Keras in it answers as the one that trained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import picture
from PIL import Image

import greffon
from greffon.bundle.read import read_bundle
from greffon.errors import InputError
from greffon.extras import EXTRAS

PROJECT = Path(__file__).parents[2]

ANSWERS = """
import importlib.util, json, sys
import greffon
from greffon.bundle.batch import names_of, predict_to_file
from greffon.bundle.verify import check_replays, verify
from greffon.extras import EXTRAS
found = [name for name in EXTRAS["train"] if importlib.util.find_spec(name)]
assert not found, found
run, pictures, out = sys.argv[1:]
predictor = greffon.load(run)
check_replays(verify(run))
result = predict_to_file(predictor, names_of(pictures), out)
try:
    predictor.keras()
except greffon.InputError as error:
    assert 'pip install "greffon[train]"' in str(error), error
print(json.dumps([one.scores for one in predictor.predict(pictures)]))
"""

BLOCKED = """
import sys
from importlib.machinery import PathFinder
from greffon.extras import EXTRAS

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in EXTRAS["train"] else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""What hides the packages of an extra from Python, as if they were not installed."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.fromarray(picture(number)).save(folder / f"{number}.jpg")
    return folder


def _project():
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _blocked(script, folder, *arguments):
    command = [sys.executable, "-c", BLOCKED + script, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _same_scores(printed, run, pictures):
    expected = [one.scores for one in greffon.load(run).predict(pictures)]
    given = json.loads(printed)
    assert [list(scores) for scores in given] == [list(scores) for scores in expected]
    np.testing.assert_allclose(
        [list(scores.values()) for scores in given], [list(one.values()) for one in expected], rtol=0, atol=1e-6
    )


def test_a_missing_keras_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(InputError, match="its Keras model cannot be opened, keras is not installed here: pip install"):
        read_bundle(run).model()


def test_every_extra_that_trains_brings_what_trains():
    extras = _project()["optional-dependencies"]
    for name in ("check", "export", "report", "test"):
        assert any(re.match(r"greffon\[.*\btrain\b", one) for one in extras[name]), name
    base = {re.match(r"[\w.-]+", one)[0].lower() for one in _project()["dependencies"]}
    assert not base & {"keras", "tensorflow", "h5py", "lmdb", "onnx", "safetensors", "scikit-learn", "threadpoolctl"}
    assert extras["predict"] == []


def test_the_table_of_extras_is_that_of_the_package():
    extras = _project()["optional-dependencies"]
    names = {"sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}
    for extra, modules in EXTRAS.items():
        given = {re.match(r"[\w.-]+", one)[0].lower() for one in extras[extra]}
        assert {names.get(module, module.replace("_", "-")) for module in modules} <= given, extra


def test_without_what_trains_a_run_answers_and_verifies(run, pictures, tmp_path):
    done = _blocked(ANSWERS, tmp_path, run, pictures, tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr[-3000:]
    _same_scores(done.stdout, run, pictures)


CALLS = """
from greffon.cli import main
import greffon
run, pictures, model = sys.argv[1:]
for words in (
    ["train", "absent", "-o", "out"], ["demo", "--out", "out"], ["layers", run], ["weights", "inspect", model],
):
    print(words[0], main(words), file=sys.stderr)
for name in ("train", "fit", "graft", "resnet50", "check", "export"):
    try:
        getattr(greffon, name)
    except greffon.InputError as error:
        print(error, isinstance(error, ImportError))
assert main(["predict", run, pictures, "--min-confidence", "0.5"]) == 0
"""


def test_what_trains_says_which_command_installs_it(run, pictures, tmp_path):
    done = _blocked(CALLS, tmp_path, run, pictures, Path(run, "model.keras"))
    assert done.returncode == 0, done.stderr[-3000:]
    for command in ("train", "demo", "layers"):
        assert f"error: greffon {command} needs keras, " in done.stderr
        assert f"{command} 2\n" in done.stderr
    assert done.stderr.count('pip install "greffon[train]"') == 4
    assert "greffon weights needs h5py, which is not installed: pip install" in done.stderr
    for door in ("train", "fit", "graft", "resnet50", "check", "export"):
        assert re.search(rf"greffon\.{door} needs keras, .* are not installed: pip install .* True", done.stdout), door


@pytest.mark.large
def test_a_fresh_environment_without_tensorflow_predicts(run, pictures, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def called(*arguments):
        return subprocess.run(
            [python, *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    def call(*arguments):
        done = called(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    # Whatever cannot be had is a failure below, where the registry answers at all.
    asked = called("-m", "pip", "download", "--quiet", "--no-deps", "--retries=1", "-d", "asked", "hatchling")
    if asked.returncode:
        pytest.skip(f"no package registry answers: {asked.stderr.strip().splitlines()[-1:]}")
    call("-m", "pip", "install", "--quiet", f"{PROJECT}[predict]")
    _same_scores(call("-c", ANSWERS, run, pictures, "answers.csv"), run, pictures)
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").count("\n") == 4
    printed = json.loads(call("-m", "greffon", "predict", run, pictures, "--json"))
    assert len(printed["predictions"]) == 3
    call("-m", "pip", "install", "--quiet", f"{PROJECT}[serve]")
    _serves(python, environment, run, tmp_path)


def _serves(python, environment, run, folder):
    """The service answers in that environment too."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [python, "-m", "greffon", "serve", str(run), "--port", "0"],
            cwd=folder,
            env=environment,
            stderr=log,
            stdout=log,
        )
    try:
        for _ in range(300):
            found = re.search(r"http://127\.0\.0\.1:\d+", (folder / "log").read_text(encoding="utf-8"))
            if found or server.poll() is not None:
                break
            time.sleep(0.1)
        assert found, (folder / "log").read_text(encoding="utf-8")
        with urllib.request.urlopen(f"{found[0]}/v2/health/ready", timeout=30) as answer:
            assert answer.status == 200
    finally:
        server.terminate()
        server.wait(30)
