"""`greffon plan`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from greffon.bundle.commands import command_line
from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags, flag_name, flag_words
from greffon.cli.output import Json, print_json, reporter, show
from greffon.recipe import load_recipe


def plan(
    data: Annotated[Path, Parameter(help="a folder with one folder of pictures per class, or train/, val/ and test/")],
    /,
    *,
    budget: Annotated[
        str | None, Parameter(help="time that training may take (10m, 1h30m, 90s): says which way to take in it")
    ] = None,
    seconds: Annotated[float, Parameter(help="to spend on measuring; more of them, and less is estimated")] = 20.0,
    json: Json = False,
    recipe: RecipeName = "default",
    options: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> None:
    """Say how long each way to train would take on this machine, and which fits into a time.

    Measures on some of the pictures: decoding, the frozen part, a few steps of training. Each row of the table is one
    way to train, with what it takes the first time, the time of a run that finds its activations stored, and the
    flags that `greffon train` needs for it.

    Example: greffon plan photos --budget 10m --weights thin
    """
    chosen = apply_flags(load_recipe(recipe), options or {})
    from greffon.training.plan import plan as make_plan

    found = make_plan(data, recipe=chosen, budget=budget, seconds=seconds, reporter=reporter(to_stderr=json))
    given = {option: (options or {})[option] for option in _OF_A_ROW if option in (options or {})}
    if given:
        found = found.with_flags({flag_name(option): _value(value) for option, value in given.items()})
    others = {option: value for option, value in (options or {}).items() if option not in given}
    train = command_line("train", data, "-o", "RUN", *flag_words(recipe, others))
    command = None if found.choice is None else f"{train} {found.choice.flags}".rstrip()
    if json:
        print_json({**found.to_dict(), "train": train, "command": command})
        return
    from rich import get_console
    from rich.text import Text

    width = get_console().width if sys.stdout.isatty() else None  # a pipe has no width to fit into
    for line in found.lines(width):
        show(Text(line, "bold" if line.startswith("> ") else ""))
    for remark in found.remarks():
        show(Text(remark))
    show(Text("to train so:" if command else "to train so, with the flags of its row:"))
    show(command or train)


# What a row may change of the recipe as it was given.
_OF_A_ROW = ("unfreeze", "precision", "views")


def _value(value: Any) -> str:
    return shlex.quote(",".join(value) if isinstance(value, list | tuple) else str(value))
