"""What a graph has to know of its pictures to be computed in 8 bits: observed once in float32, and remembered.

Remembered by the content of what computes a tensor (see `emit.quantised`), in the cache folder: all cuts of a network,
and all runs on this machine, share one calibration, so that their activations stay the same when pictures are added.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.frozen.agreement import norm_difference
from greffon.frozen.emit.quantised import QUANTISATION_VERSION, Observed, Quantisation
from greffon.frozen.engine import OrtEngine, disagreement
from greffon.frozen.hardware import sums_bytes_exactly
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from greffon.frozen.emit.quantised import Quantiser
    from greffon.frozen.graph import FlatGraph

    Array = np.ndarray[Any, Any]
    # Gives some of the user's own pictures: one array of shape (pictures, ...) per input of the graph.
    Calibration = Callable[[], Sequence[Array]]

# So many pictures are observed; so many decide between the two kinds of range.
PICTURES, DECIDING = 16, 8

# So many tensors are remembered of one family of networks.
_MOST = 4096

_TYPICAL = "typical"

# What this process has observed, by file: where nothing can be written, its trunks still agree.
_in_memory: dict[str, dict[str, Array]] = {}
_lock = threading.Lock()


def quantisation_of(graph: FlatGraph, calibration: Calibration | None = None) -> Quantisation:
    """Ranges of the tensors that a graph holds in bytes: remembered, or observed on some pictures.

    Observing costs one pass of the pictures in float32 and two short ones in 8 bits. Whether bytes cover all numbers
    that were seen, or the mean of the pictures' extremes, is decided by which outputs come nearer to float32.

    Args:
        graph: what is to be computed, as in `build_engine`.
        calibration: called when something is not known yet; gives one array per input of the graph, of which the
            first 16 pictures are used. A few of the user's own pictures, as the graph takes them.

    Returns:
        What `emit` takes; with weights of 7 bits where this processor sums products of bytes in 16 bits.

    Raises:
        InputError: a layer is not known to ONNX Runtime's emitter, nothing can be quantised, pictures are needed and
            there are none, or they give numbers that are not finite.

    Example:
        >>> import keras, numpy as np
        >>> from greffon.frozen.graph import flatten
        >>> from greffon.frozen.quantise import quantisation_of
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu")])
        >>> some = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
        >>> len(quantisation_of(flatten(model), lambda: [some]).observed)
        2
    """
    quantiser, stem = _quantisable(graph)
    bits = 8 if sums_bytes_exactly() else 7
    with _lock:
        known = _recall(stem)
        if not all(key in known for key in (*quantiser.keys, _TYPICAL)):
            if calibration is None:
                raise InputError(
                    'precision="int8" is calibrated on pictures, and nothing is remembered for this network: '
                    "give `calibration`, a function that gives some of yours"
                )
            pictures = _checked(calibration())
            seen, outputs = _observe(graph, quantiser, pictures)
            known = {key: _packed(observed) for key, observed in seen.items()} | known
            if _TYPICAL not in known:
                ways = [Quantisation(seen, typical=typical, weight_bits=bits) for typical in (True, False)]
                distances = [_distance(graph, quantiser.quantised(how), pictures, outputs) for how in ways]
                known[_TYPICAL] = np.array([distances[0] <= distances[1]], np.float32)
            _remember(stem, known)
    observed = {key: _unpacked(known[key]) for key in quantiser.keys}
    return Quantisation(observed, typical=bool(known[_TYPICAL][0]), weight_bits=bits)


def _quantisable(graph: FlatGraph) -> tuple[Quantiser, str]:
    from greffon.frozen.emit import Unsupported, find_quantisable

    try:
        quantiser = find_quantisable(graph)
    except Unsupported as unsupported:
        raise InputError(f'precision="int8" needs ONNX Runtime, but {unsupported}. Leave it at "fp32"') from None
    if quantiser.stem is None:
        raise InputError(
            'precision="int8" is for convolutions, and the frozen part has none. Leave it at "fp32", or freeze more'
        )
    return quantiser, quantiser.stem


def _checked(pictures: Sequence[Array]) -> list[Array]:
    arrays = [np.asarray(array)[:PICTURES] for array in pictures]
    if not arrays or any(not array.ndim or not len(array) for array in arrays):
        raise InputError(
            "calibration must give at least one picture: one array of shape (pictures, ...) for each input of the "
            f"model. Got {', '.join(str(array.shape) for array in arrays) or 'no arrays'}"
        )
    return arrays


# --- observing -----------------------------------------------------------------------------------------------------


def _observe(graph: FlatGraph, quantiser: Quantiser, pictures: list[Array]) -> tuple[dict[str, Observed], list[Array]]:
    """What tensors are in float32, by key; and the graph's own outputs for the first pictures."""
    engine = OrtEngine(graph, quantiser.observing(), batch_size=DECIDING)
    if reason := disagreement(engine):
        raise InputError(f'precision="int8" needs ONNX Runtime, but {reason}. Leave it at "fp32"')
    values = engine.run(pictures)
    seen = quantiser.observed(values)
    if not all(np.isfinite(_packed(each)).all() for each in seen.values()):
        raise InputError(
            "the calibration pictures give numbers that are infinite or no numbers inside the network: it cannot be "
            'computed in 8 bits. Leave precision at "fp32"'
        )
    return seen, [value[:DECIDING] for value in values[: len(graph.outputs)]]


def _distance(graph: FlatGraph, model: bytes, pictures: list[Array], outputs: list[Array]) -> float:
    """How far a model's outputs for the first pictures lie from those in float32."""
    ours = OrtEngine(graph, model, batch_size=DECIDING).run([array[:DECIDING] for array in pictures])
    return sum(map(norm_difference, ours, outputs))


# --- remembering ---------------------------------------------------------------------------------------------------


def _file(stem: str) -> Path:
    return cache_dir() / "quantisation" / f"{stem}.npz"


def _recall(stem: str) -> dict[str, Array]:
    """What is remembered; an unreadable file is nothing."""
    file = _file(stem)
    held = _in_memory.get(str(file), {})
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            found = {key: stored[key] for key in stored.files}
    except Exception:  # whatever is wrong with a zip file, numpy and zlib have many names for it
        return held
    version = found.pop("version", None)
    sound = version is not None and version.tolist() == [QUANTISATION_VERSION] and all(map(_is_sound, found.values()))
    return held | found if sound else held


def _is_sound(array: Array) -> bool:
    return array.dtype == np.float32 and array.ndim == 1 and bool(len(array)) and bool(np.isfinite(array).all())


def _remember(stem: str, known: Mapping[str, Array]) -> None:
    """Keep it for this process, and for others where the cache folder can be written to."""
    file = _file(stem)
    kept = dict(list(known.items())[:_MOST])  # what was observed last comes first
    kept[_TYPICAL] = known[_TYPICAL]
    _in_memory[str(file)] = kept
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.part")
        with temporary.open("wb") as out:
            arrays: dict[str, Any] = {"version": np.array([QUANTISATION_VERSION]), **kept}
            np.savez(out, **arrays)
        temporary.replace(file)
    except OSError:
        return


def _packed(seen: Observed) -> Array:
    numbers = [seen.low, seen.high, seen.typical_low, seen.typical_high]
    return np.concatenate([numbers, seen.means]).astype(np.float32)


def _unpacked(array: Array) -> Observed:
    low, high, typical_low, typical_high = map(float, array[:4])
    return Observed(low, high, typical_low, typical_high, array[4:])
