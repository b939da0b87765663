"""`greffon export`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from greffon.cli.output import Json, print_json, reporter, show


def export(  # a command's options
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    /,
    *,
    format: Annotated[  # noqa: A002  # the name of the flag
        Literal["keras", "savedmodel", "onnx", "openvino", "litert", "torch"],
        Parameter(name=["--format", "-f"], help="what to write"),
    ],
    out: Annotated[
        Path | None,
        Parameter(
            name=["--out", "-o"],
            show_default=False,
            help="the file, or for savedmodel, openvino and torch the folder; by default beside the run",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        Parameter(help="fp16 is for onnx, openvino, litert and torch; int8 for onnx, openvino and litert"),
    ] = "fp32",
    max_drop: Annotated[
        float,
        Parameter(help="with fp16 and int8: how much of the accuracy on the validation pictures may be lost, 0..1"),
    ] = 0.01,
    pictures: Annotated[
        Path | None,
        Parameter(
            show_default=False,
            help="the folder that the run was trained on: int8 is calibrated on its training pictures, and the loss is "
            "measured on its validation pictures; without it on rendered ones",
        ),
    ] = None,
    overwrite: Annotated[
        bool, Parameter(negative=(), show_default=False, help="replace an earlier export of this format")
    ] = False,
    json: Json = False,
) -> None:
    """Write a run's model for another runtime, and prove there that it answers as the run does.

    Preprocessing and temperature are inside: RGB pictures go in as bytes, (n, size, size, 3), probabilities come out.
    What was written is opened with the format's own runtime and has to answer the run's probe pictures to 1e-4, labels
    exactly (with fp16 and int8: lose no more than --max-drop); otherwise nothing stays, and the exit code is 4.
    openvino and litert need pip install "greffon[export]", torch needs PyTorch; where they are missing it is 2.

    Example: greffon export runs/first --format onnx -o first.onnx
    """
    from greffon.exporting.export import export as export_run

    found = export_run(
        run,
        format,
        out=out,
        precision=precision,
        max_drop=max_drop,
        pictures=pictures,
        overwrite=overwrite,
        progress=reporter(to_stderr=True),
    )
    if json:
        print_json({"run": run, **found.to_dict()})
    else:
        show(str(found))
