from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from greffon.cli import main
from greffon.evaluation import evaluate as room
from greffon.evaluation.measures import measure
from greffon.evaluation.table import prediction_table
from greffon.recipe import Recipe

SUMMARY = {"accuracy": 0.8, "seconds": 95.0, "seconds_saved": 1800.0}


@pytest.fixture
def trained(job, monkeypatch, tmp_path):
    """A demo whose training and test are over at once; `trained.right` of 100 test pictures are."""
    monkeypatch.chdir(tmp_path)
    trained = SimpleNamespace(job=job, right=81, asked=None, summary=SUMMARY)
    job.does = lambda: SimpleNamespace(path=Path("greffon-demo") / "run", summary=trained.summary)

    def evaluate(run, data, *, side, progress):
        trained.asked = (run, data, side)
        rows = np.array([[1.0, 0.0]] * trained.right + [[0.0, 1.0]] * (100 - trained.right))
        paths = [f"{number}.png" for number in range(100)]
        table = prediction_table(paths, [None] * 100, ["bag"] * 100, rows, ["bag", "coat"])
        return SimpleNamespace(measures=measure(table))

    monkeypatch.setattr(room, "evaluate", evaluate)
    return trained


def test_the_demo_trains_on_its_pictures_and_tests_on_the_others(trained, capsys):
    assert main(["demo"]) == 0
    [(data, options)] = trained.job.calls
    assert len(list(data.glob("train/*/*.png"))) == 600
    assert len(list(data.glob("test/*/*.png"))) == 400
    assert options["recipe"] == Recipe(weights="thin")
    assert options["overwrite"] is True
    assert options["out"] == Path("greffon-demo") / "run"
    assert trained.asked == (Path("greffon-demo") / "run", data, "test")
    out, err = capsys.readouterr()
    assert "accuracy 0.810 (95 % interval" in out
    assert "0.75 to 0.87" in out
    assert "1 min 35 s" in out
    assert "30 min 00 s" in out
    assert "greffon train PICTURES -o runs/first" in out
    assert err == ""


def test_a_second_demo_goes_on_in_the_same_folder_and_says_so(trained, capsys):
    assert main(["demo", "-o", "here"]) == 0
    assert "replacing" not in capsys.readouterr().out
    run = Path("here") / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"root": str(Path("here", "fashion-mnist").resolve())}))
    (Path("here") / "run.html").write_text("a report of it")
    assert main(["demo", "-o", "here"]) == 0
    assert "replacing the run of an earlier demo in here" in capsys.readouterr().out
    assert [call[0] for call in trained.job.calls] == [Path("here") / "fashion-mnist"] * 2


@pytest.mark.parametrize(
    "files", [{"notes.txt": ""}, {"run/run.json": "{}"}, {"fashion-mnist/a": "", "run/run.json": "[]"}]
)
def test_another_folder_is_not_taken_for_a_demo(trained, capsys, files):
    for name, text in files.items():
        place = Path("mine") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    assert main(["demo", "-o", "mine"]) == 2
    assert "is no folder of an earlier demo: give another one with -o" in capsys.readouterr().err
    assert not trained.job.calls


@pytest.mark.parametrize("right", [74, 88])
def test_an_accuracy_outside_the_range_is_said(trained, capsys, right):
    trained.right = right
    assert main(["demo", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["test"]["accuracy"] == right / 100
    assert "outside the range" in err


def test_json(trained, capsys):
    assert main(["demo", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["test"]["accuracy"] == 0.81
    assert found["expected_accuracy"] == [0.75, 0.87]
    assert found["training"] == SUMMARY
    assert err == ""


def test_without_a_measured_speed_nothing_is_claimed(trained, capsys):
    trained.summary = SUMMARY | {"seconds_saved": None}
    assert main(["demo"]) == 0
    assert "would have cost" not in capsys.readouterr().out
