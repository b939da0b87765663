"""The commands one after the other on a real, small training."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from greffon.cli import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes that colour alone tells apart, and a file that is no picture."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, colour in (("blue", (40, 40, 200)), ("rouge \u00e9", (200, 40, 40))):
        (folder / name).mkdir()
        for number in range(12):
            pixels = np.clip(random.normal(colour, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "blue" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """What `greffon train` leaves and says, as a process with everything in a pipe."""
    out = tmp_path_factory.mktemp("runs") / "first"
    words = ["--weights", "thin", "--image-size", "32", "--epochs", "2", "--learning-rate", "0.01", "--json"]
    command = [sys.executable, "-m", "greffon", "train", str(pictures), "-o", str(out), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return out, done


def test_train_gives_json_and_lines_without_noise(run, pictures):
    out, done = run
    summary = json.loads(done.stdout)
    assert summary["run"] == str(out)
    assert 0 <= summary["accuracy"] <= 1
    assert summary["seconds"] > 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stderr)
    assert "broken.png" in done.stderr
    assert "stage 2 of 2: last-block" in done.stderr
    for noise in ("oneDNN", "cuda", "absl", "I0000", "WARNING", "Warning", "\u2501 0s"):
        assert noise not in done.stderr


def test_the_flags_are_in_the_runs_recipe(run):
    from greffon.recipe import Recipe

    recipe = Recipe.from_yaml(run[0] / "recipe.yaml")
    assert (recipe.weights, recipe.image_size) == ("thin", 32)
    assert [(stage.epochs, stage.learning_rate) for stage in recipe.stages] == [(2, 0.001), (2, 0.01)]


def test_predict(run, pictures, capsys):
    assert main(["predict", str(run[0]), str(pictures), "--json"]) == 3  # one of them cannot be read
    found = json.loads(capsys.readouterr().out)
    assert len(found["predictions"]) == 25
    assert found["unreadable"] == 1
    right = [one["label"] in one["path"] for one in found["predictions"] if one["error"] is None]
    assert sum(right) > 12  # better than chance: the colours are far apart


def test_evaluate(run, pictures, capsys, tmp_path):
    table = tmp_path / "table.parquet"
    assert main(["evaluate", str(run[0]), str(pictures), "-o", str(table), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["count"] + found["known"]["train"]["count"] == 24
    assert found["count"] == found["known"]["val"]["count"]
    assert found["is_test"] is False
    assert table.is_file()
    assert main(["evaluate", str(run[0]), str(pictures)]) == 0
    assert "rouge \u00e9" in capsys.readouterr().out


def test_layers(run, capsys):
    assert main(["layers", str(run[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["block"] for row in found["layers"] if row["trains"] == "yes"} == {"", "conv5_block3"}


def test_a_run_is_not_overwritten_unless_asked(run, pictures, capsys):
    assert main(["train", str(pictures), "-o", str(run[0]), "--weights", "thin"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_weights_that_are_not_here_stop_it_at_once(pictures, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert main(["train", str(pictures), "-o", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "greffon weights fetch imagenet" in err
    assert "--weights thin" in err
