"""`greffon train`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, Data, columns_of
from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags
from greffon.cli.output import Json, print_json, reporter
from greffon.recipe import load_recipe


def train(  # noqa: PLR0913 - all but the first are options, by keyword only
    data: Data,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="the folder RUN that is written")],
    overwrite: Annotated[bool, Parameter(negative=(), show_default=False, help="replace RUN if it exists")] = False,
    split: Annotated[
        Path | None, Parameter(help="a written split (split.parquet of a run): every picture on the side where it was")
    ] = None,
    manifest: Annotated[
        Path | None, Parameter(help="findings with your decisions, as greffon check writes them (CSV or Parquet)")
    ] = None,
    columns: ColumnNames = (),
    json: Json = False,
    recipe: RecipeName = "default",
    options: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> None:
    """Train a classifier on labelled pictures.

    DATA is a folder with one folder of pictures per class, or with train/, val/ and test/ that hold such folders; a
    table (CSV, Parquet, JSON Lines) of paths and labels; tar shards; or an address of one of these.

    Every option of the recipe is a flag here; only those that are given change it. RUN becomes a folder with the
    model (`model.keras`, which opens with plain Keras), its class names, the recipe, the split and the scores.

    Example: greffon train photos -o runs/first --weights thin --unfreeze conv5 --epochs 20
    """
    chosen = apply_flags(load_recipe(recipe), options or {})
    from greffon.training.job import train as run_job

    progress = reporter(to_stderr=json)
    run = run_job(
        data,
        recipe=chosen,
        out=out,
        columns=columns_of(columns),
        split=split,
        manifest=manifest,
        reporter=progress,
        overwrite=overwrite,
    )
    if json:
        print_json({"run": run.path, **run.summary})
