from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

import greffon
from greffon.cli import app as cli_app
from greffon.cli import main
from greffon.errors import CheckFailedError, DataError, FreezeError, GreffonError, InputError

HEAVY = ("keras", "tensorflow", "onnx", "onnxruntime", "polars", "numpy", "PIL", "sklearn", "matplotlib")
COMMANDS = tuple(cli_app.COMMANDS)


def run(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "greffon", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def raising(error: BaseException):
    def does():
        raise error

    return does


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_every_command(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"│ {command} ", out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_what_it_takes(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: greffon {command}" in out
    assert cli_app.COMMANDS[command].partition(":")[0].rstrip(".") in " ".join(out.split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_and_version_load_no_heavy_library(words):
    code = (
        "import sys\nfrom greffon.cli import main\n"
        f"assert main({words!r}) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_first_help_does_not_load_the_commands():
    code = "import sys\nfrom greffon.cli import main\nmain(['--help'])\nassert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == greffon.__version__ + "\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian", "x"], ["trian", 'Did you mean "train"', "greffon --help"]),
        (["weights", "inspet", "x"], ['Did you mean "inspect"', "greffon weights --help"]),
        (["train", "data", "-o", "run", "--learning-rat", "1"], ["--learning-rate", "greffon train --help"]),
        (["train", "data", "-o", "run", "--pool", "agv"], ["--pool", "did you mean 'avg'"]),
        (["train", "data", "-o", "run", "--epochs", "many"], ["--epochs", "'many'"]),
        (["train", "data", "-o", "run", "--dropout", "1"], ["--dropout", "less than 1"]),
        (["train", "data", "-o", "run", "--recipe", "tutorail"], ["did you mean 'tutorial'"]),
        (["train", "data", "-o", "run", "--unfreeze", ","], ["--unfreeze needs a rule"]),
        (["train", "data", "-o", "run", "other"], ["greffon train takes no further argument", "'other'"]),
        (["train", "data"], ["greffon train needs --out or -o"]),
        (["train"], ["greffon train needs DATA"]),
        (["train", "data", "-o"], ["-o needs a value"]),
        (["weights", "fetch", "imagnet"], ["did you mean 'imagenet'"]),
        (["layers", "thim"], ["did you mean 'thin'"]),
    ],
)
def test_wrong_input_is_answered_with_the_nearest_right_one(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for text in expected:
        assert text in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("the input"), 2),
        (FreezeError("the rules"), 2),
        (DataError("the pictures"), 3),
        (CheckFailedError("the check"), 4),
        (GreffonError("the rest"), 1),
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("unexpected"), 1),
        (ValueError("unexpected"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(error, code, job, capsys):
    job.does = raising(error)
    assert main(["train", "data", "-o", "run"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert str(error) in err
    assert "Traceback" not in err
    assert ("mistake in Greffon" in err) == (type(error) in (RuntimeError, ValueError))


def test_an_interruption_is_one_line(job, capsys):
    job.does = raising(KeyboardInterrupt())
    assert main(["train", "data", "-o", "run", "--json"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_errors_are_one_line_of_json_reading_on_standard_output_too(job, capsys):
    job.does = raising(DataError('class "é" has 1 picture\nadd some'))
    assert main(["train", "data", "-o", "run", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": 'class "é" has 1 picture\nadd some',
        "kind": "DataError",
        "exit_code": 3,
    }
    assert out.isascii()
    assert err == 'error: class "é" has 1 picture\nadd some\n'


def test_a_wrong_command_line_is_json_too(capsys):
    assert main(["train", "data", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["kind"] == "InputError"


def test_debug_shows_where(job, monkeypatch):
    monkeypatch.setenv("GREFFON_DEBUG", "1")
    job.does = raising(DataError("the pictures"))
    with pytest.raises(DataError, match="the pictures"):
        main(["train", "data", "-o", "run"])


def test_markup_in_messages_is_text(job, capsys):
    job.does = raising(DataError("[red]folder[/red] and [/] and [conv5]"))
    assert main(["train", "data", "-o", "run"]) == 3
    assert capsys.readouterr().err == "error: [red]folder[/red] and [/] and [conv5]\n"


def test_the_process_returns_the_code_without_a_traceback():
    done = run("train", "no/such/folder", "-o", "run", "--recipe", "no such recipe")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: recipe must be one of default, tutorial, gradual or a YAML file")
    assert "Traceback" not in done.stderr


def test_output_into_a_pipe_has_no_control_characters():
    for words in (["--help"], ["train", "--help"], ["trian"]):
        done = run(*words)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


def test_a_closed_pipe_is_no_error_message():
    python = f'"{sys.executable}"'
    command = f'{python} -m greffon weights list --json | {python} -c "import sys; sys.stdin.close()"'
    done = subprocess.run(command, check=False, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_names_that_the_terminal_cannot_show_are_escaped():
    code = (
        "import sys, types\n"
        "from greffon.errors import DataError\n"
        "job = types.ModuleType('greffon.training.train')\n"
        "def train(*_, **__): raise DataError('caf\\u00e9 \\u2192 \\udcff')\n"
        "job.train = train\n"
        "sys.modules['greffon.training.train'] = job\n"
        "from greffon.cli import main\n"
        "sys.exit(main(['train', 'x', '-o', 'y']))\n"
    )
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, env=env)
    assert done.returncode == 3
    assert done.stderr == b"error: caf\\xe9 \\u2192 \\udcff\n"
