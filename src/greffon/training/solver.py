"""Solved heads of a training: each problem once, and in blocks where its features would not fit.

The same averaged features are solved for the choice of the pooling, as a stage, and as a baseline; and a training with
another head or deeper stages poses the same problems again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.evaluation.linear import fold_rows, sample
from greffon.evaluation.probe import FOLDS, STRENGTHS, Searched, search, solve
from greffon.evaluation.streamed import STREAMED_BYTES, solve_streamed
from greffon.training.solved_before import Shape, SolvedBefore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from greffon.evaluation.probe import Probe, Splits
    from greffon.frozen.activations import Activations
    from greffon.training.samples import PictureRows

    Array = np.ndarray[Any, Any]
    Source = Activations | PictureRows

_BLOCK = 512


@dataclass
class Solver:
    """Remembers what it has solved, by content.

    Attributes:
        strength: penalty (scikit-learn's C) for the head that trains, where searching for one would find a wrong one;
            None: it is searched.
        most_bytes: features, as float32, that are solved in memory.
        before: what earlier trainings have solved.

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
    before: SolvedBefore = field(default_factory=SolvedBefore)
    _solved: dict[bytes, Probe] = field(default_factory=dict, repr=False)
    _dealt: dict[bytes, Splits] = field(default_factory=dict, repr=False)

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
        shape = Shape(len(rows), width_of(source), targets.shape[1])
        key = _digest(source, rows, targets, options)
        probe = self._solved.get(key) or self.before.probe(key, shape, several_labels=several_labels)
        if probe is not None:
            self._solved[key] = probe
            return Searched.of(probe)
        if len(rows) * shape.features * 4 > self.most_bytes:
            solved = self._kept(
                key, shape, lambda: solve_streamed(lambda some: features_of(source, rows[some]), targets, **options)
            )
            return Searched.of(solved)

        def features() -> Array:
            return features_of(source, rows)

        found = self._searched(key, shape, features, targets, options)
        return replace(found, probe=lambda: self._kept(key, shape, found.probe))

    def _searched(
        self, key: bytes, shape: Shape, features: Callable[[], Array], targets: Array, options: dict[str, Any]
    ) -> Searched:
        """What the search of an earlier training found, or one of its own."""
        known = self.before.search(key, shape)
        if known is None:
            found = search(features(), targets, splits=self._splits(targets, options), **options)
            self.before.keep_search(key, found, shape)
            return found
        strength, log_loss, held_out = known

        def probe() -> Probe:
            solved = solve(features(), targets, **options | {"strengths": (strength,)}, folds=1)
            return replace(solved, log_loss=log_loss, held_out=held_out)

        return Searched(strength, log_loss, held_out, probe)

    def _splits(self, targets: Array, options: dict[str, Any]) -> Splits:
        """Folds, which take a while to deal where there are groups, and are those of all poolings that are compared."""
        if len(options["strengths"]) == 1:
            return []
        several, groups, seed = options["several_labels"], options["groups"], options["seed"]
        key = _content(repr((targets.shape, several, seed)), (np.asarray(targets, np.float32), groups))
        if key not in self._dealt:
            self._dealt[key] = fold_rows(targets, FOLDS, groups, seed, several_labels=several)
        return self._dealt[key]

    def _kept(self, key: bytes, shape: Shape, probe: Callable[[], Probe]) -> Probe:
        if key not in self._solved:
            self._solved[key] = probe()
            self.before.keep_probe(key, self._solved[key], shape)
        return self._solved[key]

    def fitting(self, targets: Array, width: int, seed: int) -> Array:
        """Places of pictures whose features fit: all, or as large a share of every class."""
        return sample(targets, self.most_bytes // (4 * width), seed)


def features_of(source: Source, rows: Array) -> Array:
    """Pooled activations as float32 (len(rows), features)."""
    return np.concatenate(list(_blocks(source, rows)))


def _blocks(source: Source, rows: Array) -> Iterator[Array]:
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(source.gather(rows[start : start + _BLOCK])[0], dtype=np.float32)
        yield block.reshape(-1, width_of(source))


def answers_of(probe: Probe, source: Source, rows: Array) -> Array:
    """A head's probabilities, float32 (len(rows), classes), without all features in memory at once."""
    starts = range(0, len(rows), _BLOCK)
    return np.concatenate([probe.probabilities(features_of(source, rows[it : it + _BLOCK])) for it in starts])


def width_of(source: Source) -> int:
    """Features of one picture."""
    return int(source.shapes[0][-1])


def _digest(source: Source, rows: Array, targets: Array, options: dict[str, Any]) -> bytes:
    """16 bytes for a problem: features, targets, and whatever else its solution depends on."""
    about = repr(
        (len(rows), width_of(source), targets.shape, options["several_labels"], options["seed"], options["strengths"])
    )
    arrays = (np.asarray(targets, np.float32), options["groups"], options["weights"])
    return _content(about, chain(arrays, _blocks(source, rows)))


def _content(about: str, arrays: Iterable[Array | None]) -> bytes:
    """16 bytes for a text and arrays, whose shapes the text tells."""
    import xxhash

    digest = xxhash.xxh3_128(about.encode())
    for array in arrays:
        digest.update(b"none" if array is None else np.ascontiguousarray(array).data.cast("B"))
    return digest.digest()
