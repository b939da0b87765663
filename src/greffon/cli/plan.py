"""`greffon plan`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags
from greffon.cli.output import Json, plain_table, print_json, reporter, show
from greffon.recipe import load_recipe

if TYPE_CHECKING:
    from greffon.training.plan import Plan


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

    Measures on some of the pictures: decoding, the frozen part, a few steps of training. Each line of the table is
    one way to train, with what it takes the first time, the time of a run that finds its activations stored, and the
    flags that `greffon train` needs for it.

    Example: greffon plan photos --budget 10m --weights thin
    """
    chosen = apply_flags(load_recipe(recipe), options or {})
    from greffon.training.plan import plan as make_plan

    found = make_plan(data, recipe=chosen, budget=budget, seconds=seconds, reporter=reporter(to_stderr=json))
    if json:
        print_json(found.to_dict())
    elif sys.stdout.isatty():
        _show(found)
    else:
        # A pipe has no width to fit into, and plain lines are what `grep` and `less` like.
        show(str(found))


def _show(found: "Plan") -> None:
    from greffon.training.plan import COLUMNS

    table: Any = plain_table(*COLUMNS)
    for row, cells in zip(found.rows, found.cells(), strict=True):
        table.add_row(*map(_escaped, cells), style="bold" if row is found.choice else None)
    show(table)
    for remark in found.remarks():
        show(remark)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
