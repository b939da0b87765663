"""The command `greffon`: find the command, call it, and turn what goes wrong into a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cyclopts import App
from cyclopts.exceptions import CycloptsError, MissingArgumentError, UnusedCliTokensError

from greffon import __version__
from greffon.cli.output import JSON_FLAG, print_error, print_json_error
from greffon.errors import INTERRUPTED, GreffonError, InputError, exit_codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.cli.output import Failure

_FAILED = GreffonError.exit_code

app = App(
    name="greffon",
    version=__version__,
    help="Transfer learning with ResNet-50 on your own pictures: the frozen part computed once, nothing silent.\n\n"
    "Start with `greffon demo`, then `greffon train PICTURES -o RUN`.\n\n"
    f"Exit codes: {exit_codes()}. GREFFON_DEBUG=1 shows where an error comes from.",
    help_flags=["--help", "-h"],
)

COMMANDS = {
    "demo": "Train on the pictures that come with Greffon: two to three minutes on two cores, nothing to download.",
    "check": "Look for what is wrong with pictures before they are learned from.",
    "train": "Train a classifier on labelled pictures.",
    "evaluate": "Say how good a trained run is on labelled pictures.",
    "predict": "Name what is in pictures.",
    "report": "Write what a run is, how good and how sure it is into one HTML file.",
    "diagnose": "Try out why a run is bad, and rank the causes by what each costs.",
    "verify": "Let a run's model answer its probe pictures again.",
    "export": "Write a run's model for another runtime, and prove there that it answers as the run does.",
    "serve": "Answer over HTTP what is in pictures, with a page for people.",
    "plan": "Say how long each way to train would take on this machine, and which fits into a time.",
    "tune": "Search for a better recipe within a time, and check it on pictures that the search has not seen.",
    "lr": "Find a learning rate: the exponential range test, with its plot.",
    "layers": "Show a network's layers and which of them train.",
    "weights": "List, inspect, fetch, add and convert weights.",
    "cache": "Show or clear what Greffon keeps on disk.",
}
"""Every command and what it is for; the module `greffon.cli.NAME` has it under its name."""

TRAINING = frozenset({"demo", "check", "train", "report", "export", "plan", "layers", "tune", "diagnose"})
"""The commands that need `greffon[train]`; known before they do anything, such as fetching weights."""

# By name, so that only the module of the command that is called is imported.
for _place, (_name, _help) in enumerate(COMMANDS.items()):
    app.command(f"greffon.cli.{_name}:{_name}", name=_name, help=_help, sort_key=_place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows `greffon`; None: what the process was started with.

    Returns:
        The exit code, see `greffon.errors`. Errors are sentences on standard error; with `--json` standard output holds
        `{"error": ..., "kind": ..., "exit_code": ...}` too.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    try:
        return _run(words)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`). What is still in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception as error:
        if os.environ.get("GREFFON_DEBUG") == "1":
            raise
        return _report(_failure(error, words), words)


def _run(words: list[str]) -> int:
    try:
        command, bound, *_ = app.parse_args(list(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise InputError(_explain(error, words)) from None
    from greffon.cli.quiet import quiet

    quiet()
    if words and words[0] in TRAINING:
        from greffon.extras import require

        require("train", f"greffon {words[0]}")
    code = command(*bound.args, **bound.kwargs)
    return code if isinstance(code, int) else 0


def _explain(error: CycloptsError, words: list[str]) -> str:
    """The parser's error as a sentence, with the way to the right page of help."""
    called = [word for word in (error.command_chain or ()) if word in words]
    command = " ".join(["greffon", *called])
    text = str(error).rstrip(".")
    if isinstance(error, UnusedCliTokensError):
        text = f"{command} takes no further argument. Got {' '.join(error.unused_tokens or ())!r}"
    elif isinstance(error, MissingArgumentError) and error.argument is not None:
        given = [name for name in error.argument.names if name in words]
        text = f"{given[0]} needs a value" if given else f"{command} needs {' or '.join(error.argument.names)}"
    return f"{text}\nSee {command} --help"


def _failure(error: Exception, words: Sequence[str]) -> Failure:
    from greffon.cli.output import Failure

    kind = type(error).__name__
    if isinstance(error, GreffonError):
        return Failure(str(error), kind, error.exit_code)
    if isinstance(error, ImportError):
        from greffon.extras import missing

        found = missing(error, " ".join(["greffon", *words[:1]]))
        if found is not None:
            return _failure(found, words)
    if isinstance(error, OSError):
        return Failure(str(error), kind, _FAILED)
    return Failure(f"{kind}: {error}\nThis is a mistake in Greffon. GREFFON_DEBUG=1 shows where.", kind, _FAILED)


def _report(failure: Failure, words: list[str]) -> int:
    print_error(failure.text)
    if JSON_FLAG in words:
        print_json_error(failure)
    return failure.exit_code


def _prepare_streams() -> None:
    """Names of files and classes that the terminal's encoding lacks are written as escapes, not refused."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
