"""The time that measuring may take."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# A measurement is not begun that would end later than this share of the time that was allowed.
_LATEST = 1.3


class Clock:
    """The time that measuring may take.

    Args:
        limit: seconds.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._began = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    def allows(self, seconds: float = 0.0) -> bool:
        """Whether something that takes so long may still begin."""
        return self.spent + seconds <= self.limit * _LATEST

    def repeat(self, work: Callable[[], Any], *, share: float, most: int = 5) -> float:
        """Middle of the seconds of some repetitions: one, and more within a share of the whole time."""
        began, times = time.perf_counter(), []
        while True:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
            used = time.perf_counter() - began
            if len(times) >= most or used + times[-1] > share * self.limit or not self.allows(times[-1]):
                return statistics.median(times)
