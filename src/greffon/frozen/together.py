"""Several cuts of one model filled in one pass: the deepest trunk goes through the shallower ones anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.frozen.activations import chunks
from greffon.frozen.build import build_engine
from greffon.frozen.pipeline import overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.frozen.activations import Activations
    from greffon.frozen.engine import Engine
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.trunk import Load

    Array = np.ndarray[Any, Any]


class OnePass:
    """Computes what is missing of several activations of the same pictures.

    Args:
        graph: of the whole model, which all trunks are part of.
        parts: activations with the same keys, each behind another cut of the model.
        load: gives the model's inputs for rows of the common list of pictures.
        build: makes the engine of the common graph.
    """

    def __init__(
        self,
        graph: FlatGraph,
        parts: Sequence[Activations],
        load: Load,
        *,
        build: Callable[[FlatGraph], Engine] = build_engine,
    ) -> None:
        self.parts = list(parts)
        self._load = load
        self._build = build
        self._outputs = list(dict.fromkeys(t for part in self.parts for t in part.trunk.cut.trunk.outputs))
        self.graph = graph.between(graph.inputs, self._outputs)
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine that gives the tensors of all cuts; built when the first picture has to be computed."""
        if self._engine is None:
            self._engine = self._build(self.graph)
        return self._engine

    @property
    def engine_name(self) -> str | None:
        """Name of the engine that computed; None where nothing had to be computed."""
        return self._engine.name if self._engine else None

    def missing(self) -> Array:
        """Rows whose activation is missing behind one of the cuts."""
        missing = [part.trunk.missing(part.keys) for part in self.parts]
        return np.unique(np.concatenate(missing)).astype(int) if missing else np.arange(0)

    def run(self, advance: Callable[[int], None] | None = None) -> None:
        """Compute and store what is missing; then every part can be asked for any row.

        Pictures are read, computed and stored at the same time, some dozens at once: see `pipeline`. What was
        computed is stored when this is left, by an error or an interrupt too.

        Args:
            advance: called with the number of pictures stored since the last call.

        Raises:
            DoesNotFitFloat16: a part is kept in float16, and a number is too large for it.
            Exception: whatever `load` raises.
        """
        missing = self.missing()
        if missing.size:
            overlap(
                chunks(missing, self.engine.batch_size),
                read=self._load,
                compute=lambda inputs: self.engine.run(list(inputs)),
                write=self._put,
                done=None if advance is None else lambda rows: advance(len(rows)),
            )

    def _put(self, rows: Array, outputs: Sequence[Array]) -> bool:
        """Give every part its tensors; whether one of them could keep what it was given.

        Where neither memory nor disk takes them, what is computed now would be computed again later.
        """
        values = dict(zip(self._outputs, outputs, strict=True))
        for part in self.parts:
            part.put(rows, [values[tensor] for tensor in part.trunk.cut.trunk.outputs])
        return any(part.holds(rows) for part in self.parts)
