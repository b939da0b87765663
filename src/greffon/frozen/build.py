"""Choose and prepare the fastest engine that gives Keras' own numbers.

ONNX Runtime on the processor, through our own emitter; Keras itself where its backend has an accelerator, where the
emitter does not know a layer, or where the two disagree. Which one it became, and why, is said and never raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greffon.errors import InputError
from greffon.frozen.engine import Engine, KerasEngine, OrtEngine, disagreement
from greffon.frozen.hardware import has_accelerator
from greffon.frozen.tuning import Tuning, default_tuning, recalled, tuned

if TYPE_CHECKING:
    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.quantise import Calibration

PRECISIONS = ("fp32", "int8")


def build_engine(  # noqa: PLR0913  # all but one are options, by keyword only
    graph: FlatGraph,
    *,
    prefer: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    check: bool = True,
    precision: str = "fp32",
    calibration: Calibration | Quantisation | None = None,
    tuning: Tuning | None = None,
    pictures: int = 0,
    spin: bool = False,
) -> Engine:
    """Choose and prepare the engine for a graph. Weights are read now: change them, and build it again.

    Args:
        graph: the calls, from `flatten` or `find_cut`; run as outside training.
        prefer: "auto" takes Keras where its backend has an accelerator and ONNX Runtime elsewhere; "onnx" takes ONNX
            Runtime if it can; "keras" takes Keras. The accelerator path is untested.
        threads: threads of ONNX Runtime; by default those of `tuning`.
        batch_size: the most pictures that are computed at once, at least 1; by default that of `tuning`.
        check: compare ONNX Runtime with Keras on two made-up pictures, to 1e-4 of the largest output, and take Keras
            if they differ. Leave it out only for a graph and weights that were checked before. With "int8" the
            float32 form is compared, when it is calibrated.
        precision: "fp32", equal to Keras to rounding; or "int8", convolutions in 8 bits, which is faster and close.
        calibration: with "int8", what to call for some of the user's pictures where no ranges are remembered, or the
            ranges themselves; see `quantisation_of`.
        tuning: threads and batch size; by default what `tuned` measured here earlier, else all cores and 32 pictures.
        pictures: how many will be computed, where that is known: for many, threads and batch size are measured first.
        spin: whether threads of ONNX Runtime wait awake, where nobody decodes or trains beside them.

    Returns:
        The engine; its `why_not_onnx` says why it is Keras.

    Raises:
        InputError: an option is out of its range; or "int8" was asked for and the engine would be Keras, there is
            nothing to quantise, or it is not calibrated and there is nothing to calibrate it on.

    Example:
        >>> import keras, numpy as np
        >>> from greffon.frozen.build import build_engine
        >>> from greffon.frozen.graph import flatten
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
        >>> engine = build_engine(flatten(model))
        >>> engine.name, engine.run([np.zeros((2, 32, 32, 3), np.uint8)])[0].shape
        ('onnx', (2, 3600))
    """
    if any(number is not None and number < 1 for number in (threads, batch_size)):
        raise InputError(f"batch_size and threads must be at least 1. Got {batch_size} and {threads}")
    reason = why_keras(prefer, precision)
    quantisation = _quantisation(graph, calibration) if precision == "int8" else None
    model = reason or _emitted(graph, quantisation)
    if tuning is None and pictures and isinstance(model, bytes):
        tuning = tuned(graph, precision, pictures=pictures, model=model)
    tuning = tuning or recalled(graph, precision) or default_tuning()
    tuning = Tuning(threads or tuning.threads, batch_size or tuning.batch_size)
    checked = check and quantisation is None
    engine = model if isinstance(model, str) else _try_onnx(graph, model, tuning, check=checked, spin=spin)
    if isinstance(engine, Engine):
        engine.precision = precision
        return engine
    if precision == "int8":
        raise InputError(f'precision="int8" needs ONNX Runtime, but {engine}. Leave it at "fp32"')
    return KerasEngine(graph, batch_size=tuning.batch_size, why_not_onnx=engine)


def _quantisation(graph: FlatGraph, calibration: Calibration | Quantisation | None) -> Quantisation:
    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.quantise import quantisation_of

    return calibration if isinstance(calibration, Quantisation) else quantisation_of(graph, calibration)


def why_keras(prefer: str, precision: str) -> str | None:
    """Why the engine is Keras whatever the graph is, or None.

    Raises:
        InputError: an option has no such value, or "int8" was asked for and the engine is Keras.
    """
    if prefer not in ("auto", "onnx", "keras"):
        raise InputError(f'prefer must be "auto", "onnx" or "keras". Got {prefer!r}')
    if precision not in PRECISIONS:
        raise InputError(f'precision must be "fp32" or "int8". Got {precision!r}')
    reason = None
    if prefer == "keras":
        reason = "Keras was asked for"
    elif prefer == "auto" and has_accelerator():
        reason = "Keras' backend has an accelerator"
    if reason and precision == "int8":
        raise InputError(f'precision="int8" is for ONNX Runtime, but {reason}. Leave it at "fp32", or prefer "onnx"')
    return reason


def _emitted(graph: FlatGraph, quantisation: Quantisation | None) -> bytes | str:
    """The graph as ONNX, or why it cannot be had. A hundred megabytes: written once, for measuring and for use."""
    try:
        from greffon.frozen.emit import Unsupported, emit

        try:
            return emit(graph) if quantisation is None else emit(graph, quantisation=quantisation)
        except Unsupported as unsupported:
            return str(unsupported)
    except Exception as error:  # whatever ONNX cannot say, Keras still can
        return _failed(error)


def _try_onnx(graph: FlatGraph, model: bytes, tuning: Tuning, *, check: bool, spin: bool) -> OrtEngine | str:
    """The engine, or why there is none."""
    try:
        engine = OrtEngine(graph, model, threads=tuning.threads, batch_size=tuning.batch_size, spin=spin)
        reason = disagreement(engine) if check else None
    except Exception as error:  # whatever ONNX Runtime cannot do, Keras still can
        return _failed(error)
    return engine if reason is None else reason


def _failed(error: Exception) -> str:
    return f"ONNX Runtime failed: {type(error).__name__}: {error}"
