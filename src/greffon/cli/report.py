"""`greffon report`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, RunData, columns_of
from greffon.cli.output import Json, print_json, reporter, show


def report(
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    /,
    *,
    data: RunData = None,
    out: Annotated[
        Path | None,
        Parameter(
            name=["--out", "-o"], show_default=False, help="the .html file that is written; by default RUN/report.html"
        ),
    ] = None,
    columns: ColumnNames = (),
    pictures: Annotated[int, Parameter(help="mistakes, and unsure answers, that are shown, 0 to 24 of each")] = 8,
    neighbours: Annotated[
        int,
        Parameter(
            help="alike training pictures beside each, 0 to 8; with 0 the training pictures are not looked at, which "
            "takes most of the time, and there are no baselines"
        ),
    ] = 3,
    json: Json = False,
) -> None:
    """Write what a run is, how good and how sure it is into one HTML file, which opens without a network.

    What was trained with the proof of freezing, curves, confusions, every class, whether its probabilities mean what
    they say, and the pictures that it was wrong or least sure about: where it looked, and what they look like to it.

    Example: greffon report runs/first --data photos
    """
    from greffon.reporting import report as write_report

    progress = reporter(to_stderr=True)
    written = write_report(
        run,
        data,
        out=out,
        columns=columns_of(columns),
        most=pictures,
        neighbours=neighbours,
        progress=progress,
    )
    if json:
        print_json(written.to_dict())
    else:
        show(str(written))
