"""Ctrl-C and SIGTERM while a training runs: the first one waits for the next checkpoint, the second does not.

Outside of the steps of a stage there is nothing to wait for: what is computed there is stored as it comes, or takes
seconds.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_WATCHED = (signal.SIGINT, signal.SIGTERM)
_USUAL = (signal.SIG_DFL, signal.default_int_handler)


class InterruptedTraining(KeyboardInterrupt):
    """A training was told to stop.

    Attributes:
        exit_code: 128 and the number of the signal, as a shell has it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__("the training was interrupted")
        self.exit_code = 128 + number


class Interrupts:
    """Whether somebody wants the training to stop.

    Example:
        >>> import signal
        >>> from greffon.training.interrupts import Interrupts, InterruptedTraining
        >>> interrupts = Interrupts()
        >>> with interrupts.watched(), interrupts.waits():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print("this step is ended")
        ...     try:
        ...         interrupts.stop_if_asked()
        ...     except InterruptedTraining as stopped:
        ...         print(stopped.exit_code)
        this step is ended
        143
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._waits = False

    @property
    def asked(self) -> bool:
        """Whether the training is to stop at the next checkpoint."""
        return self._asked is not None

    def stop_if_asked(self) -> None:
        """To be called where everything is saved.

        Raises:
            InterruptedTraining: it was asked for.
        """
        if self._asked is not None:
            raise InterruptedTraining(self._asked)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Listen to signals meanwhile; not where the program has handlers of its own, or in another thread."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: handler for number in _WATCHED if (handler := signal.getsignal(number)) in _USUAL}
        for number in before:
            signal.signal(number, self._heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Meanwhile a first signal is noted down, for `stop_if_asked`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _heard(self, number: int, _frame: Any) -> None:
        if self._waits and self._asked is None:
            self._asked = number
            sys.stderr.write("\nstopping after this step; once more to stop at once\n")
            return
        raise InterruptedTraining(number)
