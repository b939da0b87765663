from __future__ import annotations

import json
from pathlib import Path

import pytest

from greffon.cli import main
from greffon.errors import CheckFailedError
from greffon.exporting import export as room
from greffon.exporting.export import MAX_DROP, Exported
from greffon.exporting.proof import Drop, Proof


@pytest.fixture
def exported(monkeypatch):
    """What the export was asked for: (run, format, options)."""
    asked = []

    def export(run, name, *, progress, **options):
        asked.append((str(run), name, options))
        with progress.bar("measure", total=None) as advance:
            advance(1)
        drop = Drop("validation", 200, 0.95, 0.945, 3) if options["precision"] != "fp32" else None
        return Exported(Path("a [b].onnx"), name, options["precision"], 31_600_000, Proof(8, (1, 8), 2e-7, 0), drop)

    monkeypatch.setattr(room, "export", export)
    return asked


def test_what_was_written_and_how_it_answered_is_shown(exported, capsys):
    assert main(["export", "run", "--format", "onnx"]) == 0
    options = {"out": None, "precision": "fp32", "max_drop": MAX_DROP, "pictures": None, "overwrite": False}
    assert exported == [("run", "onnx", options)]
    assert capsys.readouterr().out == (
        "a [b].onnx (onnx, fp32, 31.6 MB)\n"
        "8 probe pictures in batches of 1 and 8: probabilities differ by at most 2.0e-07, the same labels\n"
    )


def test_options_are_passed_on(exported, capsys):
    words = ["-f", "litert", "-o", "a.tflite", "--precision", "int8", "--max-drop", "0.02", "--pictures", "photos"]
    assert main(["export", "run", *words, "--overwrite"]) == 0
    ((run, name, options),) = exported
    assert (run, name) == ("run", "litert")
    assert options == {
        "out": Path("a.tflite"),
        "precision": "int8",
        "max_drop": 0.02,
        "pictures": Path("photos"),
        "overwrite": True,
    }
    assert "accuracy on 200 validation pictures 0.9500 -> 0.9450 (drop 0.0050), 3 with" in capsys.readouterr().out


def test_json_holds_all_of_it(exported, capsys):
    assert main(["export", "run", "-f", "onnx", "--precision", "fp16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["path"], found["format"], found["bytes"]) == ("run", "a [b].onnx", "onnx", 31_600_000)
    assert found["proof"] == {"probes": 8, "batches": [1, 8], "difference": 2e-7, "changed": 0}
    assert found["drop"]["drop"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-f", "onyx"], "onnx"),
        (["-f", "onnx", "--precision", "fp8"], "fp16"),
        ([], "--format"),
    ],
)
def test_what_there_is_not_is_refused(words, told, exported, capsys):
    assert main(["export", "run", *words]) == 2
    assert told in capsys.readouterr().err
    assert exported == []


def test_an_export_that_answers_otherwise_has_its_own_exit_code(monkeypatch, capsys):
    def export(*args, **options):
        raise CheckFailedError("the export does not answer as the run does")

    monkeypatch.setattr(room, "export", export)
    assert main(["export", "run", "-f", "onnx"]) == 4
    assert "does not answer" in capsys.readouterr().err


def test_a_run_that_is_none_and_a_pair_that_does_not_go_together(tmp_path, capsys):
    assert main(["export", str(tmp_path), "-f", "onnx"]) == 2
    assert "run" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "-f", "keras", "--precision", "int8"]) == 2
    assert "keras is exported in fp32, not in int8" in capsys.readouterr().err
