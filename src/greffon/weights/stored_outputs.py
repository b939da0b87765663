"""What a known network gives for the probe pictures, kept by the SHA-256 of its weight file."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.weights.cache import make_folder, weights_dir
from greffon.weights.passage import Passage, channels_of, prepared, send
from greffon.weights.probes import PROBES_VERSION, probe_pictures
from greffon.weights.sets import PREPROCESSINGS

if TYPE_CHECKING:
    import keras

    from greffon.weights.sets import Preprocessing

_COUNT = 4
_SIDE = 64
# Of the largest feature. Backends and machines differ by up to 1e-4, TensorFloat-32 by 2e-3.
_TOLERANCE = 5e-3
_HALF_TOLERANCE = 5e-2  # where layers compute in half precision


@dataclass(frozen=True)
class ProbeOutputs:
    """What a network gave for the probe pictures.

    Attributes:
        features: of the backbone, averaged over height and width: float32 (n, channels).
        top: what the whole network gave: float32 (n, classes); None without a classifier.
        preprocessing: name of the record that the pictures were prepared with.
        probes: version of the probe pictures.
        side: of the pictures, in pixels.
    """

    features: Any
    top: Any = None
    preprocessing: str = "none"
    probes: int = PROBES_VERSION
    side: int = _SIDE


def outputs_of(model: keras.Model, preprocessing: Preprocessing) -> ProbeOutputs:
    """What a network gives for the probe pictures, as it is now.

    Args:
        model: a flat network; its weights have been proved in another way.
        preprocessing: what its weights were trained with; a record of `PREPROCESSINGS`.

    Raises:
        InputError: the network takes no pictures, or the record has no known name.

    Example:
        >>> import greffon
        >>> from greffon.weights.sets import PREPROCESSINGS
        >>> from greffon.weights.stored_outputs import outputs_of
        >>> outputs_of(greffon.resnet50(weights="thin"), PREPROCESSINGS["open_nsfw"]).features.shape
        (4, 1024)
    """
    if PREPROCESSINGS.get(preprocessing.name) != preprocessing:
        raise InputError(f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {preprocessing}")
    seen = passage_of(model, preprocessing)
    pooled_only = seen.top is not None and seen.features is not None and seen.top.shape == seen.features.shape
    return ProbeOutputs(seen.features, None if pooled_only else seen.top, preprocessing.name)


def passage_of(model: keras.Model, preprocessing: Preprocessing, *, side: int = _SIDE, count: int = _COUNT) -> Passage:
    """The probe pictures sent through a network as it is, stored statistics and all."""
    return send(model, prepared(probe_pictures(count, side=side), preprocessing, channels=channels_of(model)))


def difference_from(expected: ProbeOutputs, seen: Passage, *, half: bool = False) -> tuple[float, float] | None:
    """How far a network's answers are from the stored ones, and how far they may be; None where they agree.

    Both as a share of the largest stored value; the first is infinite where the shapes differ.
    """
    allowed = _HALF_TOLERANCE if half else _TOLERANCE
    far = _far(expected.features, seen.features)
    if expected.top is not None and seen.top is not None and seen.top.shape == expected.top.shape:
        far = max(far, _far(expected.top, seen.top))
    return None if far <= allowed else (far, allowed)


def known_outputs(sha256: str) -> ProbeOutputs | None:
    """The stored outputs of a weight file: those that come with Greffon, or were pinned on this machine.

    Args:
        sha256: of the file, 64 hex digits.

    Returns:
        None where there are none, or none for this version of the probe pictures.

    Raises:
        InputError: `sha256` is none.
    """
    name = _filename(sha256)
    for path in (Path(str(resources.files("greffon"))) / "assets" / "probes" / name, _pinned_dir() / name):
        if path.is_file():
            found = read_outputs(path)
            if found is not None and found.probes == PROBES_VERSION:
                return found
    return None


def pin(sha256: str, outputs: ProbeOutputs) -> Path:
    """Write down in the cache what a weight file's network gives, so that every later loading is compared with it.

    Args:
        sha256: of the file, 64 hex digits.
        outputs: from `outputs_of`.

    Returns:
        The file that was written.

    Raises:
        InputError: `sha256` is none, or the cache cannot be written.
    """
    path = make_folder(_pinned_dir()) / _filename(sha256)
    part = path.with_name(path.name + ".part")
    try:
        write_outputs(outputs, part)
        part.replace(path)
    except OSError as error:
        raise InputError(f"the stored outputs {path} cannot be written: {error.strerror or error}") from None
    return path


def write_outputs(outputs: ProbeOutputs, path: Path) -> None:
    """Write stored outputs as a `.npz` file, the same to the byte for the same numbers."""
    arrays: dict[str, Any] = {"features": np.asarray(outputs.features, np.float32)}
    if outputs.top is not None:
        arrays["top"] = np.asarray(outputs.top, np.float32)
    arrays["about"] = np.array([outputs.preprocessing, str(outputs.probes), str(outputs.side)])
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_outputs(path: Path) -> ProbeOutputs | None:
    """Stored outputs from a file; None where it is damaged: that is no reason to refuse weights."""
    try:
        # Opened here: NumPy leaves a file open that is no archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            preprocessing, probes, side = (str(value) for value in file["about"])
            top = file["top"] if "top" in file.files else None
            return ProbeOutputs(file["features"], top, preprocessing, int(probes), int(side))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _far(expected: Any, got: Any) -> float:
    if got is None or got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def _pinned_dir() -> Path:
    return weights_dir() / "probes"


def _filename(sha256: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", str(sha256)):
        raise InputError(f"a SHA-256 must be 64 hex digits, got {sha256!r}")
    return f"{sha256}.npz"
