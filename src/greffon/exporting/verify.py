"""An exported file is asked for a run's probe pictures again, by its format's own runtime, wherever the file is now."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from greffon.bundle.contract import probes_of
from greffon.bundle.predict import Predictor
from greffon.bundle.read import read_bundle
from greffon.bundle.verify import check_files, check_replays, compare
from greffon.errors import CheckFailedError, GreffonError, InputError
from greffon.exporting.formats import FORMATS, Format, chosen
from greffon.exporting.proof import TOLERANCE, Proof, replay

_FOLDERS = {"saved_model.pb": "savedmodel", "model.xml": "openvino", "model.safetensors": "torch"}


def format_of(file: str | Path) -> Format:
    """Which format an exported file or folder has, by its name or by what lies in it.

    Raises:
        InputError: it is not there, or is none that `greffon export` writes.
    """
    place = Path(file).expanduser()
    if not place.exists():
        raise InputError(f"there is no such file or folder: {place}")
    for one in FORMATS.values():
        if not one.is_folder and place.is_file() and place.suffix.lower() == one.suffix:
            return one
    for name, kind in _FOLDERS.items():
        if (place / name).is_file():
            return FORMATS[kind]
    raise InputError(
        f"{place} is no run and nothing that greffon export writes: a file that ends in "
        f"{', '.join(one.suffix for one in FORMATS.values() if one.suffix)}, or a folder with one of "
        f"{', '.join(_FOLDERS)}"
    )


def is_export(file: str | Path) -> bool:
    """Whether this is rather an exported file or folder than a run."""
    place = Path(file).expanduser()
    return place.is_file() or any((place / name).is_file() for name in _FOLDERS)


def verify_export(file: str | Path, run: str | Path, *, tolerance: float = TOLERANCE) -> tuple[str, Proof]:
    """Let an exported file answer the probe pictures of the run that it was exported from.

    Args:
        file: the file or folder.
        run: the folder that training wrote; its own model has to keep its contract first.
        tolerance: by how much a probability may differ; fp16 and int8 need more than the 1e-4 of fp32. Labels may not
            differ at all.

    Returns:
        The format's name, and how it answered.

    Raises:
        InputError: the file is of no known format, a package is missing, or the run holds no contract.
        CheckFailedError: an answer differs by more, a label is another, or a file of the run was changed.

    Example:
        >>> from greffon.exporting.verify import verify_export
        >>> verify_export("first.onnx", "runs/first")  # doctest: +SKIP
    """
    if not 0 < tolerance <= 1:
        raise InputError(f"the tolerance must be above 0 and at most 1, got {tolerance}")
    kind = chosen(format_of(file).name, "fp32")
    check_files(run)
    bundle = read_bundle(run)
    probes, predictor = probes_of(bundle), Predictor(bundle)
    pixels = np.stack([probe.pixels for probe in probes])
    (ours,) = predictor.engine.run([pixels])
    check_replays([compare("the run itself", probes, ours, several_labels=bundle.several_labels)])
    # From the run's own answers, not from the promised ones: a temperature makes much of the digits that they lack.
    expected = ours if bundle.calibration is None else bundle.calibration.apply(ours)
    try:
        answer = kind.exporter().opened(Path(file).expanduser())
    except GreffonError:
        raise
    except Exception as error:  # each library has its own kinds
        why = " ".join(str(error).split())[:500]
        raise CheckFailedError(f"{file} cannot be opened as {kind.name}: {type(error).__name__}: {why}") from error
    proof = replay(answer, pixels, expected, several_labels=bundle.several_labels)
    if proof.difference > tolerance or proof.changed:
        raise CheckFailedError(
            f"{file} does not answer as the run {bundle.path} does: {proof}. Probabilities may differ by "
            f"{tolerance:g}, labels not at all"
        )
    return kind.name, proof
