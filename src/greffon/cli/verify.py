"""`greffon verify`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.cli.output import Json, print_json, reporter, show
from greffon.errors import InputError


def verify(
    file: Annotated[Path, Parameter(name="RUN|FILE", help="a run, or what greffon export wrote of it")],
    /,
    *,
    run: Annotated[
        Path | None,
        Parameter(show_default=False, help="for FILE: the run that it was exported from, which holds the pictures"),
    ] = None,
    tolerance: Annotated[
        float,
        Parameter(help="for FILE: by how much a probability may differ; fp16 and int8 need more than that of fp32"),
    ] = 1e-4,
    keras: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="replay through Keras too, which takes a few seconds to load"),
    ] = False,
    json: Json = False,
) -> None:
    """Let a run's model, or what was exported of it, answer the run's probe pictures again.

    A run holds eight pictures, and the probabilities that its model gave for them when it was written. They are
    replayed through ONNX Runtime (through Keras where the run holds no ONNX file), after every file was compared with
    the run's manifest. FILE is opened with the runtime of its format and has to answer as the run does.

    Exit code: 0 where all is as it was; 4 where a file is missing or changed, a probability differs by more than 0.0001
    or a label is another; 2 where RUN is no run or FILE no export.

    Example: greffon verify runs/first --keras

    Example: greffon verify first.tflite --run runs/first
    """
    if run is not None:
        _verify_export(file, run, tolerance, json=json)
        return
    from greffon.exporting.verify import format_of, is_export

    if is_export(file):
        raise InputError(
            f"{file} is an export ({format_of(file).name}): give the run that it was exported from, which holds the "
            "pictures (--run RUN)"
        )
    from greffon.bundle.verify import check_replays
    from greffon.bundle.verify import verify as verify_run

    replays = verify_run(file, keras=keras)
    check_replays(replays)
    if json:
        print_json({"run": file, "replays": [replay.to_dict() for replay in replays]})
        return
    for replay in replays:
        show(str(replay))
    reporter(to_stderr=True).note("every file and every answer is as it was written")


def _verify_export(file: Path, run: Path, tolerance: float, *, json: bool) -> None:
    from greffon.exporting.verify import verify_export

    kind, proof = verify_export(file, run, tolerance=tolerance)
    if json:
        print_json({"file": file, "run": run, "format": kind, "proof": dict(vars(proof))})
    else:
        show(f"{file} ({kind}): {proof}")
