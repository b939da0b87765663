"""`greffon evaluate`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, Data, columns_of
from greffon.cli.output import Json, print_json, reporter, show


def evaluate(
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    data: Data,
    /,
    *,
    side: Annotated[
        Literal["auto", "train", "val", "test", "all"],
        Parameter(help="where DATA has train/, val/ and test/: which of them; auto: test, else val, else all"),
    ] = "auto",
    allow_missing: Annotated[
        bool, Parameter(negative=(), show_default=False, help="DATA may lack some of the model's classes")
    ] = False,
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="write one row per picture into this .parquet file")
    ] = None,
    columns: ColumnNames = (),
    json: Json = False,
) -> None:
    """Say how good a trained run is on labelled pictures.

    Classes are matched by the names of their folders, whatever their order. Pictures that cannot be read are listed
    and left out; pictures that the run was trained on are measured apart.

    Example: greffon evaluate runs/first photos/test -o table.parquet
    """
    from greffon.evaluation.evaluate import evaluate as evaluate_run

    progress = reporter(to_stderr=True)
    found = evaluate_run(
        run, data, columns=columns_of(columns), out=out, side=side, allow_missing=allow_missing, progress=progress
    )
    if json:
        print_json({"run": run, "data": data, **found.to_dict()})
    else:
        show(found)
