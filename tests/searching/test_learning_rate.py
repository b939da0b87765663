"""The door of the range test, and its command."""

from __future__ import annotations

import json

import polars as pl
import pytest

from greffon.cli.app import main
from greffon.errors import InputError
from greffon.recipe import Head, Recipe, Stage
from greffon.searching.learning_rate import find_learning_rate, stage_to_test

SMALL = ["--weights", "thin", "--image-size", "32", "--near-copies", "ignore", "--pool", "avg", "--hidden", "8"]


def test_which_stage_is_tested():
    recipe = Recipe(head=Head(hidden=8), stages=[Stage(name="head"), Stage(name="deeper", unfreeze="conv5")])
    assert stage_to_test(recipe, None).name == "deeper"
    assert stage_to_test(recipe, "head").name == "head"
    with pytest.raises(InputError, match="did you mean 'deeper'"):
        stage_to_test(recipe, "deper")
    solved = Recipe(stages=[Stage(name="probe", optimizer="lbfgs")])
    with pytest.raises(InputError, match="solved"):
        stage_to_test(solved, None)
    with pytest.raises(InputError, match="solved"):
        stage_to_test(Recipe(), "probe")


def test_rates_are_looked_at_before_any_picture(tmp_path):
    with pytest.raises(InputError, match="learning rates must go"):
        find_learning_rate(tmp_path / "missing", lowest=1.0, highest=0.1)


def test_the_command_writes_curve_and_table(pictures, tmp_path, capsys):
    plot, table = tmp_path / "rates.svg", tmp_path / "rates.csv"
    words = ["lr", str(pictures), *SMALL, "--unfreeze", "none", "--stage", "probe", "--json"]
    assert main([*words, "--plot", str(plot), "--table", str(table), "--steps", "40"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stage"] == "probe"
    assert len(pl.read_csv(table)) == len(found["losses"]) >= 10
    assert "<svg" in plot.read_text()


def test_files_of_other_kinds_are_refused_at_once(pictures, tmp_path, capsys):
    assert main(["lr", str(pictures), "--plot", str(tmp_path / "rates.pdf")]) == 2
    assert ".png or .svg" in capsys.readouterr().err


def test_a_budget_is_needed(pictures, capsys):
    assert main(["tune", str(pictures)]) == 2
    assert "--budget" in capsys.readouterr().err


def test_what_is_suggested_is_a_whole_command(monkeypatch, capsys):
    import types

    from greffon.searching import learning_rate
    from greffon.searching.learning_rate import LearningRate

    stage, curve = [""], types.SimpleNamespace(suggestion=0.00123)
    monkeypatch.setattr(learning_rate, "find_learning_rate", lambda *_, **__: LearningRate(stage[0], curve, "adam", 32))
    words = ["lr", "my photos", *SMALL, "--learning-rate", "1e-4", "--column", "label=kind"]
    stage[0] = "probe"  # with hidden units no head is solved
    assert main(words) == 0
    small = " ".join(SMALL)
    whole = f"greffon train 'my photos' -o RUN --column label=kind {small} --learning-rate 1.2e-03"
    assert capsys.readouterr().out.splitlines()[-1] == whole
    stage[0] = "last-block"
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "in a recipe file: learning_rate: 1.2e-03 for the stage 'last-block'"
