"""What runs a frozen graph on pictures: ONNX Runtime on the processor, or Keras' backend."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np

from greffon.errors import InputError
from greffon.frozen.agreement import made_up, relative_difference
from greffon.frozen.graph import GraphModel
from greffon.frozen.hardware import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from greffon.frozen.graph import FlatGraph

    Array = npt.NDArray[Any]
    Float32 = npt.NDArray[np.float32]

# Where nothing was measured: 32 pictures of 224 pixels need 0.5 GB inside ResNet-50.
BATCH_SIZE = 32

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
        spin: whether threads wait for the next layer awake: some percent faster where nobody else needs the cores.
    """

    name = "onnx"

    def __init__(
        self,
        graph: FlatGraph,
        model: bytes,
        *,
        threads: int | None = None,
        batch_size: int = BATCH_SIZE,
        spin: bool = False,
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
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.add_session_config_entry("session.force_spinning_stop", "1")  # between two batches they sleep anyway
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
