from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from greffon.cli import main
from greffon.cli.flags import apply_flags
from greffon.pictures.demo import demo_pictures
from greffon.recipe import RECIPES


class Planner(types.ModuleType):
    """Stands for `greffon.training.plan` and gives a plan that a test wants."""

    def __init__(self):
        super().__init__("greffon.training.plan")
        self.calls = []

    def plan(self, data, **options):
        self.calls.append((data, options))
        options["reporter"].note("measuring")
        return self

    choice = None

    def lines(self, width):
        return ["plan [a]", "> head"]

    def remarks(self):
        return ["a remark"]

    def to_dict(self):
        return {"rows": [], "choice": None}


@pytest.fixture
def planner(monkeypatch):
    planner = Planner()
    monkeypatch.setitem(sys.modules, "greffon.training.plan", planner)
    return planner


def test_flags_change_the_recipe_that_is_planned(planner, capsys):
    words = ["--budget", "10m", "--seconds", "5", "--weights", "thin", "--image-size", "64", "--epochs", "3"]
    assert main(["plan", "photos", *words]) == 0
    [(data, options)] = planner.calls
    assert data == Path("photos")
    options.pop("reporter")
    recipe = apply_flags(RECIPES["default"], {"weights": "thin", "image_size": 64, "epochs": 3})
    assert options == {"recipe": recipe, "budget": "10m", "seconds": 5.0}
    assert capsys.readouterr().out.splitlines() == [
        "measuring", "plan [a]", "> head", "a remark", "to train so, with the flags of its row:",
        "greffon train photos -o RUN --weights thin --image-size 64 --epochs 3",
    ]  # fmt: skip


def test_json_is_all_that_standard_output_holds(planner, capsys):
    assert main(["plan", "photos", "--json"]) == 0
    out, err = capsys.readouterr()
    train = "greffon train photos -o RUN"
    assert json.loads(out) == {"rows": [], "choice": None, "train": train, "command": None}
    assert err == "measuring\n"


def test_the_command_line_is_read_before_anything_heavy_is_loaded(planner, monkeypatch):
    monkeypatch.setattr("greffon.extras.require", lambda *_: None)  # it looks for Keras
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(["plan", "photos", "--batch-size", "16"]) == 0


def test_exit_codes(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "nowhere"), "--weights", "thin"]) == 2
    assert main(["plan", str(tmp_path), "--weights", "thin"]) == 3
    assert main(["plan", str(tmp_path), "--weights", "thin", "--budget", "soon"]) == 2
    assert main(["plan", str(tmp_path), "--weights", "thin", "--budgt", "1m"]) == 2
    assert main(["plan"]) == 2
    assert "budget must be a time above 0 such as 10m" in capsys.readouterr().err


def test_the_whole_way(tmp_path, capsys):
    folder = demo_pictures(tmp_path)
    words = [
        "--weights",
        "thin",
        "--image-size",
        "32",
        "--seconds",
        "1",
        "--budget",
        "1s",
        "--epochs",
        "1",
        "--views=4",
    ]
    assert main(["plan", str(folder), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["choice"] is None
    assert told["why"].startswith("nothing fits into 1.0 s; nearest is head")
    assert {row["name"] for row in told["rows"]} == {"head", "last-block", "conv5", "conv4", "all"}
    assert told["train"] == f"greffon train {folder} -o RUN --weights thin --image-size 32 --epochs 1"
    assert all("--views" in row["flags"] for row in told["rows"])  # as given, or the row's own


def test_a_choice_is_a_whole_command(planner, capsys):
    planner.choice = types.SimpleNamespace(flags="--unfreeze conv5 --views 4")
    asked = {}
    planner.with_flags = lambda given: asked.update(given) or planner
    words = ["--unfreeze", "conv4,!conv4_block1", "--views", "4", "--no-nesterov", "--weights", "my file.h5"]
    assert main(["plan", "my photos", *words]) == 0
    assert asked == {"--unfreeze": "'conv4,!conv4_block1'", "--views": "4"}
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "to train so:",
        "greffon train 'my photos' -o RUN --weights 'my file.h5' --no-nesterov --unfreeze conv5 --views 4",
    ]
