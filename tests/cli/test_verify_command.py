from __future__ import annotations

import json

import pytest

from greffon.bundle import verify as bundle_verify
from greffon.bundle.verify import Replay
from greffon.cli import main
from greffon.cli.app import COMMANDS
from greffon.cli.verify import verify
from greffon.errors import CheckFailedError

KEPT = Replay("onnx", 8, 2e-7, (), kept=True)
BROKEN = Replay("keras", 8, 0.02, ("probes/3.png",), kept=False)


@pytest.fixture
def replays(monkeypatch):
    """What the run's engines answer; the test changes it."""
    replays = [KEPT]
    monkeypatch.setattr(bundle_verify, "verify", lambda run, keras: tuple(replays if keras else replays[:1]))
    return replays


def test_a_kept_contract_is_said(replays, capsys):
    replays.append(BROKEN)
    verify("run")
    out, err = capsys.readouterr()
    assert out == "onnx: 8 probe pictures, probabilities differ by at most 2.0e-07, the same labels\n"
    assert "every answer is as it was written" in err


def test_a_broken_contract_is_an_error_that_names_the_engine(replays):
    replays.append(BROKEN)
    with pytest.raises(CheckFailedError, match=r"keras: 8 probe pictures.*2\.0e-02, other labels for probes/3\.png"):
        verify("run", keras=True)


def test_json(replays, capsys):
    verify("run", json=True)
    assert json.loads(capsys.readouterr().out) == {
        "run": "run",
        "replays": [{"engine": "onnx", "probes": 8, "difference": 2e-7, "changed": [], "kept": True}],
    }


@pytest.mark.skipif("verify" not in COMMANDS, reason="the command line does not list the command")
def test_the_exit_code_is_4_where_it_is_broken_and_2_where_there_is_no_run(replays, capsys, tmp_path, monkeypatch):
    assert main(["verify", "run"]) == 0
    replays[0] = BROKEN
    capsys.readouterr()
    assert main(["verify", "run", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["exit_code"] == 4
    monkeypatch.undo()
    assert main(["verify", str(tmp_path)]) == 2
