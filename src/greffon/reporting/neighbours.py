"""Which training pictures a picture looks like to the network: by the cosine of the features."""

from __future__ import annotations

from typing import Any

import numpy as np

from greffon.errors import InputError

Array = np.ndarray[Any, Any]


def nearest(queries: Array, known: Array, *, most: int = 3) -> tuple[Array, Array]:
    """The most similar of known pictures.

    Args:
        queries: floating point (m, d), finite.
        known: floating point (n, d), finite.
        most: how many are wanted for each; fewer where `known` has fewer.

    Returns:
        Their places in `known`, int64 (m, k), the most similar first and of equal ones the first; and the cosines,
        float32 (m, k), -1..1. A picture without any feature has the cosine 0 to all.

    Raises:
        InputError: the features do not go together, or are not finite.

    Example:
        >>> import numpy as np
        >>> from greffon.reporting.neighbours import nearest
        >>> places, cosines = nearest(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [3.0, 0.0]]), most=1)
        >>> places.tolist(), cosines.tolist()
        ([[1]], [[1.0]])
    """
    queries, known = np.asarray(queries, np.float32), np.asarray(known, np.float32)
    if queries.ndim != 2 or known.ndim != 2 or queries.shape[1] != known.shape[1]:
        raise InputError(f"features must be (m, d) and (n, d), got {queries.shape} and {known.shape}")
    if not (np.isfinite(queries).all() and np.isfinite(known).all()):
        raise InputError("features must be finite: some are NaN or infinite")
    cosines = _unit(queries) @ _unit(known).T
    places = np.argsort(-cosines, axis=1, kind="stable")[:, : max(most, 0)]
    return places, np.take_along_axis(cosines, places, axis=1).clip(-1, 1)


def _unit(features: Array) -> Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(lengths > 0, lengths, 1.0), np.float32)
