from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from greffon.cli import main
from greffon.errors import DataError
from greffon.evaluation import evaluate as room


@pytest.fixture
def evaluated(monkeypatch):
    """What the evaluation was asked for."""
    asked = SimpleNamespace(run=None, data=None, options=None)

    class Found:
        def to_dict(self):
            return {"accuracy": 0.75, "log_loss": float("nan"), "notes": ["one"]}

        def __rich__(self):
            return "accuracy 0.750 \\[x]"

    def evaluate(run, data, *, progress, **options):
        asked.run, asked.data, asked.options = str(run), str(data), options
        with progress.bar("evaluate", total=1) as advance:
            advance(1)
        return Found()

    monkeypatch.setattr(room, "evaluate", evaluate)
    return asked


def test_the_measures_are_shown_and_progress_is_not_among_them(evaluated, capsys):
    assert main(["evaluate", "run", "photos"]) == 0
    assert (evaluated.run, evaluated.data) == ("run", "photos")
    assert evaluated.options == {
        "columns": None,
        "out": None,
        "side": "auto",
        "allow_missing": False,
        "folds": None,
        "baselines": None,
        "min_confidence": None,
        "max_error": None,
    }
    out, err = capsys.readouterr()
    assert out == "accuracy 0.750 [x]\n"
    assert err.startswith("evaluate  1 ")


def test_options_are_passed_on(evaluated):
    words = ["--side", "val", "--allow-missing", "-o", "table.parquet"]
    assert main(["evaluate", "run", "photos", *words]) == 0
    options = evaluated.options
    assert (options["side"], options["allow_missing"], str(options["out"])) == ("val", True, "table.parquet")


def test_options_of_what_stands_beside_the_numbers_are_passed_on(evaluated):
    assert main(["evaluate", "run", "photos", "--folds", "5", "--no-baselines", "--min-confidence", "0.9"]) == 0
    options = evaluated.options
    assert (options["folds"], options["baselines"], options["min_confidence"]) == (5, False, 0.9)
    assert main(["evaluate", "run", "photos", "--baselines", "--max-error", "0.02"]) == 0
    options = evaluated.options
    assert (options["baselines"], options["min_confidence"], options["max_error"]) == (True, None, 0.02)


def test_json(evaluated, capsys):
    assert main(["evaluate", "run", "photos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"run": "run", "data": "photos", "accuracy": 0.75, "log_loss": None, "notes": ["one"]}


def test_other_classes_are_exit_3(monkeypatch, capsys):
    def evaluate(*_, **__):
        raise DataError("the classes are not those of the model")

    monkeypatch.setattr(room, "evaluate", evaluate)
    assert main(["evaluate", "run", "photos"]) == 3
    assert "not those of the model" in capsys.readouterr().err


def test_wrong_input(capsys, tmp_path):
    assert main(["evaluate", str(tmp_path), "photos"]) == 2
    assert "manifest.json" in capsys.readouterr().err
    assert main(["evaluate", "run", "photos", "--side", "tets"]) == 2
    err = capsys.readouterr().err
    assert "--side" in err
    assert "auto" in err
