"""The frozen part at work: for each picture its activation, from the store or computed once and stored."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.frozen.build import build_engine, why_keras
from greffon.frozen.digest import trunk_digest
from greffon.frozen.graph import GraphModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.frozen.cut import Cut
    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.engine import Engine
    from greffon.frozen.quantise import Calibration
    from greffon.frozen.store import ActivationStore
    from greffon.frozen.tuning import Tuning

    Array = np.ndarray[Any, Any]
    # Gives the inputs of the trunk for some rows: one array of shape (rows, ...) per input of the model.
    Load = Callable[[Array], Sequence[Array]]


@dataclass
class TrunkCounts:
    """What a trunk did: pictures computed, read and newly stored; seconds of computing, engine building included."""

    computed: int = 0
    reused: int = 0
    stored: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The counts by name."""
        return asdict(self)


class DoesNotFitFloat16(Exception):  # noqa: N818  # not an error of the user's: the caller keeps float32 instead
    """An activation is beyond 65,504, the largest float16."""


class Trunk:
    """Runs the frozen part of a model, and keeps what it gives.

    Args:
        cut: where the model is cut.
        input_shapes: shape of one picture (without the batch) for each input of the model.
        store: where activations are kept; None: computed whenever they are asked for.
        dtype: what they are kept and handed out in, `float32` or `float16`.
        label: what the store's table calls it.
        prefer: the engine, as `build_engine` takes it.
        precision: "fp32" or "int8". Activations of the two, and those of different calibrations, are kept apart.
        calibration: for "int8", gives some pictures where no ranges are remembered; see `quantise.quantisation_of`.
        tuning: threads and batch size, as `build_engine` takes them.
        spin: whether the engine's threads wait awake, as `build_engine` takes it.

    Raises:
        InputError: "int8" cannot be had for this model, on this engine or without pictures.
    """

    def __init__(  # noqa: PLR0913 - all but two are options, by keyword only
        self,
        cut: Cut,
        input_shapes: Sequence[tuple[int, ...]],
        *,
        store: ActivationStore | None = None,
        dtype: str = "float32",
        label: str = "",
        prefer: str = "auto",
        precision: str = "fp32",
        calibration: Calibration | None = None,
        tuning: Tuning | None = None,
        spin: bool = False,
    ) -> None:
        self.cut = cut
        self.shapes = _activation_shapes(cut, input_shapes)
        self.counts = TrunkCounts()
        self._prefer = prefer
        self.expected = 0  # pictures that will be computed, where that is known before the engine is built
        self._engine: Engine | None = None
        # A feed computes in a thread of its own, and a training has two feeds.
        self._lock = threading.Lock()
        self.dtypes = kept_dtypes(cut, dtype)
        self.precision, self._tuning, self._spin = precision, tuning, spin
        self.quantisation = _quantisation(cut, prefer, precision, calibration)
        extra = [] if self.quantisation is None else [precision, self.quantisation.digest()]
        digest = trunk_digest(cut.trunk, dtype, repr([tuple(shape) for shape in input_shapes]), *extra)
        self._stored = store.trunk(digest, label=label or f"cut after {cut.where}, {dtype}") if store else None

    @property
    def engine(self) -> Engine:
        """The engine; built when the first picture has to be computed."""
        with self._lock:
            if self._engine is None:
                self._engine = build_engine(
                    self.cut.trunk,
                    prefer=self._prefer,
                    precision=self.precision,
                    calibration=self.quantisation,
                    tuning=self._tuning,
                    pictures=self.expected,
                    spin=self._spin,
                )
            return self._engine

    @property
    def engine_name(self) -> str | None:
        """Name of the engine that computed; None where nothing had to be computed."""
        return self._engine.name if self._engine else None

    @property
    def nbytes(self) -> int:
        """Bytes of one picture's activation."""
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in zip(self.shapes, self.dtypes, strict=True))

    def empty(self, rows: int) -> list[Array]:
        """Arrays for the activations of so many pictures, not filled in: one per tensor of the cut."""
        return [np.empty((rows, *shape), dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]

    def fetch(self, keys: Sequence[bytes], load: Load, *, store: bool = True) -> list[Array]:
        """The activations of some pictures: read where they are stored, else computed and stored.

        Args:
            keys: digest of each picture, 16 bytes.
            load: called with the rows (indices into `keys`) that have to be computed, if there are any.
            store: whether to store what is computed.

        Returns:
            One array of shape (len(keys), ...) per tensor of the cut, in the dtype that they are kept in.

        Raises:
            DoesNotFitFloat16: float16 was asked for and a number is too large for it.
        """
        arrays = self.empty(len(keys))
        found = self._stored.read_into(keys, arrays) if self._stored else np.zeros(len(keys), bool)
        with self._lock:
            self.counts.reused += int(found.sum())
        missing = np.flatnonzero(~found).tolist()
        if missing:
            first: dict[bytes, int] = {}  # a picture that is there twice is computed once
            for row in missing:
                first.setdefault(keys[row], row)
            places = {key: place for place, key in enumerate(first)}
            computed = self.keep(list(first), self._compute(load(np.array(list(first.values())))), store=store)
            for array, part in zip(arrays, computed, strict=True):
                array[missing] = part[[places[keys[row]] for row in missing]]
        return arrays

    def keep(self, keys: Sequence[bytes], outputs: Sequence[Array], *, store: bool = True) -> list[Array]:
        """Store what an engine gave for some pictures.

        Args:
            keys: digest of each picture.
            outputs: one array per tensor of the cut.
            store: False only converts them.

        Returns:
            The outputs in the dtypes that they are kept in.

        Raises:
            DoesNotFitFloat16: float16 was asked for and a number is too large for it.
        """
        arrays = [_converted(output, dtype) for output, dtype in zip(outputs, self.dtypes, strict=True)]
        if store and self._stored:
            stored = self._stored.put_many(keys, arrays)
            with self._lock:
                self.counts.stored += stored
        return arrays

    def missing(self, keys: Sequence[bytes]) -> Array:
        """Rows whose activation is not stored."""
        return self._stored.missing(keys) if self._stored else np.arange(len(keys))

    def forget(self, keys: Sequence[bytes]) -> None:
        """Remove activations that nobody will ask for again."""
        if self._stored:
            self._stored.delete_many(list(keys))

    def _compute(self, inputs: Sequence[Array]) -> list[Array]:
        start = time.perf_counter()
        outputs = self.engine.run(list(inputs))
        with self._lock:
            self.counts.seconds += time.perf_counter() - start
            self.counts.computed += len(inputs[0])
        return outputs


def kept_dtypes(cut: Cut, dtype: str) -> list[np.dtype[Any]]:
    """What the tensors of a cut are kept in; integers that pass it (a model's second input, say) stay what they are."""
    specs = [cut.trunk.specs[tensor].dtype for tensor in cut.trunk.outputs]
    return [np.dtype(dtype if keras.backend.is_float_dtype(spec) else spec) for spec in specs]


def _quantisation(cut: Cut, prefer: str, precision: str, calibration: Calibration | None) -> Quantisation | None:
    """Ranges for "int8", which belong to the name of what is stored: known before anything is computed."""
    why_keras(prefer, precision)
    if precision != "int8":
        return None
    from greffon.frozen.quantise import quantisation_of

    return quantisation_of(cut.trunk, calibration)


def _activation_shapes(cut: Cut, input_shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Shapes at the cut; worked out from the pictures where the model takes pictures of any size."""
    shapes = cut.shapes
    if any(side is None for shape in shapes for side in shape):
        specs = [
            keras.KerasTensor((1, *shape), cut.trunk.specs[tensor].dtype)
            for shape, tensor in zip(input_shapes, cut.trunk.inputs, strict=True)
        ]
        outputs = keras.tree.flatten(GraphModel(cut.trunk).compute_output_spec(specs))
        shapes = [tuple(output.shape[1:]) for output in outputs]
    return [tuple(int(side) for side in shape if side is not None) for shape in shapes]


def _converted(array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype == np.float16 and array.size and not np.abs(array).max() <= np.finfo(np.float16).max:
        raise DoesNotFitFloat16
    return array.astype(dtype, copy=False)
