"""`greffon predict`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from greffon.cli.output import Json, plain_table, print_json, reporter, show
from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from greffon.bundle.predict import Prediction, Predictor

_MANY = 32  # files from which on progress is shown; a folder always is many
_LISTED = 20  # pictures in an error message


def predict(
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    files: Annotated[tuple[Path, ...], Parameter(help="pictures, and folders of pictures")],
    /,
    *,
    top: Annotated[int, Parameter(help="how many classes to name")] = 3,
    json: Json = False,
) -> None:
    """Name what is in pictures.

    Pictures that cannot be read are listed on standard error (with --json: among the predictions, with an `error`);
    the others are named. The exit code is 3 only where none could be read.

    Example: greffon predict runs/first holiday/ cat.jpg --top 1
    """
    if top < 1:
        raise InputError(f"--top must be at least 1. Got {top}")
    absent = [str(file) for file in files if not file.exists()]
    if absent:
        raise InputError("\n".join(["there is no such file or folder:", *_shortened(absent)]))
    from greffon.bundle.predict import load

    predictor = load(run)
    found = _predicted(predictor, files, top)
    progress = reporter(to_stderr=True)
    unreadable = [f"{one.path}: {one.error}" for one in found if one.error is not None]
    if len(unreadable) == len(found):
        raise DataError("\n".join([f"none of {len(found)} pictures could be read:", *_shortened(unreadable)]))
    for note in predictor.notes:
        progress.warn(note)
    if json:
        predictions = [one.to_dict() for one in found]
        print_json({"run": run, "predictions": predictions, "unreadable": len(unreadable), "notes": predictor.notes})
        return
    show(_table([one for one in found if one.error is None]))
    for line in unreadable:
        progress.warn(f"cannot be read: {line}")


def _predicted(predictor: "Predictor", files: tuple[Path, ...], top: int) -> "list[Prediction]":
    found = []
    with ExitStack() as stack:
        advance = None
        if len(files) > _MANY or any(file.is_dir() for file in files):
            advance = stack.enter_context(reporter(to_stderr=True).bar("predict", total=None))
        for one in predictor.stream([str(file) for file in files], top=top):
            found.append(one)
            if advance is not None:
                advance(1)
    return found


def _table(found: "list[Prediction]") -> "Table":
    from rich.text import Text

    table = plain_table("picture", "is", "probabilities")
    for one in found:
        scores = ", ".join(f"{label} {score:.3f}" for label, score in one.scores.items())
        table.add_row(Text(str(one.path)), Text(", ".join(one.labels) or "none of them"), Text(scores))
    return table


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _LISTED
    return lines if more <= 0 else [*lines[:_LISTED], f"... and {more} more"]
