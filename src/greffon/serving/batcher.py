"""Pictures of many requests computed together: whoever waits while the model is busy goes into its next batch.

A batch is never held back for pictures that may come, only for pictures that are being decoded already, and only for
`wait` seconds: one client alone is answered as if there was no batching.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor


@dataclass(frozen=True, eq=False)
class Row:
    """What the model says of one picture.

    Attributes:
        probabilities: float32 (classes,).
        queued: seconds from the picture's arrival in the queue to the start of its batch.
        seconds: that the batch took.
        batch: pictures in it.
    """

    probabilities: np.ndarray
    queued: float
    seconds: float
    batch: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    pixels: np.ndarray
    answer: asyncio.Future[Row]
    since: float


class Batcher:
    """Puts pictures into batches for one model. All of it is called from the event loop; `run` is not.

    Args:
        run: uint8 (n, size, size, 3) to float32 (n, classes).
        executor: where it runs; one thread for all models, as a batch takes all processors anyway.
        batch: pictures at once, at most.
        wait: seconds for pictures that are being decoded, at most.

    Attributes:
        done: called with (pictures, seconds) after each batch.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], executor: Executor, *, batch: int, wait: float) -> None:
        self._run = run
        self._executor = executor
        self._batch = batch
        self._wait = wait
        self._pending: deque[_Waiting] = deque()
        self._coming = 0
        self._changed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self.done: Callable[[int, float], None] = lambda pictures, seconds: None

    @contextmanager
    def announced(self, pictures: int = 1) -> Iterator[None]:
        """While in this block, so many pictures are on their way here."""
        self._coming += pictures
        try:
            yield
        finally:
            self._coming -= pictures
            self._changed.set()

    async def submit(self, pixels: np.ndarray) -> Row:
        """Compute one picture, uint8 (size, size, 3), with whatever others there are.

        Raises:
            Exception: whatever the model raised for the batch.
        """
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._pending.append(_Waiting(pixels, answer, time.perf_counter()))
        self._changed.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while self._pending:
                await self._gather()
                await self._compute()
        finally:
            self._worker = None

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait
        while self._coming and len(self._pending) < self._batch and (left := end - loop.time()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _compute(self) -> None:
        taken: list[_Waiting] = []
        while self._pending and len(taken) < self._batch:
            one = self._pending.popleft()
            if not one.answer.done():  # its request has given up
                taken.append(one)
        if not taken:
            return
        try:
            pixels = [one.pixels for one in taken]
            start, seconds, rows = await asyncio.get_running_loop().run_in_executor(self._executor, self._timed, pixels)
        except Exception as error:  # whatever the model raises is the answer of those that are in the batch
            for one in taken:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        self.done(len(taken), seconds)
        for one, row in zip(taken, rows, strict=True):
            if not one.answer.done():
                one.answer.set_result(Row(row, start - one.since, seconds, len(taken)))

    def _timed(self, pixels: list[np.ndarray]) -> tuple[float, float, np.ndarray]:
        start = time.perf_counter()
        rows = self._run(np.stack(pixels))
        return start, time.perf_counter() - start, rows
