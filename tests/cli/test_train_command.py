from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from greffon.cli import main
from greffon.cli.flags import apply_flags
from greffon.recipe import RECIPES, Head, Recipe, Stage


def called(job):
    [(data, options)] = job.calls
    return data, options


def test_without_flags_the_default_recipe_is_trained(job):
    assert main(["train", "photos", "-o", "runs/first"]) == 0
    data, options = called(job)
    assert data == "photos"
    assert options.pop("reporter").console.stderr is False
    nothing = dict.fromkeys(("columns", "split", "manifest"))
    assert options == {"recipe": Recipe(), "out": Path("runs/first"), "overwrite": False, **nothing}


def test_columns_split_and_manifest_are_handed_on(job):
    words = ["--column", "path=file", "--column", "label=cat,dog", "--split", "old.parquet", "--manifest", "m.csv"]
    assert main(["train", "labels.csv", "-o", "run", *words]) == 0
    _, options = called(job)
    assert (options["columns"].path, options["columns"].label) == ("file", ("cat", "dog"))
    assert (options["split"], options["manifest"]) == (Path("old.parquet"), Path("m.csv"))


@pytest.mark.parametrize(("word", "said"), [("file", "WHAT=COLUMN"), ("lable=x", "did you mean 'label'")])
def test_a_column_that_is_none(job, capsys, word, said):
    assert main(["train", "labels.csv", "-o", "run", "--column", word]) == 2
    assert said in capsys.readouterr().err


def test_flags_change_the_recipe_that_is_named(job):
    words = ["--recipe", "tutorial", "--epochs", "2", "--weights", "thin", "--unfreeze", "conv5,!*_bn"]
    assert main(["train", "photos", "--out", "run", "--overwrite", *words]) == 0
    _, options = called(job)
    changes = {"epochs": 2, "weights": "thin", "unfreeze": ["conv5", "!*_bn"]}
    assert options["recipe"] == apply_flags(RECIPES["tutorial"], changes)
    assert options["recipe"].stages[0].unfreeze == ("conv5", "!*_bn")
    assert options["overwrite"] is True


def test_a_recipe_file_and_flags(job, tmp_path):
    file = tmp_path / "mine.yaml"
    recipe = Recipe(head=Head(pool="max"), stages=(Stage(name="only", epochs=7, patience=None),))
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert main(["train", "photos", "-o", "run", "--recipe", str(file), "--no-keep-best"]) == 0
    assert called(job)[1]["recipe"] == apply_flags(recipe, {"keep_best": False})


def test_json_is_all_that_standard_output_holds(job, capsys):
    def does():
        job.calls[0][1]["reporter"].note("working")
        return type("Run", (), {"path": Path("run"), "summary": {"accuracy": np.float32(0.5), "loss": float("nan")}})

    job.does = does
    assert main(["train", "photos", "-o", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"run": "run", "accuracy": 0.5, "loss": None}
    assert err == "working\n"


def test_without_json_standard_output_is_the_jobs(job, capsys):
    job.does = lambda: job.calls[0][1]["reporter"].note("working")
    assert main(["train", "photos", "-o", "run"]) == 0
    assert capsys.readouterr() == ("working\n", "")


def test_the_command_line_is_read_before_anything_heavy_is_loaded(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(["train", "photos", "-o", "run", "--pool", "max"]) == 0
