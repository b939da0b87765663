"""`greffon report`: the command line around `greffon.reporting.report`."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

import greffon.reporting
from greffon.cli import main
from greffon.errors import InputError
from greffon.reporting import Report


@pytest.fixture
def calls(monkeypatch):
    """What the command asks for; nothing is written."""
    made = []

    def write(*arguments, **options):
        made.append((arguments, options))
        return Report(Path("run/report.html"), 5, 2, ("Nine val pictures are gone",))

    monkeypatch.setattr(greffon.reporting, "report", write)
    return made


def test_it_says_where_the_report_is_and_what_is_missing(calls, capsys):
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Nine val pictures are gone",
        "report run/report.html: 5 pictures, 2 are gone (say where they are with data, --data)",
    ]
    (arguments, options) = calls[0]
    assert arguments == (Path("run"), None)
    assert (options["out"], options["columns"], options["most"], options["neighbours"]) == (None, None, 8, 3)


def test_options_arrive(calls, capsys):
    words = ["--data", "photos.csv", "-o", "x.html", "--pictures", "2", "--neighbours", "0", "--column", "label=kind"]
    assert main(["report", "run", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"report": "run/report.html", "pictures": 5, "gone": 2, "notes": ["Nine val pictures are gone"]}
    (arguments, options) = calls[0]
    assert arguments == (Path("run"), "photos.csv")
    assert (options["out"], options["most"], options["neighbours"]) == (Path("x.html"), 2, 0)
    assert options["columns"].label == "kind"


def test_what_goes_wrong_is_a_sentence_and_an_exit_code(tmp_path, capsys, monkeypatch):
    assert main(["report", str(tmp_path), "--json"]) == InputError.exit_code
    out = capsys.readouterr()
    assert "no run of greffon" in out.err
    assert json.loads(out.out)["kind"] == "InputError"
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(tmp_path)]) == InputError.exit_code
    assert "greffon[report]" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "jinja2", types.ModuleType("jinja2"))
    assert main(["report"]) == InputError.exit_code
    assert "greffon report --help" in capsys.readouterr().err
