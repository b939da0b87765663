"""Made-up pictures, and how far two answers about them lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError

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


def norm_difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """How far two answers lie apart as vectors: the length of their difference over that of theirs."""
    difference = float(np.linalg.norm(ours.astype(np.float64) - theirs))
    length = float(np.linalg.norm(theirs.astype(np.float64)))
    return difference / length if length else (float("inf") if difference else 0.0)


def cosine_similarity(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of the angle between two answers for each picture, float64 (pictures,); 1 where both are zero.

    Example:
        >>> import numpy as np
        >>> from greffon.frozen.agreement import cosine_similarity
        >>> cosine_similarity(np.array([[1.0, 0], [2, 0]]), np.array([[3.0, 0], [0, 1]])).tolist()
        [1.0, 0.0]
    """
    ours, theirs = (array.reshape(len(array), -1).astype(np.float64) for array in (ours, theirs))
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    same = (ours == theirs).all(axis=1)
    return np.where(same, 1.0, (ours * theirs).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))


def label_agreement(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """Share of pictures for which two tables of scores, (pictures, classes), name the same class; 0 to 1.

    One column is one score of two classes, divided at 0.5.
    """
    if ours.shape != theirs.shape or ours.ndim != 2 or not len(ours):
        raise InputError(
            f"scores must be two tables (pictures, classes) of one shape. Got {ours.shape}, {theirs.shape}"
        )
    return float((labels(ours) == labels(theirs)).mean())


def labels(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The class that each row of a table of scores, (pictures, classes), names; one column is divided at 0.5."""
    return scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0.5).astype(int)
