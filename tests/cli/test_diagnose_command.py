"""`greffon diagnose`: the command line around `greffon.diagnose`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import greffon.diagnosing.diagnose
from greffon.cli import main
from greffon.diagnosing.compare import Change
from greffon.diagnosing.result import Diagnosis, Finding, not_tested
from greffon.errors import CheckFailedError, InputError


@pytest.fixture
def calls(monkeypatch):
    """What the command asks for; a leak is the answer."""
    made = []
    leak = Finding("leak", "found", "3 of 9 are copies.", Change(0.9, 0.7, (-0.3, -0.1)), "Split anew.")

    def run(*arguments, **options):
        made.append((arguments, options))
        return Diagnosis((leak, not_tested("class order", "why not")), 30, 9, 0.9, ("A note",), Path("d.json"))

    monkeypatch.setattr(greffon.diagnosing.diagnose, "diagnose", run)
    return made


def test_it_shows_numbers_and_sentences(calls, capsys):
    assert main(["diagnose", "run", "--data", "photos.csv", "--pictures", "50", "--column", "label=kind"]) == 0
    out = capsys.readouterr().out
    for text in ("leak", "0.900", "0.700", "-0.200", "-0.300 to -0.100", "Split anew.", "why not", "A note"):
        assert text in out
    (arguments, options) = calls[0]
    assert arguments == (Path("run"), "photos.csv")
    assert (options["pictures"], options["columns"].label) == (50, "kind")


@pytest.mark.usefixtures("calls")
def test_json_and_the_exit_code_that_was_asked_for(capsys):
    assert main(["diagnose", "run", "--json", "--strict"]) == CheckFailedError.exit_code
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0] | {"details": {}} == {
        "cause": "leak", "verdict": "found", "said": "3 of 9 are copies.", "advice": "Split anew.", "decides": False,
        "measure": "accuracy", "now": 0.9, "without": 0.7, "gain": pytest.approx(-0.2), "details": {},
        "gain_interval_95": [-0.3, -0.1], "better_in_resamples": 0.0, "log_loss_now": None, "log_loss_without": None,
    }  # fmt: skip
    assert (found["ok"], found["file"], found["held_out"]) == (False, "d.json", 9)


def test_what_goes_wrong_is_a_sentence_and_an_exit_code(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path), "--json"]) == InputError.exit_code
    assert "no run of greffon" in capsys.readouterr().err
    assert main(["diagnose"]) == InputError.exit_code
