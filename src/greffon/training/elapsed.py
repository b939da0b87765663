"""How long a training has taken, over all the processes that it ran in."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from greffon.training.planned import TrunkWork


class Elapsed:
    """Seconds since a training began, without those in which nothing ran.

    Args:
        before: what `state` gave in an earlier process; None: there was none. What an earlier process did after it was
            last asked for that is not known, and not counted.

    Attributes:
        began: when this process began with it, by `time.perf_counter`.
        work: what the frozen part has cost in this process, once that is known.

    Example:
        >>> from greffon.training.elapsed import Elapsed
        >>> again = Elapsed({"seconds": 100.0, "trunk_seconds": 60.0})
        >>> again.seconds > 100, again.trunk_seconds
        (True, 60.0)
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        self.began = time.perf_counter()
        self.work: TrunkWork | None = None
        self._before = {name: float((before or {}).get(name, 0.0)) for name in ("seconds", "trunk_seconds")}
        self._looking: float | None = None

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return self._before["seconds"] + time.perf_counter() - self.began

    @property
    def trunk_seconds(self) -> float:
        """Of them in the frozen part."""
        here = 0.0
        if self._looking is not None:  # in the pass itself, of which the frozen part is nearly everything
            here = time.perf_counter() - self._looking
        elif self.work is not None:
            here = self.work.seconds
        return self._before["trunk_seconds"] + here

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around the first pass over the pictures; where it is interrupted, it counts as far as it came."""
        self._looking = time.perf_counter()
        yield
        self._looking = None

    def state(self) -> dict[str, float]:
        """For a later process, as JSON takes it."""
        return {"seconds": self.seconds, "trunk_seconds": self.trunk_seconds}
