"""A fresh environment that has never had TensorFlow or Keras in it answers as the one that trained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import picture
from PIL import Image

import greffon
from greffon.bundle.read import read_bundle
from greffon.errors import InputError

PROJECT = Path(__file__).parents[2]

TRAINING_ONLY = {"h5py", "keras", "lmdb", "onnx", "safetensors", "scikit-learn", "tensorflow"}
"""What `pip install greffon` brings and predicting does not need."""

SCRIPT = """
import importlib.util, json, sys
import greffon
from greffon.bundle.batch import names_of, predict_to_file
from greffon.bundle.verify import check_replays, verify
assert not any(importlib.util.find_spec(name) for name in ("tensorflow", "keras", "torch", "jax"))
run, pictures, out = sys.argv[1:]
predictor = greffon.load(run)
check_replays(verify(run))
result = predict_to_file(predictor, names_of(pictures), out)
try:
    predictor.keras()
except greffon.InputError as error:
    assert "keras is not installed" in str(error), error
print(json.dumps([one.scores for one in predictor.predict(pictures)]))
"""


def _name(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


def light_dependencies():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [requirement for requirement in project["dependencies"] if _name(requirement) not in TRAINING_ONLY]


def test_a_missing_keras_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(InputError, match="its Keras model cannot be opened, keras is not installed here"):
        read_bundle(run).model()


@pytest.mark.large
def test_a_fresh_environment_without_tensorflow_predicts(run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(pictures / f"{number}.jpg")
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def call(*arguments):
        done = subprocess.run(
            [python, *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    call("-m", "pip", "install", "--quiet", *light_dependencies())
    call("-m", "pip", "install", "--quiet", "--no-deps", PROJECT)
    expected = [[one.scores[name] for name in one.scores] for one in greffon.load(run).predict(pictures)]
    given = json.loads(call("-c", SCRIPT, run, pictures, "answers.csv"))
    np.testing.assert_allclose([list(scores.values()) for scores in given], expected, rtol=0, atol=1e-6)
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").count("\n") == 4
    printed = json.loads(call("-m", "greffon", "predict", run, pictures, "--json"))
    assert len(printed["predictions"]) == 3
