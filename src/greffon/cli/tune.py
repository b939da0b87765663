"""`greffon tune`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.bundle.commands import command_line
from greffon.cli.data import ColumnNames, Data, column_words, columns_of
from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags, flag_words
from greffon.cli.output import Json, print_json, reporter, show
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

    options = options or {}
    words = [*([] if trials is None else ["--trials", trials]), *column_words(columns), *flag_words(recipe, options)]
    try:
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
    except KeyboardInterrupt:
        if (out / "study.json").is_file():
            again = command_line("tune", data, "--budget", budget, "-o", out, "--resume", *words)
            sys.stderr.write(f"to go on: {again}\n")
        raise
    if json:
        print_json(study.to_dict())
    elif study.check is not None and study.check.verdict in ("better", "not shown"):
        train = command_line("train", data, "-o", "RUN", "--recipe", out / "recipe.yaml", *column_words(columns))
        show(f"to train by its best recipe: {train}")
