"""Run a frozen graph on pictures, with the fastest engine that gives Keras' own numbers.

ONNX Runtime on the processor, through our own emitter; Keras itself where its backend has an accelerator, where the
emitter does not know a layer, or where the two disagree. Which one it became, and why, is said and never raised.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np

from greffon.errors import InputError
from greffon.frozen.agreement import made_up, relative_difference
from greffon.frozen.graph import GraphModel
from greffon.frozen.hardware import has_accelerator, usable_cores
from greffon.frozen.tuning import BATCH_SIZE, Tuning, default_tuning, recalled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.quantise import Calibration

    Array = npt.NDArray[Any]
    Float32 = npt.NDArray[np.float32]

PRECISIONS = ("fp32", "int8")

# ONNX Runtime must agree with Keras to this share of the largest output, or it is not used.
TOLERANCE = 1e-4


class Engine(ABC):
    """Computes the outputs of a graph for any number of pictures. Several threads may call `run`.

    Attributes:
        name: "onnx" or "keras".
        graph: what it computes.
        batch_size: the most pictures that are computed at once.
        threads: the number of threads that one batch is computed with; None where Keras' backend decides.
        precision: "fp32", or "int8" where convolutions are computed in 8 bits.
        why_not_onnx: why ONNX Runtime is not used, as a sentence; None where it is.
        rows: pictures computed so far.
        calls: how often `run` was called so far.
    """

    name: ClassVar[str]

    def __init__(self, graph: FlatGraph, *, batch_size: int = BATCH_SIZE, why_not_onnx: str | None = None) -> None:
        self.graph = graph
        self.batch_size = batch_size
        self.threads: int | None = None
        self.precision = "fp32"
        self.why_not_onnx = why_not_onnx
        self.rows = 0
        self.calls = 0
        self._count = threading.Lock()

    def run(self, inputs: Sequence[Array]) -> list[Float32]:
        """Compute the graph's outputs.

        Args:
            inputs: one array for each of `graph.inputs`, of shape (pictures, ...), channels last. Any number dtype:
                uint8 pictures are converted batch by batch, which costs under 1 % of computing them.

        Returns:
            One float32 array for each of `graph.outputs`, of shape (pictures, ...), channels last. From ONNX Runtime
            a picture's numbers are the same to the bit whichever pictures stand beside it; from Keras the last
            digits may differ.

        Raises:
            InputError: the number of arrays, their rows or their axes are not what the graph takes.
        """
        arrays = [np.asarray(array) for array in inputs]
        rows = self._check(arrays)
        starts = range(0, rows, self.batch_size)
        batches = [self._compute([array[start : start + self.batch_size] for array in arrays]) for start in starts]
        with self._count:
            self.rows += rows
            self.calls += 1
        if not batches:
            shapes = [self.graph.specs[tensor].shape[1:] for tensor in self.graph.outputs]
            return [np.zeros((0, *(size or 0 for size in shape)), np.float32) for shape in shapes]
        return batches[0] if len(batches) == 1 else [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def _compute(self, arrays: list[Array]) -> list[Float32]:
        given = zip(arrays, self.graph.inputs, strict=True)
        return self._run_batch([_as_keras_casts(array, self.graph, tensor) for array, tensor in given])

    @abstractmethod
    def _run_batch(self, arrays: list[Float32]) -> list[Float32]:
        """Compute at least one and at most `batch_size` pictures."""

    def _check(self, arrays: list[Array]) -> int:
        expected = [tuple(self.graph.specs[tensor].shape) for tensor in self.graph.inputs]
        shapes = [array.shape for array in arrays]
        fits = len(expected) == len(shapes) and all(_fits(*pair) for pair in zip(shapes, expected, strict=True))
        if not fits or len({shape[0] for shape in shapes}) != 1:
            raise InputError(
                f"inputs must be {len(expected)} array(s) with the same number of rows, of shape "
                f"{', '.join(map(str, expected))} where None is any size. Got {', '.join(map(str, shapes)) or 'none'}"
            )
        return int(shapes[0][0])


class OrtEngine(Engine):
    """ONNX Runtime on the processor.

    Args:
        graph: what to compute.
        model: the graph as ONNX.
        threads: threads for one batch; by default one for each core that this process may use.
        batch_size: the most pictures to compute at once.
    """

    name = "onnx"

    def __init__(
        self, graph: FlatGraph, model: bytes, *, threads: int | None = None, batch_size: int = BATCH_SIZE
    ) -> None:
        import onnxruntime

        super().__init__(graph, batch_size=batch_size)
        self.threads = threads or usable_cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors; warnings are about its own optimisations
        # Idle threads sleep: the cores belong to whoever decodes pictures or trains meanwhile, and waking a thread for
        # each layer of a batch costs next to nothing. Denormals are left alone: the option that flushes them does it
        # to the calling thread as well, for good; the emitter drops those in weights.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [put.name for put in self._session.get_inputs()]

    def _run_batch(self, arrays: list[Float32]) -> list[Float32]:
        return list(self._session.run(None, dict(zip(self._names, arrays, strict=True))))


class KerasEngine(Engine):
    """Keras' backend, compiled once for one batch size; smaller batches are filled up with their last picture."""

    name = "keras"

    def __init__(self, graph: FlatGraph, *, batch_size: int = BATCH_SIZE, why_not_onnx: str | None = None) -> None:
        super().__init__(graph, batch_size=batch_size, why_not_onnx=why_not_onnx)
        self._model = GraphModel(graph, output=[0] * len(graph.outputs))
        self._one_at_a_time = threading.Lock()

    def _run_batch(self, arrays: list[Float32]) -> list[Float32]:
        rows = len(arrays[0])
        full = [_filled_up(array, self.batch_size) for array in arrays]
        with self._one_at_a_time:
            outputs = self._model.predict_on_batch(full if len(full) > 1 else full[0])
        return [np.asarray(output, np.float32)[:rows] for output in outputs]


def build_engine(
    graph: FlatGraph,
    *,
    prefer: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    check: bool = True,
    precision: str = "fp32",
    calibration: Calibration | Quantisation | None = None,
    tuning: Tuning | None = None,
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

    Returns:
        The engine; its `why_not_onnx` says why it is Keras.

    Raises:
        InputError: an option is out of its range; or "int8" was asked for and the engine would be Keras, there is
            nothing to quantise, or it is not calibrated and there is nothing to calibrate it on.

    Example:
        >>> import keras, numpy as np
        >>> from greffon.frozen.engine import build_engine
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
    tuning = tuning or recalled(graph, precision) or default_tuning()
    tuning = Tuning(threads or tuning.threads, batch_size or tuning.batch_size)
    engine = reason or _try_onnx(graph, tuning, quantisation, check=check)
    if isinstance(engine, Engine):
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


def _try_onnx(graph: FlatGraph, tuning: Tuning, quantisation: Quantisation | None, *, check: bool) -> OrtEngine | str:
    """The engine, or why there is none."""
    try:
        from greffon.frozen.emit import Unsupported, emit

        try:
            model = emit(graph) if quantisation is None else emit(graph, quantisation=quantisation)
        except Unsupported as unsupported:
            return str(unsupported)
        engine = OrtEngine(graph, model, threads=tuning.threads, batch_size=tuning.batch_size)
        reason = disagreement(engine) if check and quantisation is None else None
    except Exception as error:  # whatever ONNX Runtime cannot do, Keras still can
        return f"ONNX Runtime failed: {type(error).__name__}: {error}"
    engine.precision = "fp32" if quantisation is None else "int8"
    return engine if reason is None else reason


def disagreement(engine: OrtEngine) -> str | None:
    """In what ONNX Runtime differs from Keras, or None. Keras is called layer by layer: nothing is compiled for it."""
    graph = engine.graph
    inputs = [_as_keras_casts(made_up(graph.specs[tensor].shape), graph, tensor) for tensor in graph.inputs]
    dtypes = [graph.specs[tensor].dtype for tensor in graph.inputs]
    tensors = [keras.ops.convert_to_tensor(array, dtype) for array, dtype in zip(inputs, dtypes, strict=True)]
    expected = [keras.ops.convert_to_numpy(output) for output in graph.run(tensors, training=False)]
    given = engine._run_batch(inputs)[: len(expected)]
    worst = max(map(relative_difference, given, expected), default=0.0)
    if worst <= TOLERANCE:
        return None
    return f"ONNX Runtime and Keras differ by {worst:.1e} of the largest output, more than {TOLERANCE:.0e}"


# --- arrays --------------------------------------------------------------------------------------------------------


def _as_keras_casts(array: Array, graph: FlatGraph, tensor: int) -> Float32:
    """Float32, by way of the whole numbers that Keras would make of it where the model's input is an integer."""
    dtype = keras.backend.standardize_dtype(graph.specs[tensor].dtype)
    if not dtype.startswith(("float", "bfloat")):
        array = array.astype(dtype, copy=False)
    return np.ascontiguousarray(array, np.float32)


def _filled_up(array: Float32, rows: int) -> Float32:
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or have == want for have, want in zip(shape[1:], expected[1:], strict=True)
    )
