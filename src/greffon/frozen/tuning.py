"""How many threads and how large a batch are fastest here for a graph: measured once for a kind of graph, remembered.

Both change the speed only: a picture's numbers are the same to the bit whichever they are.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.frozen import remembered
from greffon.frozen.agreement import ANY_SIDE
from greffon.frozen.engine import BATCH_SIZE, OrtEngine
from greffon.frozen.hardware import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.graph import FlatGraph

    Make = Callable[["Tuning"], OrtEngine]

BATCHES = (8, 16, 32, 64)

# Seconds that measuring may take, and its share of the time that the pictures at hand will take.
_LONGEST, _SHARE = 2.0, 0.05
_FEW = 500  # pictures; what measuring and its sessions take is more than a better choice can save them
_ROUNDS = 4

# Where others are at work, nothing measured holds for later: the least share of the cores that has to be had.
_QUIET = 0.7

# A larger batch costs memory, and a core less leaves one to whoever reads pictures: what it has to gain to be taken.
_CLEARLY, _VERY_CLEARLY = 0.97, 0.9


@dataclass(frozen=True)
class Tuning:
    """Speed options of an engine.

    Attributes:
        threads: threads that one batch is computed with, at least 1.
        batch_size: the most pictures that are computed at once, at least 1.
    """

    threads: int
    batch_size: int = BATCH_SIZE

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuning:
        """What `to_dict` gave.

        Raises:
            InputError: it has other names, or numbers out of range.

        Example:
            >>> from greffon.frozen.tuning import Tuning
            >>> Tuning.from_dict({"threads": 2, "batch_size": 16})
            Tuning(threads=2, batch_size=16)
        """
        numbers = [values.get(name) for name in ("threads", "batch_size")] if isinstance(values, dict) else []
        if len(numbers) != 2 or not all(type(number) is int and number >= 1 for number in numbers):
            raise InputError(f"a tuning must be threads and batch_size, whole numbers of at least 1. Got {values!r}")
        return cls(values["threads"], values["batch_size"])


def default_tuning() -> Tuning:
    """What is taken where nothing was measured: every core, batches of 32."""
    return Tuning(usable_cores())


def recalled(graph: FlatGraph, precision: str = "fp32") -> Tuning | None:
    """What was measured for such a graph on this machine, or None."""
    entry = remembered.get(_key(graph, precision))
    try:
        return Tuning.from_dict(entry) if entry else None
    except InputError:
        return None


def tuned(
    graph: FlatGraph,
    precision: str = "fp32",
    *,
    pictures: int | None = None,
    quantisation: Quantisation | None = None,
    model: bytes | None = None,
) -> Tuning:
    """The fastest threads and batch size for a graph on this machine: remembered, or measured on made-up pictures.

    Measuring takes at most about two seconds, and no more than a twentieth of what the pictures at hand will take.

    Args:
        graph: what is to be computed.
        precision: "fp32" or "int8".
        pictures: how many will be computed. For few, nothing is measured.
        quantisation: needed to measure "int8".
        model: the graph as ONNX in that precision, where it was written already.

    Returns:
        What was measured, now or before; `default_tuning()` where there was nothing to measure.
    """
    known = recalled(graph, precision)
    if known is not None:
        return known
    if pictures is not None and pictures < _FEW:
        return default_tuning()
    written = model or _written(graph, precision, quantisation)
    if written is None:
        return default_tuning()

    def make(tuning: Tuning) -> OrtEngine:
        return OrtEngine(graph, written, threads=tuning.threads, batch_size=tuning.batch_size)

    found = _Measuring(graph, make, pictures).best()
    if found is None:
        return default_tuning()
    remembered.put(_key(graph, precision), found.to_dict())
    return found


def _written(graph: FlatGraph, precision: str, quantisation: Quantisation | None) -> bytes | None:
    """The graph as ONNX; None where that cannot be had."""
    from greffon.frozen.emit import Unsupported, emit

    if precision == "int8" and quantisation is None:
        return None
    try:
        return emit(graph, quantisation=quantisation if precision == "int8" else None)
    except Unsupported:
        return None


class _Measuring:
    """Alternating rounds of a few candidates, as long as there is time."""

    def __init__(self, graph: FlatGraph, make: Make, pictures: int | None) -> None:
        self.graph, self.make, self.pictures = graph, make, pictures
        self.cores = default_tuning().threads
        self.engines: dict[int, OrtEngine] = {}
        self.seconds: dict[Tuning, float] = {}  # per picture, the best round
        self.deadline = 0.0
        self.wall = self.cpu = 0.0  # with every core

    def best(self) -> Tuning | None:
        """The fastest; None where there is not time enough, or others are at work."""
        start, first = time.perf_counter(), Tuning(self.cores, BATCHES[0])
        self._try(replace(first, batch_size=1))  # allocates, and finds its layouts
        self._try(first)
        expected = np.inf if self.pictures is None else self.pictures * self.seconds[first]
        budget = min(_LONGEST, _SHARE * expected)
        self.deadline = start + budget
        threads = [Tuning(number, BATCHES[0]) for number in _thread_counts(self.cores)]
        if not self._rounds(threads, until=start + budget / 2) or self.cpu < _QUIET * self.cores * self.wall:
            return None
        best = self._pick(threads, _VERY_CLEARLY)
        batches = [replace(best, batch_size=size) for size in BATCHES]
        # The usual size is looked at first, where there is not time for all.
        self._rounds(sorted(batches, key=lambda tuning: tuning.batch_size != BATCH_SIZE), until=self.deadline)
        measured = [tuning for tuning in batches if tuning in self.seconds]
        if all(tuning.batch_size < BATCH_SIZE for tuning in measured):
            return replace(best, batch_size=BATCH_SIZE)
        return self._pick(measured, _CLEARLY)

    def _rounds(self, candidates: list[Tuning], *, until: float) -> bool:
        """Give every candidate that fits its turn, over and over; whether there was time for one round of all."""
        complete = False
        for _ in range(_ROUNDS):
            for tuning in candidates:
                cost = self.seconds.get(tuning, min(self.seconds.values())) * tuning.batch_size
                if time.perf_counter() + cost > (until if complete else self.deadline):
                    if tuning in self.seconds:
                        return complete
                    continue  # a smaller one may still fit
                self._try(tuning)
            complete = True
        return complete

    def _try(self, tuning: Tuning) -> None:
        if tuning.threads not in self.engines:
            self.engines[tuning.threads] = self.make(replace(tuning, batch_size=max(BATCHES)))
        pictures = [_made_up(self.graph.specs[tensor].shape, tuning.batch_size) for tensor in self.graph.inputs]
        start, cpu = time.perf_counter(), time.process_time()
        self.engines[tuning.threads].run(pictures)
        wall = time.perf_counter() - start
        self.seconds[tuning] = min(wall / tuning.batch_size, self.seconds.get(tuning, np.inf))
        if tuning.threads == self.cores and tuning.batch_size > 1:
            self.wall, self.cpu = self.wall + wall, self.cpu + time.process_time() - cpu

    def _pick(self, candidates: list[Tuning], share: float) -> Tuning:
        """The last one that clearly beats those before it; for threads, all cores come first."""
        best = candidates[0]
        for tuning in candidates[1:]:
            if self.seconds.get(tuning, np.inf) < share * self.seconds[best]:
                best = tuning
        return best


def _thread_counts(cores: int) -> list[int]:
    """All cores, then fewer; where there are many, halves."""
    return list(range(cores, 0, -1)) if cores <= 4 else [cores >> shift for shift in range(cores.bit_length())]


def _made_up(shape: Any, rows: int) -> np.ndarray[Any, Any]:
    """Noise from dark to light; the time does not depend on what is seen."""
    one = tuple(ANY_SIDE if size is None else size for size in shape[1:])
    return np.resize(np.arange(251, dtype=np.float32), (rows, *one))


def _key(graph: FlatGraph, precision: str) -> str:
    import onnxruntime

    return remembered.key("tuning", remembered.structure(graph), precision, onnxruntime.__version__)
