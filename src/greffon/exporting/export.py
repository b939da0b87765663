"""A run as a file for another runtime, which is opened there and has to answer as the run does, or is not written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from greffon.bundle.read import read_bundle
from greffon.errors import CheckFailedError, GreffonError, InputError
from greffon.exporting.formats import FORMATS, Format, FormatName, Precision, chosen
from greffon.exporting.proof import Drop, Proof, check, check_drop, measure_drop, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import numpy as np

    from greffon.bundle.read import Bundle
    from greffon.exporting.formats import Answer, Calibration
    from greffon.exporting.shipped import Shipped

__all__ = ["FORMATS", "MAX_DROP", "Exported", "FormatName", "Precision", "export"]

MAX_DROP = 0.01
"""How much accuracy a lower precision may cost, unless more or less is asked for."""


class Bars(Protocol):
    """Something that shows progress, such as a training's reporter."""

    def bar(self, name: str, *, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """Count work that takes a while; gives a function to call with how many more are done."""


@dataclass(frozen=True)
class Exported:
    """An export that was written.

    Attributes:
        path: the file, or the folder.
        format: its name.
        precision: `fp32`, `fp16` or `int8`.
        bytes: its size.
        proof: how it answered the probe pictures.
        drop: what the lower precision costs; None in fp32.
        notes: what the user should know, one sentence each.
    """

    path: Path
    format: str
    precision: str
    bytes: int
    proof: Proof
    drop: Drop | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        values = {**vars(self), "path": str(self.path), "proof": dict(vars(self.proof)), "notes": list(self.notes)}
        return {**values, "drop": None if self.drop is None else self.drop.to_dict()}

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.format}, {self.precision}, {self.bytes / 1e6:.1f} MB)", str(self.proof)]
        return "\n".join([*lines, *([] if self.drop is None else [str(self.drop)]), *self.notes])


def export(  # noqa: PLR0913  # all but two are options, by keyword only
    run: str | Path,
    format: FormatName,  # noqa: A002  # what everybody calls it
    *,
    out: str | Path | None = None,
    precision: Precision = "fp32",
    max_drop: float = MAX_DROP,
    pictures: str | Path | None = None,
    overwrite: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    progress: Bars | None = None,
) -> Exported:
    """Write a run's model for another runtime, with its preprocessing and its temperature inside.

    It takes RGB pictures, uint8 (n, size, size, 3), any n, and gives probabilities, float32 (n, classes): those of
    `greffon.load(run).predict`. What was written is opened with the format's own runtime and has to answer the run's
    probe pictures as the run does, at two batch sizes; only then does it get its name.

    Args:
        run: the folder that training wrote.
        format: `keras`, `savedmodel`, `onnx`, `openvino`, `litert` or `torch`.
        out: the file, or for savedmodel, openvino and torch the folder; None: beside the run, named after it.
        precision: `fp32`; `fp16` for onnx, openvino, litert and torch; `int8` for onnx, openvino and litert.
        max_drop: with fp16 or int8, how much of the accuracy on the run's validation pictures may be lost, 0..1.
        pictures: the folder that the run was trained on: there int8 finds training pictures to be calibrated on, and
            the drop is measured on its validation pictures. None: they are looked for where the run says they are if
            it does so by absolute paths; otherwise rendered pictures take their place.
        overwrite: an earlier export of the same format may be replaced.
        custom_objects: classes by name, where the model holds layers of your own.
        progress: shows how far the measuring is.

    Raises:
        InputError: format and precision do not go together, a package is missing, the model cannot be written in this
            format, the place cannot be written to, or `pictures` has none of the run's.
        CheckFailedError: the export answers otherwise than the run, or loses more than `max_drop`.
        GreffonError: the format's library fails.

    Example:
        >>> from greffon.exporting.export import export
        >>> print(export("runs/first", "onnx"))  # doctest: +SKIP
        runs/first.onnx (onnx, fp32, 31.6 MB)
        8 probe pictures in batches of 1 and 8: probabilities differ by at most 2.4e-07, the same labels
    """
    from greffon.exporting.pictures import checked_root
    from greffon.exporting.shipped import ship

    kind = chosen(format, precision)
    if not 0 <= max_drop <= 1:
        raise InputError(f"max_drop must be in 0..1, got {max_drop}")
    root = checked_root(pictures)
    bundle = read_bundle(run)
    place = _checked_place(bundle, kind, precision, out, overwrite=overwrite)
    shipped = ship(bundle, custom_objects=custom_objects)
    notes: list[str] = []
    with _beside(place, kind) as unfinished:
        _write(kind, shipped, unfinished, precision, lambda: _calibrating(bundle, root, notes))
        answer = _opened(kind, unfinished)
        proof = replay(answer, shipped.probes, shipped.expected, several_labels=shipped.several_labels)
        drop = None
        if precision == "fp32":
            check(proof)
        else:
            drop = _drop(answer, bundle, shipped, proof, root, progress)
            check_drop(drop, max_drop)
            if drop.measured_on == "validation" and drop.pictures < len(bundle.table):
                notes.append(f"{drop.pictures:,} of {len(bundle.table):,} validation pictures could be read")
        del answer  # some systems do not rename what is open
        size = sum(file.stat().st_size for file in (unfinished, *unfinished.rglob("*")) if file.is_file())
        _take_place(unfinished, place)
    return Exported(place, kind.name, precision, size, proof, drop, tuple(notes))


def _write(kind: Format, shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    try:
        kind.exporter().write(shipped, place, precision, calibration)
    except (GreffonError, OSError):
        raise
    except Exception as error:  # each library has its own kinds, and layers of the user's own may raise anything
        raise GreffonError(
            f"{kind.name} could not be written: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        ) from error


def _calibrating(bundle: Bundle, root: Path | None, notes: list[str]) -> np.ndarray[Any, Any]:
    from greffon.exporting.pictures import calibration_pictures

    found, which = calibration_pictures(bundle, root)
    if which == "rendered":
        notes.append(
            "Calibrated on rendered pictures, as the training pictures were not found: give the folder that the run "
            "was trained on (--pictures) for ranges of your own"
        )
    return found


def _drop(
    answer: Answer, bundle: Bundle, shipped: Shipped, proof: Proof, root: Path | None, progress: Bars | None
) -> Drop:
    from greffon.exporting.pictures import validation_pictures

    labelled = validation_pictures(bundle, root)
    several, classes = shipped.several_labels, len(bundle.class_names)
    with contextlib.ExitStack() as stack:
        if progress is not None and labelled is not None:
            advance = stack.enter_context(progress.bar("measure", total=len(bundle.table)))
            labelled = dataclasses.replace(labelled, advance=advance)
        return measure_drop(answer, labelled, proof, several_labels=several, classes=classes)


def _opened(kind: Format, place: Path) -> Answer:
    try:
        return kind.exporter().opened(place)
    except Exception as error:  # each runtime has its own kinds
        raise CheckFailedError(
            f"{kind.name} cannot be opened again: {' '.join(str(error).split())[:500]}. Nothing was written"
        ) from error


# --- where it goes -------------------------------------------------------------------------------------------------


def _checked_place(bundle: Bundle, kind: Format, precision: str, out: str | Path | None, *, overwrite: bool) -> Path:
    """Where the export goes, once it is known that it may."""
    run = bundle.path.resolve()
    if out is None:
        precise = "" if precision == "fp32" else f"-{precision}"
        place = run.with_name(f"{run.name}{f'-{kind.name}' if kind.is_folder else ''}{precise}{kind.suffix}")
    else:
        given = Path(out).expanduser()
        place = given.parent.resolve() / given.name
    if kind.suffix and place.suffix != kind.suffix:
        raise InputError(f"{kind.name} is a file whose name ends with {kind.suffix}, got {place.name!r}")
    if place == run or run in place.parents:
        raise InputError(f"{place} is inside of the run, which holds what training wrote and nothing else")
    if not place.parent.is_dir():
        raise InputError(f"there is no folder {place.parent} to write into")
    if place.exists() or place.is_symlink():
        _check_taken(place, kind, overwrite=overwrite)
    return place


def _check_taken(place: Path, kind: Format, *, overwrite: bool) -> None:
    if not overwrite:
        raise InputError(
            f"{place} is there already: give another name, or replace it with overwrite=True (--overwrite)"
        )
    if place.is_dir() != kind.is_folder or place.is_symlink():
        raise InputError(f"{place} is no earlier export as {kind.name}, and is not replaced")
    if kind.is_folder and any(place.iterdir()) and not (place / _TELLING[kind.name]).is_file():
        raise InputError(f"{place} is no earlier export as {kind.name} and would be lost: give another name")


_TELLING = {
    "savedmodel": "assets.extra/greffon.json",
    "openvino": "greffon.json",
    "torch": "model.safetensors",
}


@contextlib.contextmanager
def _beside(place: Path, kind: Format) -> Iterator[Path]:
    """A name in a folder of its own on the same disk; nothing of it stays."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".greffon-export-", dir=place.parent))
    except OSError as error:
        raise InputError(f"{place.parent} cannot be written to: {error.strerror or error}") from None
    try:
        unfinished = folder / f"model{kind.suffix}"
        if kind.is_folder:
            unfinished.mkdir()
        yield unfinished
    except OSError as error:
        raise InputError(f"{place} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_place(unfinished: Path, place: Path) -> None:
    """Give it its name; an earlier export stays until the new one is whole and on the disk."""
    for file in (unfinished, *unfinished.rglob("*")):
        if file.is_file():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    if place.is_dir():
        place.rename(unfinished.with_name("old"))
        try:
            unfinished.rename(place)
        except OSError:
            unfinished.with_name("old").rename(place)
            raise
    else:
        unfinished.replace(place)
