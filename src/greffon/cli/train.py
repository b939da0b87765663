"""`greffon train`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from greffon.cli.data import ColumnNames, Data, columns_of
from greffon.cli.flags import RecipeFlags, RecipeName, apply_flags, flag_name
from greffon.cli.output import Json, print_json, reporter
from greffon.errors import CheckFailedError, InputError
from greffon.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.training.progress import Reporter
    from greffon.training.run import Run


def train(  # noqa: PLR0913 - all but the first are options, by keyword only
    data: Data | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="the folder RUN that is written")] = None,
    overwrite: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="replace RUN, and give up an interrupted training of it"),
    ] = False,
    resume: Annotated[
        Path | None,
        Parameter(help="go on with an interrupted training of this RUN; neither data nor recipe is given again"),
    ] = None,
    reproduce: Annotated[
        Path | None,
        Parameter(help="train this RUN again from its record and compare (kept with -o); exit code 4: not the same"),
    ] = None,
    checkpoint_every: Annotated[
        float | None, Parameter(help="seconds between two checkpoints in RUN.partial, by default 30; 0: every step")
    ] = None,
    tensorboard: Annotated[Path | None, Parameter(help="a folder for TensorBoard, which gets every epoch")] = None,
    mlflow: Annotated[
        str | None,
        Parameter(help="a folder for MLflow (mlflow.db), or its tracking URI (sqlite:, http:), which gets every epoch"),
    ] = None,
    split: Annotated[
        Path | None, Parameter(help="a written split (split.parquet of a run): every picture on the side where it was")
    ] = None,
    manifest: Annotated[
        Path | None, Parameter(help="findings with your decisions, as greffon check writes them (CSV or Parquet)")
    ] = None,
    pictures: Annotated[
        bool,
        Parameter(
            help="keep small copies of some pictures in RUN: eight that prove its answers, neighbours to show beside"
        ),
    ] = True,
    columns: ColumnNames = (),
    json: Json = False,
    recipe: RecipeName = "default",
    options: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> int:
    """Train a classifier on labelled pictures.

    DATA is a folder with one folder of pictures per class, or with train/, val/ and test/ that hold such folders; a
    table (CSV, Parquet, JSON Lines) of paths and labels; tar shards; or an address of one of these.

    Every option of the recipe is a flag here; only those that are given change it. RUN becomes a folder with the
    model (`model.keras`, which opens with plain Keras), its class names, the recipe, the split and the scores.

    A training that was interrupted goes on with --resume RUN, and ends as if it never had been.

    Example: greffon train photos -o runs/first --weights thin --unfreeze conv5 --epochs 20
    """
    progress = reporter(to_stderr=json)
    trackers = {"tensorboard": tensorboard, "mlflow": mlflow}
    beside: dict[str, Any] = {
        "DATA": data,
        "--split": split,
        "--manifest": manifest,
        "--column": columns,
        "--overwrite": overwrite,
    }
    beside |= {"--checkpoint-every": checkpoint_every, "--no-pictures": not pictures}
    flags = _given_flags(recipe, options or {})
    if reproduce is not None:
        _alone("--reproduce", beside | {"--resume": resume, "--tensorboard": tensorboard, "--mlflow": mlflow}, flags)
        return _reproduce(reproduce, out, progress, json=json)
    if resume is not None:
        _alone("--resume", beside | {"--out": out}, flags)
        from greffon.training.resume import resume as go_on

        return _trained(lambda told: go_on(resume, reporter=told), progress, json=json, name=resume.name, **trackers)
    if data is None or out is None:
        raise InputError(f"greffon train needs {'DATA' if data is None else '--out or -o'}\nSee greffon train --help")
    chosen = apply_flags(load_recipe(recipe), options or {})
    given: dict[str, Any] = {
        "recipe": chosen,
        "out": out,
        "columns": columns_of(columns),
        "split": split,
        "manifest": manifest,
    }
    given |= {"overwrite": overwrite} | ({} if pictures else {"pictures": False})
    given |= {} if checkpoint_every is None else {"checkpoint_every": checkpoint_every}
    from greffon.training.train import train as run_job

    return _trained(
        lambda told: run_job(data, reporter=told, **given),
        progress,
        json=json,
        recipe=chosen,
        name=out.name,
        **trackers,
    )


def _trained(work: "Callable[[Reporter], Run]", progress: "Reporter", *, json: bool, **tracking: Any) -> int:
    """Train, and print what is for a program; the exit code."""
    from greffon.reporting.trackers import tracked
    from greffon.training.interrupts import InterruptedTraining

    try:
        with tracked(progress, **tracking) as told:
            run = work(told)
    except InterruptedTraining as stopped:
        sys.stderr.write(f"interrupted{_with_trackers(tracking)}\n")
        return stopped.exit_code
    if json:
        print_json({"run": run.path, **run.summary})
    return 0


def _reproduce(run: Path, out: Path | None, progress: "Reporter", *, json: bool) -> int:
    from greffon.training.reproduce import reproduce

    found = reproduce(run, out=out, reporter=progress)
    if json:
        print_json(found.to_dict())
    return 0 if found.same else CheckFailedError.exit_code


def _alone(flag: str, others: dict[str, Any], flags: list[str]) -> None:
    """Refuse what says nothing beside a flag."""
    given = [name for name, value in others.items() if value not in (None, False, ())] + flags
    if given:
        whose = "the interrupted training" if flag == "--resume" else "the run's record"
        raise InputError(f"{flag} takes data and options from {whose}: leave {', '.join(given)} out")


def _given_flags(recipe: str, options: "RecipeFlags") -> list[str]:
    """The flags of the recipe that were given, as they are written."""
    flags = [] if recipe == "default" else ["--recipe"]
    return flags + [flag_name(f"no_{name}" if value is False else name) for name, value in options.items()]


def _with_trackers(tracking: dict[str, Any]) -> str:
    """The trackers that were given, which a training that goes on does not remember."""
    given = [f"--{name} {shlex.quote(str(tracking[name]))}" for name in ("tensorboard", "mlflow") if tracking.get(name)]
    return f"; give {' '.join(given)} again with --resume" if given else ""
