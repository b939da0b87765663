"""The activations of a fixed list of pictures, asked for by row: in memory where they fit, else read when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.frozen.trunk import Load, Trunk

    Array = np.ndarray[Any, Any]

# Pictures computed at a time: enough for the engine to be at full speed, few enough to lose little when interrupted.
CHUNK = 32
# The share of the memory that is free now which activations may fill.
_MEMORY_SHARE = 0.25


def chunks(rows: Array, batch_size: int) -> list[Array]:
    """Rows in chunks of `CHUNK`, or of a few more where an engine's batches need that to be full.

    Example:
        >>> import numpy as np
        >>> from greffon.frozen.activations import chunks
        >>> [len(chunk) for chunk in chunks(np.arange(100), 24)]
        [48, 48, 4]
    """
    size = -(-CHUNK // batch_size) * batch_size
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def fits_memory(size: int, memory: int | None = None) -> bool:
    """Whether so many bytes may be held in memory: up to `memory`, by default a quarter of what is free."""
    return size <= (psutil.virtual_memory().available * _MEMORY_SHARE if memory is None else memory)


class Activations:
    """Activations of a list of pictures.

    Args:
        trunk: what computes and stores them.
        keys: digest of each picture.
        load: gives the trunk's inputs for rows of this list.
        memory: bytes that may be held in memory; by default a quarter of what is free.

    Everything that is not stored yet is computed by `fill`, or else by the first `gather` that needs it.
    """

    def __init__(self, trunk: Trunk, keys: Sequence[bytes], load: Load, *, memory: int | None = None) -> None:
        self.trunk = trunk
        self.keys = list(keys)
        self._load = load
        self.in_memory = fits_memory(len(self.keys) * trunk.nbytes, memory)
        self._arrays = trunk.empty(len(self.keys)) if self.in_memory else None
        self._held = np.zeros(len(self.keys), bool)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of one picture's activation, per tensor of the cut."""
        return self.trunk.shapes

    @property
    def dtypes(self) -> list[np.dtype[Any]]:
        """Dtype of each tensor."""
        return self.trunk.dtypes

    @property
    def held(self) -> int:
        """Pictures whose activation is in memory now."""
        return int(self._held.sum())

    def fill(self, advance: Callable[[int], None] | None = None) -> bool:
        """Compute and store whatever is missing, `CHUNK` pictures at a time, as long as there is room for it.

        Args:
            advance: called with the number of pictures done since the last call.

        Returns:
            Whether memory or store hold everything now; what they do not is computed whenever it is asked for.
        """
        missing = None if self.in_memory else self.trunk.missing(self.keys)
        for start in range(0, len(self), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(self)))
            if missing is None:
                self._hold(rows[~self._held[rows]])
            elif not self._store(np.intersect1d(rows, missing)):
                return False  # what is computed now would be lost: it is computed when it is needed
            if advance is not None:
                advance(len(rows))
        return True

    def gather(self, rows: Array) -> list[Array]:
        """Activations of some rows, in that order: one array of shape (len(rows), ...) per tensor of the cut."""
        rows = np.asarray(rows)
        if self._arrays is None:
            return self._fetch(rows)
        self._hold(np.unique(rows[~self._held[rows]]))
        return [array[rows] for array in self._arrays]

    def put(self, rows: Array, outputs: Sequence[Array]) -> None:
        """Take activations that were computed elsewhere.

        They go into the store; into memory only those that it does not take. So filling many takes no more memory
        than filling few, and `gather` brings into memory what is trained on, when it is.

        Args:
            rows: which pictures of the list they belong to.
            outputs: one array of shape (len(rows), ...) per tensor of the cut.
        """
        keys = [self.keys[row] for row in rows]
        kept = self.trunk.keep(keys, outputs)
        if self._arrays is not None:
            left = self.trunk.missing(keys)
            for array, part in zip(self._arrays, kept, strict=True):
                array[rows[left]] = part[left]
            self._held[rows[left]] = True

    def holds(self, rows: Array) -> bool:
        """Whether memory or store have the activations of these rows."""
        if self._arrays is not None:
            rows = rows[~self._held[rows]]
        return self.trunk.missing([self.keys[row] for row in rows]).size == 0

    def all(self) -> list[Array]:
        """All activations, in order: one array per tensor of the cut."""
        return self.gather(np.arange(len(self)))

    def _hold(self, rows: Array) -> None:
        if self._arrays is None or not rows.size:
            return
        for array, part in zip(self._arrays, self._fetch(rows), strict=True):
            array[rows] = part
        self._held[rows] = True

    def _store(self, rows: Array) -> bool:
        """Compute some rows for the store alone; whether it took them all."""
        self._fetch(rows)
        return self.holds(rows)

    def _fetch(self, rows: Array) -> list[Array]:
        if not rows.size:
            return self.trunk.empty(0)
        return self.trunk.fetch([self.keys[row] for row in rows], lambda missing: self._load(rows[missing]))
