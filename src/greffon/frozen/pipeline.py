"""Chunk after chunk read, computed and written, the three at once.

Reading and writing have a thread each, computing stays in the caller's: an interrupt arrives there, and so does
whatever goes wrong in one of the threads. Both queues are short, so that memory does not grow with the number of
chunks, and what was computed is written whatever happens to a later chunk.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

_Chunk = TypeVar("_Chunk")
_Read = TypeVar("_Read")
_Computed = TypeVar("_Computed")

AHEAD = 2
"""Chunks that are read, or being read, beside the one that is computed."""

BEHIND = 2
"""Chunks that are computed and wait to be written, or are being written, while the next one is computed."""


def overlap(
    chunks: Iterable[_Chunk],
    *,
    read: Callable[[_Chunk], _Read],
    compute: Callable[[_Read], _Computed],
    write: Callable[[_Chunk, _Computed], bool],
    done: Callable[[_Chunk], None] | None = None,
) -> bool:
    """Read, compute and write chunks, each step in order, the steps of neighbouring chunks at the same time.

    At most `AHEAD` chunks are read before they are needed, and at most `BEHIND` wait to be written. The first chunk
    is written before the second is computed: it shows whether there is a place to write to.

    Args:
        chunks: what to go through.
        read: gives what a chunk needs to be computed; called in a thread of its own.
        compute: called in this thread.
        write: keeps what was computed, in a thread of its own; False ends the work, since nothing more can be kept.
        done: called in this thread with each chunk that is written.

    Returns:
        Whether all chunks were gone through; False where `write` ended it.

    Raises:
        Exception: whatever one of the functions raises, when the chunk's turn has come. Before it leaves, chunks that
            were computed are written, and both threads have ended. An interrupt is no exception to that.

    Example:
        >>> from greffon.frozen.pipeline import overlap
        >>> kept = {}
        >>> overlap([1, 2, 3], read=str, compute=lambda text: text * 2,
        ...         write=lambda chunk, text: kept.update({chunk: text}) is None)
        True
        >>> kept
        {1: '11', 2: '22', 3: '33'}
    """
    writing: deque[tuple[_Chunk, Future[bool]]] = deque()

    def finish(most: int) -> bool:
        """Wait until at most so many chunks are unwritten; take note of those that happen to be written as well."""
        while len(writing) > most or (writing and writing[0][1].done()):
            chunk, future = writing.popleft()
            if not future.result():
                return False
            if done is not None:
                done(chunk)
        return True

    with _Thread("greffon-read", drop=True) as reader, _Thread("greffon-write", drop=False) as writer:
        most = 0
        for chunk, inputs in _read_ahead(chunks, read, reader):
            writing.append((chunk, writer.submit(write, chunk, compute(inputs))))
            if not finish(most):
                return False
            most = BEHIND
        return finish(0)


def _read_ahead(
    chunks: Iterable[_Chunk], read: Callable[[_Chunk], _Read], reader: ThreadPoolExecutor
) -> Iterator[tuple[_Chunk, _Read]]:
    reading: deque[tuple[_Chunk, Future[_Read]]] = deque()
    for chunk in chunks:
        reading.append((chunk, reader.submit(read, chunk)))
        if len(reading) > AHEAD:
            first, future = reading.popleft()
            yield first, future.result()
            del future
    while reading:
        first, future = reading.popleft()
        yield first, future.result()
        del future


class _Thread(ThreadPoolExecutor):
    """One thread; at the end what waits for it is dropped, or done, and the thread has ended."""

    def __init__(self, name: str, *, drop: bool) -> None:
        super().__init__(1, thread_name_prefix=name)
        self._drop = drop

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=self._drop)
