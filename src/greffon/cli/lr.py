"""`greffon lr`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.bundle.commands import command_line
from greffon.cli.data import ColumnNames, Data, column_words, columns_of
from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags, flag_words
from greffon.cli.output import Json, print_json, reporter, show
from greffon.errors import InputError
from greffon.recipe import load_recipe


def lr(  # noqa: PLR0913 - all but the first are options, by keyword only
    data: Data,
    /,
    *,
    plot: Annotated[
        Path | None, Parameter(name=["--plot", "-o"], show_default=False, help="a .png or .svg file to draw into")
    ] = None,
    table: Annotated[
        Path | None, Parameter(show_default=False, help="a .csv or .parquet file for rates and losses")
    ] = None,
    stage: Annotated[
        str | None, Parameter(show_default=False, help="name of the stage; by default the last that is trained")
    ] = None,
    lowest: Annotated[float, Parameter(help="first learning rate")] = 1e-6,
    highest: Annotated[float, Parameter(help="last learning rate, if the loss does not break away before")] = 1.0,
    steps: Annotated[int, Parameter(help="batches, each with a rate that is larger by one factor")] = 100,
    columns: ColumnNames = (),
    json: Json = False,
    recipe: RecipeName = "default",
    options: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> None:
    """Find a learning rate: train with one that grows from step to step, and see where the loss falls (Smith 2017).

    The stages before run first. The curve is printed as a line of bars with the suggested rate below it.

    Example: greffon lr photos --weights thin --unfreeze conv5 --plot rates.png
    """
    chosen = apply_flags(load_recipe(recipe), options or {})
    for file, endings in ((plot, (".png", ".svg")), (table, (".csv", ".parquet"))):
        if file is not None and (file.suffix.lower() not in endings or not file.parent.is_dir()):
            raise InputError(f"{file}: expected a {' or '.join(endings)} file in a folder that is there")
    from greffon.searching.learning_rate import find_learning_rate

    found = find_learning_rate(
        data,
        recipe=chosen,
        stage=stage,
        columns=columns_of(columns),
        lowest=lowest,
        highest=highest,
        steps=steps,
        reporter=reporter(to_stderr=True),
    )
    if table is not None:
        frame = found.curve.table
        frame.write_csv(table) if table.suffix.lower() == ".csv" else frame.write_parquet(table)
    if plot is not None:
        found.curve.plot(plot)
    if json:
        print_json(found.to_dict())
    else:
        show(str(found))
        trained = [stage.name for stage in chosen.stages if not chosen.solves(stage)]
        if found.suggestion is None:
            return
        if trained[0] == found.stage:
            others = {name: value for name, value in (options or {}).items() if name != "learning_rate"}
            words = [*column_words(columns), *flag_words(recipe, others), "--learning-rate", f"{found.suggestion:.1e}"]
            show(command_line("train", data, "-o", "RUN", *words))
        else:  # the flag is the first trained stage's, whose rate the others keep their ratio to
            show(f"in a recipe file: learning_rate: {found.suggestion:.1e} for the stage {found.stage!r}")
