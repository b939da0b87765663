"""What a trial will take, from the trials so far: none is begun that would not end in time."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.recipe import Recipe
    from greffon.searching.trial import Outcome

_MARGIN = 1.2  # trials of one kind differ, and machines are busy


class Costs:
    """Learns from trials that ended.

    Args:
        tails: multiply-accumulates behind the cut, by freeze rules as one word.
        train: pictures to learn from.
        trunk: seconds of the frozen part for one picture; 0 where that is not known.
    """

    def __init__(self, tails: Mapping[str, int], *, train: int, trunk: float) -> None:
        self._tails, self._train, self.trunk = tails, train, trunk
        self._epochs: dict[str, list[float]] = {}
        self._rest: list[float] = []
        self._views = 1

    def learn(self, outcome: Outcome, recipe: Recipe) -> None:
        """Take note of a trial; what was compiled and built for it counts as its rest."""
        trained = 0.0
        for stage, took in zip(recipe.stages, outcome.stages, strict=False):
            if not recipe.solves(stage) and took.epochs:
                self._epochs.setdefault(took.depth, []).append(took.seconds / took.epochs)
                trained += took.seconds
        self._rest.append(max(outcome.seconds - outcome.trunk_seconds - trained, 0.0))
        self._views = max(self._views, recipe.views)

    def of(self, recipe: Recipe) -> float:
        """Seconds that a trial takes if no stage of it ends early; 0 before anything was learned."""
        if not self._rest:
            return 0.0
        seconds = median(self._rest)
        for stage in recipe.stages:
            if not recipe.solves(stage):
                rules = stage.unfreeze if isinstance(stage.unfreeze, tuple) else (stage.unfreeze,)
                seconds += stage.epochs * self._epoch(",".join(map(str, rules)))
        return _MARGIN * (seconds + self.of_views(recipe.views))

    def of_views(self, views: int) -> float:
        """Seconds for views that the store does not hold yet."""
        return max(views - self._views, 0) * self._train * self.trunk

    def _epoch(self, depth: str) -> float:
        """Seconds of an epoch: as measured, or scaled by the work behind the cut from the deepest that was."""
        if depth in self._epochs:
            return median(self._epochs[depth])
        known = {name: median(times) for name, times in self._epochs.items() if self._tails.get(name)}
        if not known:
            return 0.0 if depth == "none" else 3 * self._train * self.trunk
        nearest = max(known, key=lambda name: self._tails[name])
        if depth not in self._tails:
            return max(known.values())
        return known[nearest] * max(self._tails[depth] / self._tails[nearest], _SMALLEST)


_SMALLEST = 0.02  # an epoch of a head alone takes some time, too
