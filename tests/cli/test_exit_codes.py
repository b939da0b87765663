"""What a command ended with is told by one table, and that table is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import greffon.errors
from greffon.cli import main
from greffon.errors import (
    EXIT_CODES,
    INTERRUPTED,
    TERMINATED,
    CheckFailedError,
    DataError,
    GreffonError,
    InputError,
    exit_codes,
)

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_help_and_readme_tell_what_the_table_says(capsys):
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Exit codes: {exit_codes()}" in shown
    assert f"Exit codes: {exit_codes()}." in " ".join(README.split())


def test_the_table_has_every_code_that_an_error_has():
    raised = {kind.exit_code for kind in (GreffonError, InputError, DataError, CheckFailedError)}
    assert {0, INTERRUPTED, TERMINATED, *raised} == set(EXIT_CODES)
    explained = re.findall(r"^\| (\d+)(?:, \d+)* \|", greffon.errors.__doc__, re.MULTILINE)
    assert {int(code) for code in explained} == set(EXIT_CODES)


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["serve", "run"], "fastapi", "serve"),
        (["export", "run", "--format", "openvino"], "openvino", "export"),
    ],
)
def test_a_package_that_is_not_there_is_2_and_says_what_installs_it(words, module, extra, monkeypatch, capsys):
    def find_spec(name):
        return None if name == module else object()

    monkeypatch.setattr("greffon.extras.find_spec", find_spec)
    monkeypatch.setattr("greffon.exporting.formats.find_spec", find_spec)
    assert main([*words, "--json"] if words[0] == "export" else words) == 2
    out, err = capsys.readouterr()
    assert module in err
    assert re.search(rf"pip install [\"']greffon\[{extra}\]", err)
    if out:
        assert json.loads(out)["kind"] == "MissingPackageError"
