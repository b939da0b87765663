"""`greffon diagnose`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, RunData, columns_of
from greffon.cli.output import Json, print_json, reporter, show
from greffon.errors import CheckFailedError


def diagnose(
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    /,
    *,
    data: RunData = None,
    columns: ColumnNames = (),
    pictures: Annotated[int, Parameter(help="the most that are looked at, at least 20; drawn by chance")] = 1000,
    strict: Annotated[
        bool, Parameter(negative=(), show_default=False, help="exit code 4 where a cause was found")
    ] = False,
    json: Json = False,
) -> int:
    """Try out why a run is bad, and rank the causes by what each costs.

    Each cause is an experiment on pictures that the run knows: other preprocessing, moved labels, another learning
    rate, copies left out, more pictures, ... The table says what the number is with the fault and without it. It is
    written to RUN/diagnosis.json, and `greffon report` shows it from then on.

    Exit code 0, whatever is found; with --strict 4 where a cause was found.

    Example: greffon diagnose runs/first --data photos
    """
    from greffon.diagnosing.diagnose import diagnose as run_diagnosis

    progress = reporter(to_stderr=True)
    found = run_diagnosis(run, data, columns=columns_of(columns), pictures=pictures, progress=progress)
    if json:
        print_json({"run": str(run), "file": None if found.path is None else str(found.path), **found.to_dict()})
    else:
        show(found)
    return CheckFailedError.exit_code if strict and not found.ok else 0
