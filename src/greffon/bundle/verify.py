"""Replaying a run's probe pictures: whether this copy of the model still gives the answers that it was written with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.contract import contract_of, probes_of
from greffon.bundle.onnx_form import TOLERANCE, keras_answers
from greffon.bundle.predict import Predictor
from greffon.bundle.read import damages, read_bundle
from greffon.errors import CheckFailedError
from greffon.evaluation.table import THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.bundle.contract import Probe

    Array = np.ndarray[Any, Any]

__all__ = ["Replay", "check_files", "check_replays", "compare", "verify"]


@dataclass(frozen=True)
class Replay:
    """How one engine answered the probe pictures.

    Attributes:
        engine: `onnx` or `keras`.
        probes: how many pictures.
        difference: the largest difference of a probability from the promised one; None where a model gave no number.
        changed: pictures whose label is another, by their name in the run.
        kept: whether the difference is within 1e-4 and no label changed.
    """

    engine: str
    probes: int
    difference: float | None
    changed: tuple[str, ...]
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        what = "gave no number" if self.difference is None else f"differ by at most {self.difference:.1e}"
        labels = f"other labels for {', '.join(self.changed)}" if self.changed else "the same labels"
        return f"{self.engine}: {self.probes} probe pictures, probabilities {what}, {labels}"


def verify(
    run: str | Path, *, keras: bool = False, custom_objects: Mapping[str, Any] | None = None
) -> tuple[Replay, ...]:
    """Check every file of a run against its manifest, and let its model answer the probe pictures again.

    Args:
        run: the folder that training wrote.
        keras: replay them through Keras too; else only where the run holds no ONNX file.
        custom_objects: classes by name, where the model holds layers of your own.

    Returns:
        What each engine answered, kept or not; `check_replays` raises where one did not keep it.

    Raises:
        InputError: it is no run, or one without a contract.
        CheckFailedError: a file is missing or was changed.
    """
    check_files(run)
    bundle = read_bundle(run)
    several = bool(contract_of(bundle)["several_labels"])
    probes = probes_of(bundle)
    pixels = np.stack([probe.pixels for probe in probes])
    predictor = Predictor(bundle, custom_objects=custom_objects)
    replays = []
    if predictor.runs_on_onnx:
        replays.append(compare("onnx", probes, predictor.engine.run([pixels])[0], several_labels=several))
    if keras or not replays:
        answers = keras_answers(predictor.keras(), pixels)
        replays.append(compare("keras", probes, answers, several_labels=several))
    return tuple(replays)


def check_files(run: str | Path) -> None:
    """Compare every file of a run with its manifest.

    Raises:
        InputError: it is no run, or a newer Greffon wrote it.
        CheckFailedError: files are missing or were changed; with one line for each.
    """
    bad = damages(Path(run).expanduser())
    if bad:
        raise CheckFailedError("\n".join(bad))


def compare(engine: str, probes: Sequence[Probe], answers: Array, *, several_labels: bool = False) -> Replay:
    """Compare answers with the promised ones.

    Args:
        engine: what gave them.
        probes: the pictures with the promised answers.
        answers: probabilities, (n, classes).
        several_labels: whether a label is every class of at least 0.5, or else the one with the most.
    """
    promised = np.stack([probe.probabilities for probe in probes])
    if answers.shape != promised.shape:
        raise CheckFailedError(f"{engine}: expected probabilities of shape {promised.shape}, got {answers.shape}")
    difference = np.abs(answers.astype(np.float64) - promised)
    changed = tuple(
        probe.file
        for probe, row, want in zip(probes, answers, promised, strict=True)
        if not np.array_equal(_label(row, several_labels), _label(want, several_labels))
    )
    finite = bool(np.isfinite(difference).all())
    largest = float(difference.max()) if finite else None
    return Replay(engine, len(probes), largest, changed, largest is not None and largest <= TOLERANCE and not changed)


def check_replays(replays: Sequence[Replay]) -> None:
    """Raise where an engine did not keep the contract.

    Raises:
        CheckFailedError: with one line for each such engine.
    """
    broken = [str(replay) for replay in replays if not replay.kept]
    if broken:
        raise CheckFailedError(
            "\n".join(["the model does not give the answers that it was written with:", *broken])
            + f"\nProbabilities may differ by {TOLERANCE:.0e}, labels not at all. Another version or build of the "
            "engine is the likeliest reason where no file was changed"
        )


def _label(row: Array, several_labels: bool) -> Array:
    return row >= THRESHOLD if several_labels else np.argmax(row, keepdims=True)
