"""A lock that many share or one has alone."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gate:
    """Many may be inside at once, or one alone; whoever waits to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = 0  # threads that are, or wait to be, alone
        self._taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Inside together with others; not to be nested."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Inside alone."""
        with self._changed:
            self._alone += 1
            self._changed.wait_for(lambda: not self._inside and not self._taken)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._alone -= 1
                self._taken = False
                self._changed.notify_all()
