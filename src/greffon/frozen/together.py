"""Several cuts of one model filled in one pass: the deepest trunk goes through the shallower ones anyway."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.frozen.activations import CHUNK
from greffon.frozen.engine import build_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    """

    def __init__(self, graph: FlatGraph, parts: Sequence[Activations], load: Load) -> None:
        self.parts = list(parts)
        self._load = load
        self._outputs = list(dict.fromkeys(t for part in self.parts for t in part.trunk.cut.trunk.outputs))
        self.graph = graph.between(graph.inputs, self._outputs)
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine that gives the tensors of all cuts; built when the first picture has to be computed."""
        if self._engine is None:
            self._engine = build_engine(self.graph)
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
        """Compute and store what is missing, `CHUNK` pictures at a time; then every part can be asked for any row.

        Args:
            advance: called with the number of pictures done since the last call.

        Raises:
            DoesNotFitFloat16: a part is kept in float16, and a number is too large for it.
        """
        for rows, inputs in self._loaded(self.missing()):
            values = dict(zip(self._outputs, self.engine.run(list(inputs)), strict=True))
            for part in self.parts:
                part.put(rows, [values[tensor] for tensor in part.trunk.cut.trunk.outputs])
            if advance is not None:
                advance(len(rows))
            if not any(part.holds(rows) for part in self.parts):
                return  # neither memory nor disk takes them: what is computed now would be computed again later

    def _loaded(self, missing: Array) -> Iterator[tuple[Array, Sequence[Array]]]:
        """Chunks with their pictures; the next one is read while this one is computed."""
        chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        with ThreadPoolExecutor(1, "greffon-load") as reader:
            ahead = [reader.submit(self._load, rows) for rows in chunks[:1]]
            for number, rows in enumerate(chunks):
                inputs = ahead.pop().result()
                ahead += [reader.submit(self._load, following) for following in chunks[number + 1 : number + 2]]
                yield rows, inputs
