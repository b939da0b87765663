"""`greffon verify`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from greffon.cli.output import Json, print_json, reporter, show


def verify(
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    /,
    *,
    keras: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="replay through Keras too, which takes a few seconds to load"),
    ] = False,
    json: Json = False,
) -> None:
    """Let a run's model answer its probe pictures again.

    A run holds eight pictures, and the probabilities that its model gave for them when it was written. They are
    replayed through ONNX Runtime (through Keras where the run holds no ONNX file), after every file was compared with
    the run's manifest.

    Exit code: 0 where all is as it was; 4 where a file was changed, a probability differs by more than 0.0001 or a
    label is another.

    Example: greffon verify runs/first --keras
    """
    from greffon.bundle.verify import check_replays
    from greffon.bundle.verify import verify as verify_run

    replays = verify_run(run, keras=keras)
    check_replays(replays)
    if json:
        print_json({"run": run, "replays": [replay.to_dict() for replay in replays]})
        return
    for replay in replays:
        show(str(replay))
    reporter(to_stderr=True).note("every file and every answer is as it was written")
