"""The trunk for pictures of whatever shape come: a model for pictures of any size gives activations of any size."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from greffon.frozen.activations import Activations
from greffon.frozen.keys import content_keys
from greffon.frozen.trunk import DoesNotFitFloat16, Trunk, TrunkCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from greffon.frozen.cut import Cut
    from greffon.frozen.quantise import Calibration
    from greffon.frozen.store import ActivationStore
    from greffon.frozen.tuning import Tuning

    Array = np.ndarray[Any, Any]
    Advance = Callable[[int], None]


class Trunks:
    """Trunks of one cut, one for each shape of picture, that keep their activations in one store.

    Args:
        cut: where the model is cut.
        store: where activations are kept.
        dtype: what they are kept in; `float16` becomes `float32` with the first number that is too large for it.
        label: begins what the store's table calls them.
        widened: called when that happens.
        precision: "fp32" or "int8".
        calibration: for "int8", gives some pictures where no ranges are remembered; by default the first that come.
        tuning: threads and batch size, as `Trunk` takes them.

    Attributes:
        spin: whether the threads of engines that are built from now on wait awake.
    """

    def __init__(
        self,
        cut: Cut,
        store: ActivationStore,
        *,
        dtype: str,
        label: str,
        widened: Callable[[], None],
        precision: str = "fp32",
        calibration: Calibration | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.cut, self.dtype = cut, dtype
        self._store, self._label, self._widened = store, label, widened
        self.precision, self._calibration, self._tuning = precision, calibration, tuning
        self.spin = False
        self._trunks: dict[tuple[Any, ...], Trunk] = {}
        self._lock = threading.Lock()

    def of(self, inputs: Sequence[Array]) -> Trunk:
        """The trunk for inputs of these shapes."""
        shapes = tuple(tuple(array.shape[1:]) for array in inputs)
        with self._lock:
            key = (self.dtype, shapes)
            if key not in self._trunks:
                label = f"{self._label}, cut after {self.cut.where}, {self.dtype}"
                label += ", int8" if self.precision == "int8" else ""
                self._trunks[key] = Trunk(
                    self.cut,
                    shapes,
                    store=self._store,
                    dtype=self.dtype,
                    label=label,
                    precision=self.precision,
                    calibration=self._calibration or (lambda: inputs),
                    tuning=self._tuning,
                    spin=self.spin,
                )
            return self._trunks[key]

    def keys(self, inputs: Sequence[Array]) -> list[bytes]:
        """Digest of each picture as the model takes it."""
        return content_keys(inputs, [self.cut.trunk.specs[tensor].dtype for tensor in self.cut.trunk.inputs])

    def fetch(self, keys: Sequence[bytes], inputs: Sequence[Array], *, store: bool = True) -> list[Array]:
        """Activations of some pictures, read or computed: one array per tensor of the cut."""
        try:
            return self.of(inputs).fetch(keys, lambda rows: [array[rows] for array in inputs], store=store)
        except DoesNotFitFloat16:
            self._widen()
            return self.fetch(keys, inputs, store=store)

    def rows(self, inputs: Sequence[Array], advance: Advance | None = None) -> Activations:
        """Activations of all rows of arrays, computed as far as memory or store can hold them."""
        keys = self.keys(inputs)
        while True:
            activations = Activations(self.of(inputs), keys, lambda rows: [array[rows] for array in inputs])
            try:
                held = activations.fill(advance)
            except DoesNotFitFloat16:
                self._widen()
                continue
            if held or self.dtype == "float32":
                return activations
            self.dtype = "float32"  # where not everything can be kept, half the bytes save nothing

    @property
    def counts(self) -> TrunkCounts:
        """What all of them did."""
        counts = [trunk.counts.to_dict() for trunk in self._trunks.values()]
        return TrunkCounts(**{name: sum(each[name] for each in counts) for name in TrunkCounts().to_dict()})

    @property
    def engine_name(self) -> str | None:
        """Name of the engine that computed; None where nothing had to be computed."""
        return next((trunk.engine_name for trunk in self._trunks.values() if trunk.engine_name), None)

    def _widen(self) -> None:
        with self._lock:
            wide, self.dtype = self.dtype == "float32", "float32"
        if not wide:
            self._widened()
