"""Solved heads of one training: each problem once, and in blocks where its features would not fit.

The same averaged features are solved for the choice of the pooling, as a stage, and as a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.evaluation.linear import sample
from greffon.evaluation.probe import FOLDS, STRENGTHS, Searched, search
from greffon.evaluation.streamed import STREAMED_BYTES, solve_streamed

if TYPE_CHECKING:
    from greffon.evaluation.probe import Probe
    from greffon.frozen.activations import Activations
    from greffon.training.samples import PictureRows

    Array = np.ndarray[Any, Any]
    Source = Activations | PictureRows

_BLOCK = 512
_SPOTS = 512  # pictures by which a problem that is read in blocks is known again


@dataclass
class Solver:
    """Remembers what it has solved, by content.

    Attributes:
        strength: penalty (scikit-learn's C) for the head that trains, where searching for one would find a wrong one;
            None: it is searched.
        most_bytes: features, as float32, that are solved in memory.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> from greffon.training.solver import Solver
        >>> features = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
        >>> source = SimpleNamespace(shapes=[(3,)], gather=lambda rows: [features[rows]])
        >>> solver, targets = Solver(), np.eye(2)[np.arange(40) % 2]
        >>> solver.solve(source, np.arange(40), targets) is solver.solve(source, np.arange(40), targets)
        True
    """

    strength: float | None = None
    most_bytes: int = STREAMED_BYTES
    _solved: dict[bytes, Probe] = field(default_factory=dict, repr=False)

    def solve(self, source: Source, rows: Array, targets: Array, **options: Any) -> Probe:
        """Solve a linear head, or give what the same problem gave before; see `search` for the arguments."""
        return self.search(source, rows, targets, **options).probe()

    def search(
        self,
        source: Source,
        rows: Array,
        targets: Array,
        *,
        several_labels: bool = False,
        groups: Array | None = None,
        weights: Array | None = None,
        seed: int = 0,
        strength: float | None = None,
    ) -> Searched:
        """Choose the penalty of a linear head, see `greffon.evaluation.probe.search`; its `probe` is remembered.

        Args:
            source: gives pooled activations.
            rows: of the pictures to learn from.
            targets: 0 or 1 (len(rows), classes).
            several_labels: one independent problem for each class.
            groups: int (len(rows),); pictures with one number are in one fold.
            weights: float (len(rows),), how much each picture counts.
            seed: of the folds.
            strength: the penalty, not to be searched; there are no held-out answers then.
        """
        options: dict[str, Any] = {"several_labels": several_labels, "groups": groups, "weights": weights, "seed": seed}
        options["strengths"] = STRENGTHS if strength is None else (strength,)
        streams = len(rows) * width_of(source) * 4 > self.most_bytes
        features = None if streams else features_of(source, rows)
        spots = rows[np.unique(np.linspace(0, len(rows) - 1, _SPOTS).astype(int))]
        key = _digest(features_of(source, spots) if features is None else features, targets, rows.shape, options)
        if key in self._solved:
            return _known(self._solved[key])
        if features is None:
            self._solved[key] = solve_streamed(lambda some: features_of(source, rows[some]), targets, **options)
            return _known(self._solved[key])
        found = search(features, targets, folds=FOLDS if strength is None else 1, **options)

        def probe() -> Probe:
            if key not in self._solved:
                self._solved[key] = found.probe()
            return self._solved[key]

        return Searched(found.log_loss, probe)

    def fitting(self, targets: Array, width: int, seed: int) -> Array:
        """Places of pictures whose features fit: all, or as large a share of every class."""
        return sample(targets, self.most_bytes // (4 * width), seed)


def _known(probe: Probe) -> Searched:
    return Searched(probe.log_loss, lambda: probe)


def features_of(source: Source, rows: Array) -> Array:
    """Pooled activations as float32 (len(rows), features)."""
    parts = [
        np.asarray(source.gather(rows[start : start + _BLOCK])[0], dtype=np.float32).reshape(-1, width_of(source))
        for start in range(0, len(rows), _BLOCK)
    ]
    return np.concatenate(parts)


def answers_of(probe: Probe, source: Source, rows: Array) -> Array:
    """A head's probabilities, float32 (len(rows), classes), without all features in memory at once."""
    starts = range(0, len(rows), _BLOCK)
    return np.concatenate([probe.probabilities(features_of(source, rows[it : it + _BLOCK])) for it in starts])


def width_of(source: Source) -> int:
    """Features of one picture."""
    return int(source.shapes[0][-1])


def _digest(features: Array, targets: Array, shape: tuple[int, ...], options: dict[str, Any]) -> bytes:
    import xxhash

    digest = xxhash.xxh3_128(repr((features.shape, shape)).encode())
    for array in (features, np.asarray(targets, np.float32), options["groups"], options["weights"]):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).data.cast("B"))
    digest.update(repr((options["several_labels"], options["seed"], options["strengths"])).encode())
    return digest.digest()
