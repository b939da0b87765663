"""The pictures of a training as its stages see them: rows with a key, a target and a side of the split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.frozen.activations import fits_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.frozen.trunk import Load

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Samples:
    """Decoded on demand.

    Attributes:
        keys: 16 bytes for each picture: its content and how it is decoded.
        targets: float32 (n, classes), one for each class that the picture has.
        train: rows to learn from.
        validation: rows held out.
        load: decodes some rows: [uint8 (rows, size, size, 3), RGB].
        shape: of one decoded picture, (size, size, 3).
    """

    keys: Sequence[bytes]
    targets: Array
    train: Array
    validation: Array
    load: Load
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.keys)


class PictureRows:
    """Stands where activations stand when nothing is frozen: gives the pictures themselves, uint8.

    Decoded pictures are held in memory where they fit, else decoded again when they are asked for.
    """

    def __init__(self, samples: Samples, *, memory: int | None = None) -> None:
        self._samples = samples
        size = len(samples) * int(np.prod(samples.shape))
        held = fits_memory(size, memory)
        self._array = np.empty((len(samples), *samples.shape), np.uint8) if held else None
        self._held = np.zeros(len(samples), bool)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of one picture."""
        return [self._samples.shape]

    @property
    def dtypes(self) -> list[np.dtype[Any]]:
        """Of the pictures: uint8."""
        return [np.dtype(np.uint8)]

    def gather(self, rows: Array) -> list[Array]:
        """Pictures of some rows, in that order: [uint8 (rows, size, size, 3)]."""
        rows = np.asarray(rows)
        if self._array is None:
            return list(self._samples.load(rows))
        fresh = np.unique(rows[~self._held[rows]])
        if fresh.size:
            self._array[fresh] = self._samples.load(fresh)[0]
            self._held[fresh] = True
        return [self._array[rows]]
