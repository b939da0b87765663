"""Made-up pictures, and how far two answers about them lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

# Side of a made-up picture for a model that takes any: enough for five halvings and a 3x3 window behind them.
ANY_SIDE = 128


def made_up(shape: Sequence[int | None]) -> npt.NDArray[np.float32]:
    """Two pictures for an input of this shape, the batch included: one in 0..255, one around 0; always the same."""
    random = np.random.default_rng(0)
    one = (1, *(ANY_SIDE if size is None else size for size in shape[1:]))
    return np.concatenate([random.uniform(0, 255, one), random.normal(size=one)]).astype(np.float32)


def relative_difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """The largest difference in a row, over the largest number of theirs in that row; the worst row's.

    Infinities and NaN must stand at the same places in both; otherwise the difference is infinite.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = (array.reshape(len(array), -1) for array in (ours, theirs))
    return max((_row_difference(*rows) for rows in zip(ours, theirs, strict=True)), default=0.0)


def _row_difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    finite = np.isfinite(theirs)
    odd = ~finite
    if not np.isfinite(ours[finite]).all() or not np.array_equal(ours[odd], theirs[odd], equal_nan=True):
        return float("inf")
    ours, theirs = (array[finite].astype(np.float64) for array in (ours, theirs))
    difference = np.abs(ours - theirs).max(initial=0)
    return float(difference / max(np.abs(theirs).max(initial=0), np.finfo(np.float32).tiny))
