"""Pictures of many requests computed together: whoever waits while the model is busy goes into a next batch.

A picture that is alone is computed by all processors together, which answers it soonest. Where there are more, each
processor is a lane that computes a batch of its own: nothing waits for the slowest thread of every layer, and what is
done is answered while the others go on. Computing together costs more, as threads wait for one another. So a picture
that is alone now, though others were here with it a moment ago, gets one lane: on a machine that is busy most of the
time, what the lone ones lose is less than what all others would wait for them.

On processors a large batch takes as long per picture as a small one, or longer where it leaves the cache, and whoever
is in it waits for all of it. So a lane takes a quarter of its share of what waits: the others are free before a batch
of everything would be done, and have the rest. Batches grow only where the queue does. They are never held back for
pictures that may come, only, if asked to, for pictures that are being decoded already, and only for `wait` seconds;
who asks for that has a machine where larger batches gain something, and the free lanes share all that waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUIET_SECONDS = 0.25

_PARTS = 4  # batches that a lane makes of its share of what waits: of random arrivals, more change no percentile


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


class Lanes:
    """The processors, shared by all models.

    Args:
        count: batches that are computed at once, at least 1.
        quiet: seconds without two pictures at once, after which a lone picture is computed by all.
    """

    def __init__(self, count: int, *, quiet: float = QUIET_SECONDS) -> None:
        self.count = count
        self._quiet = quiet
        self._met = -math.inf
        self.executor = ThreadPoolExecutor(count, "greffon-engine")
        self._busy = 0
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        """Lanes on which nothing is computed."""
        return self.count - self._busy

    @property
    def are_quiet(self) -> bool:
        """Whether no two pictures have been here at once lately."""
        return time.perf_counter() - self._met > self._quiet

    def meet(self) -> None:
        """Two pictures are here at once."""
        self._met = time.perf_counter()

    async def wait(self) -> None:
        """Until a lane is free."""
        while not self.free:
            self._freed.clear()
            await self._freed.wait()

    def take(self, lanes: int) -> None:
        """So many are not free from now on."""
        self._busy += lanes

    def give(self, lanes: int) -> None:
        """So many are free again."""
        self._busy -= lanes
        self._freed.set()

    def close(self) -> None:
        """End the threads."""
        self.executor.shutdown(wait=True)


class Batcher:
    """Puts pictures into batches for one model. All of it is called from the event loop; `run` is not.

    Args:
        run: uint8 (n, size, size, 3), and whether the whole machine is to compute it, to float32 (n, classes).
        lanes: where it runs.
        batch: pictures at once, at most.
        wait: seconds for pictures that are being decoded, at most.

    Attributes:
        done: called with (pictures, seconds) after each batch.
    """

    def __init__(self, run: Callable[[np.ndarray, bool], np.ndarray], lanes: Lanes, *, batch: int, wait: float) -> None:
        self._run = run
        self._lanes = lanes
        self._batch = batch
        self._wait = wait
        self._pending: deque[_Waiting] = deque()
        self._coming = 0
        self._changed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._batches: set[asyncio.Task[Any]] = set()
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
        if self._lanes.free < self._lanes.count or len(self._pending) + self._coming > 1:
            self._lanes.meet()
        self._changed.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something that computes as much as a picture does, on a lane of its own."""
        await self._lanes.wait()
        self._lanes.take(1)
        task = asyncio.create_task(self._on_a_lane(function, *arguments))
        self._batches.add(task)  # goes on where its request has given up: its lane is not free before
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def _on_a_lane(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._lanes.executor, function, *arguments)
        finally:
            self._lanes.give(1)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._batches.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody need

    async def _work(self) -> None:
        try:
            while self._pending:
                await self._lanes.wait()
                await self._gather()
                free = self._lanes.free
                if free:  # another model may have been quicker
                    self._start(free)
        finally:
            self._worker = None

    def _start(self, free: int) -> None:
        """Compute what waits, or a part of it."""
        alone = free == self._lanes.count and len(self._pending) + self._coming <= 1 and self._lanes.are_quiet
        taken: list[_Waiting] = []
        parts = free if self._wait else _PARTS * self._lanes.count
        share = min(self._batch, -(-len(self._pending) // parts))
        while self._pending and len(taken) < share:
            one = self._pending.popleft()
            if not one.answer.done():  # its request has given up
                taken.append(one)
        if taken:
            lanes = self._lanes.count if alone else 1
            self._lanes.take(lanes)
            task = asyncio.create_task(self._compute(taken, alone, lanes))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait
        while self._coming and len(self._pending) < self._batch and (left := end - loop.time()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _compute(self, taken: list[_Waiting], alone: bool, lanes: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            start, seconds, rows = await loop.run_in_executor(
                self._lanes.executor, self._timed, [one.pixels for one in taken], alone
            )
        except Exception as error:  # whatever the model raises is the answer of those that are in the batch
            for one in taken:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        finally:
            self._lanes.give(lanes)
        self.done(len(taken), seconds)
        for one, row in zip(taken, rows, strict=True):
            if not one.answer.done():
                one.answer.set_result(Row(row, start - one.since, seconds, len(taken)))

    def _timed(self, pixels: list[np.ndarray], alone: bool) -> tuple[float, float, np.ndarray]:
        start = time.perf_counter()
        rows = self._run(np.stack(pixels), alone)
        return start, time.perf_counter() - start, rows
