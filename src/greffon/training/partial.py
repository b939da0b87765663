"""The folder `OUT.partial` beside a run that is being trained: all that is needed to go on with it.

| file | what |
|---|---|
| job.json | what was asked for: data, recipe, options |
| found.parquet, catalog.parquet, catalog.json | the pictures as they were found, and those that are used |
| split.parquet | the written split, where one was given |
| choices.json | what was chosen by timing |
| checkpoint | weights, optimizer, random states, position: replaced as a whole, see `checkpoint` |
| times.json | how long it has taken, when it was last written down: with each checkpoint, and when it was interrupted |
| lock | held by the process that trains |

It goes when the run is written. A checkpoint that cannot be written, on a full disk for example, is told once; the
training goes on, and the last good one stays.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.bundle.commands import command_line, resume_command
from greffon.bundle.manifest import PARTIAL
from greffon.errors import InputError
from greffon.training.checkpoint import load_state, save_state, write_durably

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.training.checkpoint import State

EVERY = 30.0
"""Seconds between two checkpoints, unless another number is asked for."""

VERSION = 1
_SHARE = 0.02  # of the time that checkpoints may take, unless they are asked for more often


class Partial:
    """The folder of one training; made by `create`, or opened again by `reopen`.

    Attributes:
        place: the folder.
        job: what was asked for.
        warn: told of what goes wrong, once.
        writes: how many checkpoints were written.
        seconds: that they took.
        times: gives how long the training has taken, see `elapsed`.
        is_reopened: whether an earlier process began with it.
    """

    def __init__(self, place: Path, job: dict[str, Any], *, every: float = EVERY) -> None:
        self.place, self.job, self.every = place, job, every
        self.warn: Callable[[str], None] = lambda _: None
        self.writes, self.seconds = 0, 0.0
        self.times: Callable[[], Any] | None = None
        self.is_reopened = False
        self._lock: Any = None
        self._last = time.monotonic()
        self._took = 0.0
        self._failed = False

    @classmethod
    def create(cls, out: Path, job: dict[str, Any], *, overwrite: bool, every: float = EVERY) -> Partial:
        """Begin a training.

        Raises:
            InputError: one that was interrupted is there and is not to be given up, or one is running.
        """
        place = partial_of(out)
        if place.is_dir():
            _refuse_to_lose(place, out, overwrite=overwrite)
        partial = cls(place, job | {"version": VERSION, "id": secrets.token_hex(8), "every": every}, every=every)
        try:
            if place.is_dir():
                partial._take_lock(out)
                for path in place.iterdir():
                    if path.name != "lock":
                        path.unlink()
            place.mkdir(parents=True, exist_ok=True)
            partial._take_lock(out)
        except OSError:
            partial._failed = True  # said when a checkpoint is due: short trainings need none
        partial.write_json("job", partial.job)
        return partial

    @classmethod
    def reopen(cls, run: str | Path) -> Partial:
        """Open what an interrupted training left.

        Args:
            run: the folder that it would have become, or the one with `.partial`.

        Raises:
            InputError: there is none, it is running, or another version of Greffon wrote it.
        """
        out = Path(run).expanduser()
        place = out if out.name.endswith(PARTIAL) and out.is_dir() else partial_of(out)
        out = place.with_name(place.name.removesuffix(PARTIAL))
        try:
            job = json.loads((place / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if (out / "manifest.json").is_file():
                raise InputError(
                    f"the training of {out} has ended and its run is whole: there is nothing to go on with. To train "
                    f"it again: {command_line('train', '--reproduce', out)}"
                ) from None
            raise InputError(f"there is no interrupted training of {out}: {place} is missing") from None
        if job.get("version") != VERSION:
            raise InputError(f"{place} was left by another version of Greffon; train again with --overwrite")
        partial = cls(place, job, every=float(job.get("every", EVERY)))
        partial.is_reopened = True
        partial._take_lock(out)
        return partial

    @property
    def out(self) -> Path:
        """The run that it is to become."""
        return self.place.with_name(self.place.name.removesuffix(PARTIAL))

    # --- what lies in it ---

    def write_json(self, name: str, value: Any) -> None:
        """Keep a JSON value, durably."""
        self._try(lambda: write_durably(self.place / f"{name}.json", json.dumps(value, indent=1).encode()))

    def read_json(self, name: str) -> Any:
        """A JSON value that was kept; None where there is none."""
        try:
            return json.loads((self.place / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_frame(self, name: str, frame: Any) -> None:
        """Keep a table."""
        import io

        def write() -> None:
            content = io.BytesIO()
            frame.write_parquet(content)
            write_durably(self.place / f"{name}.parquet", content.getvalue())

        self._try(write)

    def frame(self, name: str) -> Path | None:
        """The file of a table that was kept; None where there is none."""
        file = self.place / f"{name}.parquet"
        return file if file.is_file() else None

    # --- checkpoints ---

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint: often enough, and not so often that it costs much."""
        pause = self.every if self.every < 1 else max(self.every, self._took / _SHARE)
        return time.monotonic() - self._last >= pause

    def save(self, state: State) -> None:
        """Write a checkpoint in place of the last one."""
        start = time.monotonic()
        self._try(lambda: save_state(self.place / "checkpoint", state))
        self._last = time.monotonic()
        self._took = self._last - start
        self.writes, self.seconds = self.writes + 1, self.seconds + self._took
        self.keep_times()

    def keep_times(self) -> None:
        """Write down how long it has taken; where that cannot be done, nothing is lost but that."""
        if self.times is not None:
            with contextlib.suppress(OSError):
                write_durably(self.place / "times.json", json.dumps(self.times()).encode())

    def load(self) -> State | None:
        """The last checkpoint; None where there is none."""
        file = self.place / "checkpoint"
        return load_state(file) if file.is_file() else None

    def forget(self) -> None:
        """The checkpoint is of no use any more: the training begins anew."""
        (self.place / "checkpoint").unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the folder."""
        self.release()
        shutil.rmtree(self.place, ignore_errors=True)

    def release(self) -> None:
        """Let another process go on with it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                self.warn(
                    f"no checkpoint could be written to {self.place}: {error.strerror or error}. The training goes on; "
                    "if it is interrupted, it goes on from the last one that could be"
                )
            self._failed = True
        else:
            self._failed = False

    def _take_lock(self, out: Path) -> None:
        """Hold the folder as long as this process lives, however it ends."""
        if self._lock is not None or not self.place.is_dir():
            return
        try:
            import fcntl
        except ImportError:  # Windows: nobody looks after that there
            return
        self._lock = (self.place / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise InputError(f"another process is training {out} just now ({self.place})") from None
        except OSError:  # a file system without locks
            return


def partial_of(out: Path) -> Path:
    """The folder beside a run in which its training is kept.

    Example:
        >>> from pathlib import Path
        >>> from greffon.training.partial import partial_of
        >>> partial_of(Path("runs/first")).name
        'first.partial'
    """
    return out.with_name(f"{out.name}{PARTIAL}")


def _refuse_to_lose(place: Path, out: Path, *, overwrite: bool) -> None:
    if not (place / "job.json").is_file() and any(path.name != "lock" for path in place.iterdir()):
        raise InputError(f"{place} is needed for checkpoints, and holds something else: give another name than {out}")
    checkpoint = place / "checkpoint"
    if overwrite or not checkpoint.is_file():
        return
    with contextlib.suppress(OSError):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(checkpoint.stat().st_mtime))
        raise InputError(
            f"a training of {out} was interrupted (last checkpoint {when}): go on with it ({resume_command(out)}, "
            "greffon.resume), or give it up and begin anew (--overwrite, overwrite=True)"
        )
