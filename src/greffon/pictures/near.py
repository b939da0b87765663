"""Near-copies: pictures that are one picture, saved again, resized, cropped a little, mirrored or in other colours.

The network's features propose pairs, thumbnails decide. Features alone put two pictures of the same kind of thing as
near to each other as a picture and its smaller copy; laid over each other, the two look different.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Array = np.ndarray[Any, Any]

THUMBNAIL = 96
"""Side of a thumbnail in pixels."""

# Measured on 176 photographs and 880 near-copies of them, features of the embedded weights: these find 98.5 % of the
# copies and no other pair of pictures (docs/data.md).
LEAST_COSINE = 0.4
LEAST_CORRELATION = 0.89

# Where all pictures look alike (clothes of 28 pixels, slides of one microscope), looking alike says little: copies
# have to be so much nearer to each other than neighbours usually are.
NEARER_THAN_USUAL = 0.15
_USUAL = 0.6  # 1 - correlation of neighbours, where a picture has too few of them to say
_ENOUGH = 5

_COMPARED = 32  # side at which thumbnails are laid over each other
_SHARES = (0.95, 0.9)  # of a side that a cropped copy may have kept
_NEIGHBOURS = 10  # looked at for each picture
_BLOCK = 2048  # pictures whose distances are held at once
_DIRECTIONS = 256  # features are projected to as many where there are more
_BANKS = 4096  # thumbnails kept ready: 80 kB each
_FLAT = 2.0  # standard deviation of grey levels below which there is nothing to compare


class NearPair(NamedTuple):
    """Two pictures that are one.

    Attributes:
        first: row of one.
        second: row of the other, a larger number.
        cosine: of their features, the mean of all pictures subtracted, -1..1.
        correlation: of their grey thumbnails at the best fit, -1..1.
        mirrored: whether one is the other's mirror image.
    """

    first: int
    second: int
    cosine: float
    correlation: float
    mirrored: bool


def near_duplicates(
    features: Array,
    thumbnail: Callable[[int], Array],
    *,
    least_cosine: float = LEAST_COSINE,
    least_correlation: float = LEAST_CORRELATION,
) -> list[NearPair]:
    """Pairs of near-copies among pictures.

    Args:
        features: floating point (n, d), pooled features of any network; finite.
        thumbnail: row -> grey picture, uint8 (96, 96), the whole picture stretched.
        least_cosine: of features for a pair to be looked at.
        least_correlation: of thumbnails for a pair to be taken.

    Returns:
        The pairs, each once, by row. A picture is compared with its ten nearest.

    Raises:
        InputError: the features are no finite matrix.

    Example:
        >>> import numpy as np
        >>> from greffon.pictures.near import near_duplicates
        >>> random = np.random.default_rng(0)
        >>> noise = random.integers(0, 255, (3, 12, 12), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        >>> grey = [noise[0], noise[1], noise[0][:, ::-1]]
        >>> features = random.normal(size=(2, 8))[[0, 1, 0]]
        >>> [(pair.first, pair.second, pair.mirrored) for pair in near_duplicates(features, grey.__getitem__)]
        [(0, 2, True)]
    """
    features = np.asarray(features)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(f"features must be a matrix of finite numbers, got shape {features.shape}")
    if len(features) < 2:
        return []
    from threadpoolctl import threadpool_limits

    @lru_cache(maxsize=_BANKS)
    def bank(row: int) -> _Bank | None:
        return _bank(thumbnail(row))

    looked_at = []
    candidates = list(_candidates(features, least_cosine))
    with threadpool_limits(limits=1, user_api="blas"):  # these products are so small that threads only wait
        for first, second, cosine in candidates:
            ours, theirs = bank(first), bank(second)
            if ours is not None and theirs is not None:
                looked_at.append(NearPair(first, second, cosine, *_fit(ours, theirs)))
    usual = _usual_distances(looked_at)
    return [
        pair
        for pair in looked_at
        if pair.correlation >= least_correlation
        and 1 - pair.correlation <= NEARER_THAN_USUAL * min(usual[pair.first], usual[pair.second])
    ]


def _usual_distances(pairs: list[NearPair]) -> dict[int, float]:
    """1 - correlation that a picture's neighbours usually have; all pictures' where its own may all be copies."""
    distances: dict[int, list[float]] = {}
    for pair in pairs:
        for row in pair[:2]:
            distances.setdefault(row, []).append(1 - pair.correlation)
    known = [float(np.median(values)) for values in distances.values() if len(values) >= _ENOUGH]
    median = float(np.median(known)) if known else _USUAL
    return {
        row: max(median, float(np.percentile(values, 80))) if len(values) >= _ENOUGH else max(median, _USUAL)
        for row, values in distances.items()
    }


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> Array:
    """Which pictures belong together, directly or through others.

    Args:
        count: of pictures.
        pairs: of rows.

    Returns:
        int (count,): for each picture the smallest row of its group.

    Example:
        >>> from greffon.pictures.near import groups
        >>> groups(5, [(1, 3), (3, 4)]).tolist()
        [0, 1, 2, 1, 1]
    """
    leader = list(range(count))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for first, second in pairs:
        ours, theirs = sorted((find(first), find(second)))
        leader[theirs] = ours
    return np.array([find(row) for row in range(count)], dtype=np.int64)


@dataclass(frozen=True)
class _Bank:
    """A thumbnail ready to be compared.

    Attributes:
        windows: unit vectors (19, 1024) of the whole and of what a crop could have kept.
        whole: unit vectors (1024, 2) of the whole and of its mirror image.
    """

    windows: Array
    whole: Array


def _candidates(features: Array, least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows whose features are near, each once, with their cosine."""
    unit = _unit(features)
    seen: set[tuple[int, int]] = set()
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -2.0
        most = min(_NEIGHBOURS, cosines.shape[1])
        nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        for row, others in zip(own, nearest, strict=True):
            for other in others[cosines[row, others] >= least]:
                pair = (min(start + row, other), max(start + row, other))
                if pair not in seen:
                    seen.add(pair)
                    yield int(pair[0]), int(pair[1]), float(cosines[row, other])


def _unit(features: Array) -> Array:
    """Rows of length 1, the mean subtracted: what all pictures have in common tells none apart."""
    centred = features.astype(np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    if centred.shape[1] > _DIRECTIONS and len(centred) > _BLOCK:
        # Random directions keep angles to a few hundredths, and the search for neighbours takes a tenth of the time.
        directions = np.random.default_rng(0).normal(size=(centred.shape[1], _DIRECTIONS)).astype(np.float32)
        centred = centred @ directions
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.maximum(lengths, np.finfo(np.float32).tiny)


def _bank(thumbnail: Array) -> _Bank | None:
    grey = np.asarray(thumbnail, dtype=np.float32)
    if grey.shape != (THUMBNAIL, THUMBNAIL):
        raise InputError(f"a thumbnail must be grey and {THUMBNAIL} pixels square, got shape {grey.shape}")
    if grey.std() < _FLAT:
        return None
    windows = _windows(grey)
    whole = _unit_vectors(np.stack([windows[0], windows[0, :, ::-1]]))
    return _Bank(_unit_vectors(windows), whole.T)


def _windows(grey: Array) -> Array:
    """Float32 (19, 32, 32): the whole, then what a crop could have kept, each made small.

    That is at both shares in the corners, at the edges and in the middle. All rows are averaged at once, then all
    columns: a picture's windows share most of that work.
    """
    shrink = _shrinking()
    small = (shrink @ grey @ shrink.T).reshape(-1, _COMPARED, shrink.shape[0] // _COMPARED, _COMPARED)
    return np.stack([small[rows, :, columns] for rows, columns in _places()])


@lru_cache(maxsize=1)
def _shrinking() -> Array:
    """Float32 (7 * 32, 96): the averages that make each stretch of a side small: the whole, then three per share."""
    stretches = [(0, THUMBNAIL)]
    for share in _SHARES:
        side = round(share * THUMBNAIL)
        stretches += [(start, side) for start in (0, (THUMBNAIL - side) // 2, THUMBNAIL - side)]
    matrices = np.zeros((len(stretches), _COMPARED, THUMBNAIL), np.float32)
    for matrix, (start, side) in zip(matrices, stretches, strict=True):
        for row, (low, high) in enumerate(pairwise(np.linspace(0, side, _COMPARED + 1))):
            # Pixels whose middle lies inside, whole, as Pillow's box filter has them.
            inside = slice(start + int(low + 0.5), start + int(high + 0.5))
            matrix[row, inside] = 1 / (inside.stop - inside.start)
    return matrices.reshape(-1, THUMBNAIL)


def _places() -> list[tuple[int, int]]:
    """Which stretch of the rows goes with which of the columns: the whole, and all nine of each share."""
    shares = [
        (1 + 3 * share + top, 1 + 3 * share + left) for share in range(2) for top in range(3) for left in range(3)
    ]
    return [(0, 0), *shares]


def _unit_vectors(small: Array) -> Array:
    """Without their mean, so that brightness and contrast do not matter: (..., 32, 32) to (..., 1024)."""
    vectors = small.reshape(*small.shape[:-2], -1)
    vectors = vectors - vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))


def _fit(ours: _Bank, theirs: _Bank) -> tuple[float, bool]:
    """The best correlation of one picture's whole with any window of the other, and whether mirrored."""
    straight, mirrored = np.maximum(
        (ours.windows @ theirs.whole).max(axis=0), (theirs.windows @ ours.whole).max(axis=0)
    )
    return float(max(straight, mirrored)), bool(mirrored > straight)
