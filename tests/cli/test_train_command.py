from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from greffon.cli import main
from greffon.cli.flags import apply_flags
from greffon.recipe import RECIPES, Head, Recipe, Stage
from greffon.training.interrupts import InterruptedTraining


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


def test_pictures_are_left_out_of_the_run_where_asked(job, capsys):
    assert main(["train", "photos", "-o", "run", "--no-pictures"]) == 0
    assert called(job)[1]["pictures"] is False
    assert main(["train", "--resume", "run", "--no-pictures"]) == 2
    assert "--no-pictures" in capsys.readouterr().err


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
    monkeypatch.setattr("greffon.extras.require", lambda *_: None)  # it looks for Keras
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(["train", "photos", "-o", "run", "--pool", "max"]) == 0


def test_what_resume_and_reproduce_take(job, capsys, monkeypatch):
    went_on, again = [], []
    answer = types.SimpleNamespace(path=Path("run"), summary={"accuracy": 0.5})
    monkeypatch.setitem(
        sys.modules,
        "greffon.training.resume",
        types.SimpleNamespace(resume=lambda run, **options: went_on.append((run, options)) or answer),
    )
    found = types.SimpleNamespace(same=False, to_dict=lambda: {"same": False})
    monkeypatch.setitem(
        sys.modules,
        "greffon.training.reproduce",
        types.SimpleNamespace(reproduce=lambda run, **options: again.append((run, options)) or found),
    )
    assert main(["train", "--resume", "runs/first", "--json"]) == 0
    assert went_on[0][0] == Path("runs/first") and json.loads(capsys.readouterr().out)["accuracy"] == 0.5
    assert main(["train", "--reproduce", "runs/first", "-o", "again", "--json"]) == 4
    assert again[0][0] == Path("runs/first") and again[0][1]["out"] == Path("again")
    assert json.loads(capsys.readouterr().out) == {"same": False}
    assert not job.calls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume", "run", "-o", "other"], "--out"),
        (["photos", "--resume", "run"], "DATA"),
        (["--resume", "run", "--epochs", "3", "--no-keep-best"], "leave --epochs, --no-keep-best out"),
        (["--resume", "run", "--recipe", "tutorial"], "leave --recipe out"),
        (["--reproduce", "run", "--seed", "3"], "from the run's record: leave --seed out"),
        (["--reproduce", "run", "--resume", "run"], "--resume"),
        (["-o", "run"], "needs DATA"),
        (["photos"], "needs --out or -o"),
    ],
)
def test_what_does_not_go_together(job, capsys, words, said):
    assert main(["train", *words]) == 2
    assert said in capsys.readouterr().err
    assert not job.calls


@pytest.mark.parametrize("number", [2, 15])
def test_an_interrupted_training_has_the_exit_code_of_its_signal(job, capsys, number):
    def stop():
        raise InterruptedTraining(number)

    job.does = stop
    assert main(["train", "photos", "-o", "run"]) == 128 + number
    assert "interrupted" in capsys.readouterr().err


def test_an_interrupted_training_says_which_trackers_to_give_again(job, capsys, tmp_path):
    def stop():
        raise InterruptedTraining(2)

    job.does = stop
    folder = tmp_path / "my board"
    assert main(["train", "photos", "-o", "run", "--tensorboard", str(folder)]) == 130
    assert f"interrupted; give --tensorboard '{folder}' again with --resume" in capsys.readouterr().err


def test_checkpoints_are_asked_for(job):
    assert main(["train", "photos", "-o", "run", "--checkpoint-every", "0"]) == 0
    assert called(job)[1]["checkpoint_every"] == 0.0


def test_every_epoch_goes_to_tensorboard(job, tmp_path):
    """True numbers over all stages, in event files as TensorBoard reads them."""
    import tensorflow as tf

    def train(data, *, reporter, **options):
        for index, stage in enumerate(("probe", "block"), start=1):
            reporter.stage(stage, index, 2)
            for epoch in (1, 2):
                reporter.epoch(stage, epoch, 2, {"loss": 1.0 / (10 * index + epoch), "val_loss": 0.5}, True)
        return types.SimpleNamespace(path=Path("run"), summary={"accuracy": 0.5})

    job.train = train
    assert main(["train", "photos", "-o", "run", "--tensorboard", str(tmp_path / "tb")]) == 0
    [file] = (tmp_path / "tb" / "train").iterdir()
    seen = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            if value.tag == "epoch_loss":
                seen[event.step] = float(tf.make_ndarray(value.tensor))
    assert seen == pytest.approx({1: 1 / 11, 2: 1 / 12, 3: 1 / 21, 4: 1 / 22})


def test_every_epoch_goes_to_mlflow(job, tmp_path):
    sqlite3 = pytest.importorskip("sqlite3")
    pytest.importorskip("mlflow")

    def train(data, *, reporter, **options):
        reporter.stage("probe", 1, 2)
        reporter.epoch("probe", 1, 1, {"val_loss": 0.5}, True)
        reporter.stage("block", 2, 2)
        reporter.epoch("block", 1, 1, {"val_loss": 0.25}, True)
        return types.SimpleNamespace(path=Path("run"), summary={"accuracy": 0.5})

    job.train = train
    assert main(["train", "photos", "-o", "first", "--mlflow", str(tmp_path)]) == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute("select step, value from metrics where key = 'val_loss' order by step").fetchall()
        assert rows == [(1, 0.5), (2, 0.25)]
        assert database.execute("select name from runs").fetchall() == [("first",)]
