"""The activations of a fixed list of pictures, asked for by row: in memory where they fit, else read when needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from greffon.frozen.pipeline import overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.frozen.trunk import Load, Trunk

    Array = np.ndarray[Any, Any]

# Pictures computed at a time: enough for the engine to be at full speed, few enough to lose little when interrupted.
CHUNK = 32
# Activations read from the store into memory at a time: what they take once more while they are copied.
_READ_AT_ONCE = 128
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
        """Compute and store whatever is missing, as long as there is room for it; read the rest where it is held.

        Pictures are read, computed and stored at the same time: see `pipeline`. What was computed is stored when this
        is left, by an error or an interrupt too.

        Args:
            advance: called with the number of pictures done since the last call.

        Returns:
            Whether memory or store hold everything now; what they do not is computed whenever it is asked for.
        """
        missing, copies = self._missing()
        self.trunk.expected = len(missing)
        there = np.setdiff1d(np.flatnonzero(~self._held), np.concatenate([missing, copies]))
        self._hold(there)
        if advance is not None and len(missing) < len(self):
            advance(len(self) - len(missing))
        whole = not missing.size or overlap(
            chunks(missing, self._batch_size()),
            read=lambda rows: (rows, self._load(rows)),
            compute=self._compute,
            write=self._take,
            done=None if advance is None else lambda rows: advance(len(rows)),
        )
        if whole and self._arrays is not None:
            first = {key: row for row, key in reversed(list(enumerate(self.keys)))}
            same = np.array([first[self.keys[row]] for row in copies], int)
            for array in self._arrays:
                array[copies] = array[same]
            self._held[copies] = True
        return whole

    def behind(self, trunk_for: Callable[[Sequence[Array]], Trunk]) -> Activations:
        """The same pictures behind another trunk.

        Args:
            trunk_for: gives it, for inputs of the shapes that these pictures have.
        """
        return Activations(trunk_for(self._load(np.arange(1))), self.keys, self._load)

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
        """All activations, in order: one array per tensor of the cut.

        Where they are held in memory these are the arrays that hold them, and not to be written to.
        """
        rows = np.arange(len(self))
        if self._arrays is None:
            return self._fetch(rows)
        self._hold(rows[~self._held])
        return list(self._arrays)

    def _hold(self, rows: Array) -> None:
        """Bring rows into memory, some at a time: all at once would take their memory twice."""
        if self._arrays is None:
            return
        for start in range(0, len(rows), _READ_AT_ONCE):
            some = rows[start : start + _READ_AT_ONCE]
            for array, part in zip(self._arrays, self._fetch(some), strict=True):
                array[some] = part
            self._held[some] = True

    def _missing(self) -> tuple[Array, Array]:
        """Rows to compute, and those that show a picture of one of them once more."""
        missing = self.trunk.missing(self.keys)
        missing = missing[~self._held[missing]]
        seen: set[bytes] = set()
        again = np.zeros(len(missing), bool)
        for place, row in enumerate(missing):
            again[place] = self.keys[row] in seen
            seen.add(self.keys[row])
        return missing[~again], missing[again]

    def _batch_size(self) -> int:
        start = time.perf_counter()
        size = self.trunk.engine.batch_size
        self.trunk.counts.seconds += time.perf_counter() - start  # as if the first picture had built the engine
        return size

    def _compute(self, read: tuple[Array, Sequence[Array]]) -> list[Array]:
        rows, inputs = read
        keys = [self.keys[row] for row in rows]
        return self.trunk.fetch(keys, lambda places: [array[places] for array in inputs], store=False)

    def _take(self, rows: Array, kept: Sequence[Array]) -> bool:
        """Store what was computed, and hold it in memory; whether one of them has it."""
        if self._arrays is not None:
            for array, part in zip(self._arrays, kept, strict=True):
                array[rows] = part
            self._held[rows] = True
        self.trunk.keep([self.keys[row] for row in rows], kept)
        return self.holds(rows)

    def _fetch(self, rows: Array) -> list[Array]:
        if not rows.size:
            return self.trunk.empty(0)
        return self.trunk.fetch([self.keys[row] for row in rows], lambda missing: self._load(rows[missing]))
