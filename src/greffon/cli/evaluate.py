"""`greffon evaluate`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, Data, columns_of
from greffon.cli.output import Json, print_json, reporter, show

MinConfidence = Annotated[
    float | None,
    Parameter(
        show_default=False,
        help="answer only from this probability on, 0..1; with several labels per picture the least sure yes or no "
        "counts",
    ),
]
"""The type of a `min_confidence` parameter."""

MaxError = Annotated[
    float | None,
    Parameter(
        show_default=False,
        help="or give the share of answers that may be wrong, such as 0.02: the lowest confidence is taken for which "
        "the run's validation pictures show, with 95 % certainty, that it is kept",
    ),
]
"""The type of a `max_error` parameter."""


def evaluate(  # noqa: PLR0913  # a command's options
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
    folds: Annotated[
        int | None,
        Parameter(
            help="measure a head solved on the run's features too: all pictures dealt into this many folds, three "
            "times; seconds for hundreds of pictures, minutes for many thousands"
        ),
    ] = None,
    baselines: Annotated[
        bool | None,
        Parameter(
            show_default=False,
            help="compare with the largest class, the most similar training picture and a linear head on the run's "
            "features, for which training pictures must be in DATA; by default where they are among those evaluated",
        ),
    ] = None,
    min_confidence: MinConfidence = None,
    max_error: MaxError = None,
    json: Json = False,
) -> None:
    """Say how good a trained run is on labelled pictures.

    Classes are matched by the names of their folders, whatever their order. Pictures that cannot be read are listed
    and left out; pictures that the run was trained on, or chose its best epoch by, are measured apart. Each number
    has its 95 % interval; balanced accuracy is the mean recall of the classes.

    Example: greffon evaluate runs/first photos/test -o table.parquet
    """
    from greffon.evaluation.evaluate import evaluate as evaluate_run

    progress = reporter(to_stderr=True)
    found = evaluate_run(
        run,
        data,
        columns=columns_of(columns),
        out=out,
        side=side,
        allow_missing=allow_missing,
        folds=folds,
        baselines=baselines,
        min_confidence=min_confidence,
        max_error=max_error,
        progress=progress,
    )
    if json:
        print_json({"run": run, "data": data, **found.to_dict()})
    else:
        show(found)
