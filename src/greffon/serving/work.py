"""From the pictures of a request to their answers: room in the queue, decoding, the model."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError
from greffon.pictures.decode import usual_workers
from greffon.serving.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from greffon.serving.batcher import Row
    from greffon.serving.looking import Look
    from greffon.serving.metrics import Metrics
    from greffon.serving.models import Served
    from greffon.serving.settings import Settings


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of one picture.

    Attributes:
        row: what the model says; None where the picture could not be read.
        error: why it could not; None where it could.
        decoding: seconds that it took to decode.
        look: why, where that was asked for.
    """

    row: Row | None
    error: str | None
    decoding: float
    look: Look | None = None


class Work:
    """The queue, and the threads that decode.

    Args:
        settings: of the service.
        metrics: where it is counted.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pictures = 0
        self._seconds_each = 0.05  # until the first were measured
        self._decoders = ThreadPoolExecutor(max(2, usual_workers()), "greffon-decoder")

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something that takes long, where the event loop does not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    async def answers(
        self, served: Served, pictures: Sequence[bytes | np.ndarray], *, explain: bool = False
    ) -> list[Answer]:
        """Decode and compute pictures.

        Args:
            served: by which model.
            pictures: contents of files, or arrays as the model takes them, uint8 (size, size, 3).
            explain: whether they are to say why, which takes as long again.

        Returns:
            One answer per picture, in order.

        Raises:
            RefusedError: there is no room in the queue.
        """
        with self._room(len(pictures)):
            start = time.perf_counter()
            tasks = [asyncio.ensure_future(self._answer(served, picture, explain)) for picture in pictures]
            try:
                found = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()  # where the request has given up, or one of its pictures failed
            self._learn(len(pictures), time.perf_counter() - start)
            return found

    @property
    def full(self) -> bool:
        """Whether there is no room for a single picture more."""
        return self._pictures >= self._settings.queue

    def busy(self, text: str, reason: str) -> RefusedError:
        """The refusal for want of room."""
        return RefusedError(429, f"{text}; come again later", reason=reason, retry_after=self.retry_after())

    def retry_after(self) -> int:
        """Whole seconds after which there probably is room, at least 1."""
        return max(1, min(60, math.ceil(self._pictures * self._seconds_each)))

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _room(self, pictures: int) -> Iterator[None]:
        if self._pictures + pictures > self._settings.queue:
            waiting = f"{self._pictures} pictures are waiting, of {self._settings.queue} that may"
            raise self.busy(waiting, "queue full")
        self._pictures += pictures
        self._metrics.queue.set(self._pictures)
        try:
            yield
        finally:
            self._pictures -= pictures
            self._metrics.queue.set(self._pictures)

    async def _answer(self, served: Served, picture: bytes | np.ndarray, explain: bool) -> Answer:
        decoding = 0.0
        outcomes = self._metrics.pictures
        with served.batcher.announced():
            if isinstance(picture, bytes):
                try:
                    pixels, decoding = await self.aside(self._decode, served, picture)
                except DataError as error:
                    outcomes.labels(served.model.name, "unreadable").inc()
                    return Answer(None, _without_name(str(error)), 0.0)
                self._metrics.decode.observe(decoding)
            else:
                pixels = picture
        row = await served.batcher.submit(pixels)
        look = await served.batcher.aside(served.model.look, pixels, row.probabilities) if explain else None
        outcomes.labels(served.model.name, "answered").inc()
        return Answer(row, None, decoding, look)

    def _decode(self, served: Served, picture: bytes) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        pixels = served.model.decode(picture, max_pixels=self._settings.pixels)
        return pixels, time.perf_counter() - start

    def _learn(self, pictures: int, seconds: float) -> None:
        """How long a picture takes while as many as now are under way."""
        self._seconds_each += 0.1 * (seconds / max(self._pictures, pictures, 1) - self._seconds_each)


def _without_name(text: str) -> str:
    """A picture in memory has no name that the client knows."""
    return text.partition("): ")[2] if text.startswith("picture in memory") else text
