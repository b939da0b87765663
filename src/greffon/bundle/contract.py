"""What every copy of a run's model must keep: how a picture becomes its input, and the answers to probe pictures.

`contract.json` beside the pictures in `probes/` needs nothing of Greffon to be checked: decode a PNG, put its pixels
into the model, compare.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.manifest import write_json
from greffon.bundle.onnx_form import INPUT, OUTPUT, TOLERANCE
from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from greffon.bundle.read import Bundle
    from greffon.pictures.resize import ResizeRule

    Array = np.ndarray[Any, Any]

CONTRACT = "contract.json"
COUNT = 8
"""Probe pictures in a run."""

CONTRACT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Probe:
    """A picture whose answer is known.

    Attributes:
        file: its name in the run.
        origin: `validation`, or `rendered` (`greffon.weights.probes`).
        probabilities: what the model gives for it, before any temperature, float32 (classes,).
        pixels: RGB, uint8 (size, size, 3).
    """

    file: str
    origin: str
    probabilities: Array
    pixels: Array


def choose_pixels(
    validation: pl.DataFrame, root: str | Path | None, size: int, rule: ResizeRule
) -> list[tuple[str, Array]]:
    """Eight pictures of the network's input size: of the validation pictures, rendered ones where those do not do.

    Args:
        validation: the prediction table of the validation pictures.
        root: where its relative paths start; None: no picture of the user's is kept.
        size: side of the network's input, in pixels.
        rule: how a picture becomes square.

    Returns:
        Origin and pixels, uint8 (size, size, 3), of each. Which ones are taken depends on the pictures' content
        alone: one of each class in turn, in the order of their hashes. One that cannot be read any more is passed
        over.
    """
    chosen: list[tuple[str, Array]] = []
    for pixels in () if root is None else _decoded(validation, root, size, rule):
        chosen.append(("validation", pixels))
        if len(chosen) == COUNT:
            return chosen
    return [*chosen, *(("rendered", pixels) for pixels in rendered(COUNT - len(chosen), size))]


def rendered(count: int, size: int) -> list[Array]:
    """Pictures that are the same on every machine, uint8 (size, size, 3) each."""
    from greffon.pictures.decode import decode_array
    from greffon.weights.probes import probe_pictures

    side = min(max(size, 8), 1024)
    return [decode_array(pixels, size, "stretch") for pixels in probe_pictures(count, side=side)] if count else []


def write_contract(
    folder: Path, terms: Mapping[str, Any], chosen: Sequence[tuple[str, Array]], probabilities: Array
) -> None:
    """Write the probe pictures, and `contract.json` with their answers.

    Args:
        folder: where the run is being written.
        terms: what else the contract says; `class_names` among it.
        chosen: from `choose_pixels`.
        probabilities: Keras' own for them, float32 (n, classes).
    """
    from PIL import Image

    (folder / "probes").mkdir()
    rows = []
    for number, ((origin, pixels), row) in enumerate(zip(chosen, probabilities, strict=True), 1):
        file = f"probes/{number}.png"
        Image.fromarray(pixels).save(folder / file, "PNG")
        values = [round(float(value), 7) for value in row]
        label = terms["class_names"][int(np.argmax(row))] if np.isfinite(row).all() else None
        rows.append({"file": file, "origin": origin, "label": label, "probabilities": values})
    write_json(
        folder / CONTRACT,
        {
            **terms,
            "version": CONTRACT_VERSION,
            "tolerance": TOLERANCE,
            "graph": {"input": INPUT, "output": OUTPUT},
            "probes": rows,
        },
    )


def contract_of(bundle: Bundle) -> dict[str, Any]:
    """The contract of a run, as it was written.

    Raises:
        InputError: the run holds none, it was changed, or a newer Greffon wrote it.
    """
    if CONTRACT not in bundle.manifest.files:
        raise InputError(
            f"run {bundle.path} holds no {CONTRACT}: greffon {bundle.manifest.greffon} wrote none, so there are no "
            "answers to compare with. Train again to have them"
        )
    terms = json.loads(bundle.file(CONTRACT).read_text(encoding="utf-8"))
    if int(terms["version"]) > CONTRACT_VERSION:
        raise InputError(
            f"run {bundle.path}: its contract has version {terms['version']}; this greffon reads versions up to "
            f"{CONTRACT_VERSION}. Install a newer greffon"
        )
    return dict(terms)


def probes_of(bundle: Bundle) -> list[Probe]:
    """The probe pictures of a run, read as any picture is.

    Raises:
        InputError: the run has no contract, or a file was changed.
        DataError: a picture cannot be read.
    """
    from greffon.pictures.decode import decode

    prepare = bundle.preprocessing
    return [
        Probe(
            probe["file"],
            probe["origin"],
            np.array([np.nan if value is None else value for value in probe["probabilities"]], np.float32),
            decode(bundle.file(probe["file"]), prepare.size, prepare.resize),
        )
        for probe in contract_of(bundle)["probes"]
    ]


def _decoded(validation: pl.DataFrame, root: str | Path, size: int, rule: ResizeRule) -> Iterator[Array]:
    from pathlib import Path

    from greffon.pictures.decode import decode
    from greffon.pictures.sources.locate import located

    for path in _in_turn(validation):
        try:
            yield decode(located(Path(root), path), size, rule)
        except DataError:
            continue


def _in_turn(validation: pl.DataFrame) -> list[str]:
    """Paths by the hash of their pictures, one of each class, then a second one of each, and so on."""
    rows = validation.select("path", "hash", "label").filter(validation["path"].is_not_null()).sort("hash", "path")
    seen: defaultdict[str, int] = defaultdict(int)
    turns = []
    for place, (path, _, label) in enumerate(rows.iter_rows()):
        turns.append((seen[str(label)], place, path))
        seen[str(label)] += 1
    return [path for _, _, path in sorted(turns)]
