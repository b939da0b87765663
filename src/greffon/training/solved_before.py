"""Heads that earlier trainings have solved, kept in the activation store by the content of their problems.

Another head, or deeper stages, on the same pictures pose the same problems again: for the choice of the pooling, as a
stage, and as the baseline beside the result.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from greffon.evaluation.probe import Probe, Searched

if TYPE_CHECKING:
    from greffon.frozen.store import ActivationStore
    from greffon.frozen.stored_trunk import StoredTrunk

    Array = np.ndarray[Any, Any]

SOLVER_VERSION = 1
"""To be raised when the same problem would be given another solution than before."""

_MOST_BYTES = 64 * 2**20  # of one record: beyond, most of what is kept would be one head
_SOLVED_BY = ("numpy", "scipy", "scikit-learn")


class Shape(NamedTuple):
    """Of a problem.

    Attributes:
        pictures: learned from.
        features: of each.
        classes: of the targets.
    """

    pictures: int
    features: int
    classes: int


@dataclass(frozen=True)
class SolvedBefore:
    """Solutions of earlier trainings; what is given is what solving again would give, to the bit.

    A search and a solution are kept apart: of many poolings that are compared, one is solved.

    Attributes:
        store: where they are; None: nothing is known, and nothing kept.
    """

    store: ActivationStore | None = None

    def search(self, key: bytes, shape: Shape) -> tuple[float, float, Array | None] | None:
        """Strength, log loss and held-out answers that a search found; None where it is not known.

        Args:
            key: 16 bytes that stand for the whole problem.
            shape: of it.
        """
        arrays = self._get("searched", key, shape)
        if arrays is None:
            return None
        (strength, log_loss), held_out = arrays
        return float(strength), float(log_loss), None if np.isnan(held_out).any() else held_out

    def keep_search(self, key: bytes, found: Searched, shape: Shape) -> None:
        """Keep what a search found."""
        nothing = np.full((shape.pictures, shape.classes), np.nan, np.float32)
        held_out = nothing if found.held_out is None else found.held_out
        self._put("searched", key, shape, np.array([found.strength, found.log_loss]), held_out)

    def probe(self, key: bytes, shape: Shape, *, several_labels: bool) -> Probe | None:
        """The solution of a problem; None where it is not known."""
        found = self.search(key, shape)
        arrays = self._get("solved", key, shape)
        if found is None or arrays is None:
            return None
        kernel, bias = arrays
        return Probe(kernel, bias, *found, several_labels)

    def keep_probe(self, key: bytes, probe: Probe, shape: Shape) -> None:
        """Keep a solution."""
        if self.search(key, shape) is None:  # it came without one
            self.keep_search(key, Searched.of(probe), shape)
        self._put("solved", key, shape, probe.kernel, probe.bias)

    def _get(self, what: str, key: bytes, shape: Shape) -> list[Array] | None:
        if self.store is None:
            return None
        arrays, found = self._records(self.store, what, shape).get_many([key])
        return [array[0] for array in arrays] if found.all() else None

    def _put(self, what: str, key: bytes, shape: Shape, *arrays: Array) -> None:
        if self.store is not None and sum(array.nbytes for array in arrays) <= _MOST_BYTES:
            self._records(self.store, what, shape).put_many([key], [array[None] for array in arrays])

    def _records(self, store: ActivationStore, what: str, shape: Shape) -> StoredTrunk:
        import xxhash

        name = f"heads {what} {SOLVER_VERSION} {_solvers()} {tuple(shape)}"
        label = f"heads {what}: {shape.pictures:,} pictures, {shape.features:,} features, {shape.classes:,} classes"
        return store.trunk(xxhash.xxh3_128_digest(name.encode()), label=label, modest=True)


@cache
def _solvers() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(package) for package in _SOLVED_BY)
