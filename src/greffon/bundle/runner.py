"""ONNX Runtime for a run's model, without TensorFlow or Keras: the engine of `predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.frozen.hardware import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]

BATCH_SIZE = 32
"""The most pictures that are computed at once: 32 of 224 pixels need 0.5 GB inside ResNet-50."""


class OnnxRunner:
    """Computes a model's outputs for any number of pictures. Several threads may call `run`.

    Args:
        model: an ONNX file with one input of pictures, or its content; ONNX Runtime reads a file without a copy of it.
        threads: threads for one batch; by default one for each core that this process may use.
        batch_size: the most pictures to compute at once, at least 1.

    Attributes:
        name: "onnx".
        outputs: what the model gives, by name, what `run` computes unless told otherwise first.

    Raises:
        InputError: ONNX Runtime cannot open it.
    """

    name = "onnx"

    def __init__(self, model: Path | bytes, *, threads: int | None = None, batch_size: int = BATCH_SIZE) -> None:
        import onnxruntime

        self.threads = threads or usable_cores()
        self.batch_size = batch_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors; warnings are about its own optimisations
        # Idle threads sleep: the cores belong to whoever decodes pictures meanwhile.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            source = model if isinstance(model, bytes) else str(model)
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own kinds have no common base
            raise InputError(f"ONNX Runtime {onnxruntime.__version__} cannot open the model: {error}") from error
        self._input = self._session.get_inputs()[0]
        self._dtype = np.uint8 if self._input.type == "tensor(uint8)" else np.float32
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        # What is not asked for is not computed.
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = len(self.outputs) > 1

    def run(self, inputs: Sequence[Array], *, wanted: Sequence[str] = ()) -> list[Array]:
        """Compute outputs.

        Args:
            inputs: one array of RGB pictures 0..255, (n, size, size, 3), any number dtype; floats are rounded where the
                file takes uint8, which it does unless an older Greffon wrote it.
            wanted: names of outputs; by default the first one, which a run's model calls `probabilities`.

        Returns:
            Each wanted output as float32 (n, ...). A picture's numbers are the same to the bit whichever pictures stand
            beside it.

        Raises:
            InputError: the array has not the shape that the model takes, or it has no such output.
        """
        names = list(wanted) or [self.outputs[0]]
        absent = [name for name in names if name not in self.outputs]
        if absent:
            raise InputError(f"the model gives {', '.join(self.outputs)}; it has no {', '.join(absent)}")
        (pictures,) = inputs
        want = self._input.shape
        if pictures.ndim != len(want) or any(
            isinstance(size, int) and size != have for size, have in zip(want[1:], pictures.shape[1:], strict=True)
        ):
            raise InputError(f"pictures must have the shape {tuple(want)}, got {pictures.shape}")
        starts = range(0, max(len(pictures), 1), self.batch_size)
        parts = [self._compute(pictures[start : start + self.batch_size], names) for start in starts]
        return parts[0] if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _compute(self, pictures: Array, names: list[str]) -> list[Array]:
        if self._dtype == np.uint8 and pictures.dtype.kind == "f":
            pictures = np.rint(pictures).clip(0, 255)
        values = {self._input.name: np.ascontiguousarray(pictures, self._dtype)}
        return list(self._session.run(names, values, self._options))
