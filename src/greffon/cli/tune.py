"""`greffon tune`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, Data, columns_of
from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags
from greffon.cli.output import Json, print_json, reporter
from greffon.recipe import load_recipe


def tune(  # noqa: PLR0913 - all but the first are options, by keyword only
    data: Data,
    /,
    *,
    budget: Annotated[str, Parameter(help="time for all of it: 20m, 1h30m, 90s")],
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="the folder STUDY that is written")] = Path("study"),
    resume: Annotated[
        bool, Parameter(negative=(), show_default=False, help="go on with the study in STUDY, with a new budget")
    ] = False,
    held_out: Annotated[
        float, Parameter(help="share of the pictures put aside for the final check, where DATA has no test/")
    ] = 0.2,
    trials: Annotated[
        int | None, Parameter(show_default=False, help="the most trials; by default as many as there is time for")
    ] = None,
    columns: ColumnNames = (),
    json: Json = False,
    recipe: RecipeName = "default",
    options: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> None:
    """Search for a better recipe within a time, and check it on pictures that the search has not seen.

    Head, depth of unfreezing, learning rates, decay and views are searched over, on activations that one pass of the
    frozen part gave; the other options of the recipe stay as they are given. STUDY becomes a folder with the best
    recipe (`recipe.yaml`), a run of it (`run`), the table of trials and the result of the final check.

    Example: greffon tune photos --budget 20m -o study --weights thin
    """
    chosen = apply_flags(load_recipe(recipe), options or {})
    from greffon.searching.tune import tune as search

    study = search(
        data,
        budget=budget,
        out=out,
        recipe=chosen,
        columns=columns_of(columns),
        resume=resume,
        held_out=held_out,
        trials=trials,
        reporter=reporter(to_stderr=json),
    )
    if json:
        print_json(study.to_dict())
