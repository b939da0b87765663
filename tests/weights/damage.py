"""Weight files damaged on purpose, opened in child processes, and judged.

    from damage import check_format, how_much

    @how_much  # a sample in the ordinary run, the full counts among the large tests
    def test_damage(tmp_path, truncated, flipped):
        path = write_a_small_file(tmp_path)  # 10 to 50 kB with few tensors: most damage then hits what matters
        tally = check_format(path, truncated=truncated, flipped=flipped)
        assert tally["refused"] >= truncated / 2

For a format that is a folder, `member="variables/variables.index"` names the file in it that is damaged. For a format
with a checksum over everything, `checksum=True`: then other values are a failure too.

What may come out of a damaged file, by name in the tally:

- `right`: every array as it was.
- `refused`: a `WeightFileError` from the reader.
- `other values` (formats without a checksum): the same names, shapes and dtypes.
- `misfit` (formats without a checksum): a tensor of another name or shape, or integers for floating point numbers, as
  when the damage hit a name. No reader can know; `match` refuses such a file before a variable changes, for a tensor of
  the network is missing, or has another shape or no floating point numbers.

Anything else fails, with the seed and the position: another exception, a crash, ten seconds, too much memory.
"""

from __future__ import annotations

import json
import os
import queue
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHILD = Path(__file__).with_name("damage_child.py")
# Beyond twice the arrays: the interpreter's own needs, and what libraries keep after the first file.
_FLOOR = 24 << 20
_ROOM = 1 << 30  # what a child may allocate at all
_START = 60.0  # seconds for the first file, with the imports

how_much = pytest.mark.parametrize(
    ("truncated", "flipped"),
    [pytest.param(12, 60, id="sample"), pytest.param(200, 2000, id="all", marks=pytest.mark.large)],
)


class Damage(NamedTuple):
    """A damaged file: its bytes, and what was done in words that allow to do it again."""

    what: str
    data: bytes


def truncations(data: bytes, count: int, seed: int) -> Iterator[Damage]:
    """The file cut off at `count` random places; the same for the same seed."""
    places = random.Random(seed)
    for _ in range(count):
        length = places.randrange(len(data))
        yield Damage(f"cut off after {length} of {len(data)} bytes (seed {seed})", data[:length])


def byte_flips(data: bytes, count: int, seed: int) -> Iterator[Damage]:
    """The file with one random byte changed, `count` times; the same for the same seed."""
    places = random.Random(seed)
    for _ in range(count):
        place, change = places.randrange(len(data)), places.randrange(1, 256)
        flipped = bytearray(data)
        flipped[place] ^= change
        yield Damage(f"byte {place} of {len(data)} XOR {change:#04x} (seed {seed})", bytes(flipped))


def check_format(
    path: Path, *, truncated: int, flipped: int, seed: int = 0, member: str = "", **options: Any
) -> Counter[str]:
    """Truncate and flip a small intact weight file (or one file in a folder), and judge every outcome.

    Args:
        path: the intact file or folder; it stays as it is.
        truncated: how many truncations.
        flipped: how many files with one changed byte.
        seed: of both.
        member: which file in the folder is damaged.
        options: those of `check_damaged`.
    """
    data = (path / member if member else path).read_bytes()
    damages = [*truncations(data, truncated, seed), *byte_flips(data, flipped, seed)]
    return check_damaged(path, damages, member=member, **options)


def check_damaged(
    path: Path,
    damages: Iterable[Damage],
    *,
    member: str = "",
    checksum: bool = False,
    seconds: float = 10.0,
    memory: int | None = None,
    workers: int = 2,
    reader: str = "greffon.weights.read",
) -> Counter[str]:
    """Open each damaged copy of a weight file in a child process, read everything, and judge what comes.

    Args:
        path: the intact file or folder, which must be readable.
        damages: what takes the place of the file, or of `member` in the folder.
        member: the file in the folder.
        checksum: the format proves its content: no other values may come out.
        seconds: the most time for one file.
        memory: the most bytes for one file; default twice the intact file's arrays as float32 and 24 MB.
        workers: child processes at a time.
        reader: the module whose `opened` is called.

    Returns:
        How many files came out how: `right`, `refused`, `other values`, `misfit`.
    """
    with Children(workers, seconds, reader) as children:
        expected = children.open(path)
        assert expected.get("arrays"), f"the intact file must be readable: {expected}"
        if memory is None:
            memory = 2 * sum(4 * _size(shape) for shape, *_ in expected["arrays"].values()) + _FLOOR
        outcomes = children.open_all(path, damages, member)
        judged = [(what, *_judge(answer, expected["arrays"], checksum, memory)) for what, answer in outcomes]
    failures = [f"{what}: {why}" for what, verdict, why in judged if verdict == "failed"]
    assert not failures, f"{len(failures)} of {len(judged)} damaged files:\n" + "\n".join(failures[:5])
    return Counter(verdict for _, verdict, _ in judged)


class Children:
    """Processes that open weight files, one after the other, and are replaced when they die or hang.

    `open(path)` alone serves for a single hostile file: it gives a dict with `memory` (bytes) and one of `arrays`
    (name -> [shape, dtype, SHA-256]), `refused` (the sentence) and `error` (a traceback, a crash or a time-out).
    """

    def __init__(self, workers: int = 1, seconds: float = 10.0, reader: str = "greffon.weights.read") -> None:
        self._seconds = seconds
        self._free: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children = [_Child(reader) for _ in range(workers)]
        for child in self._children:
            self._free.put(child)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.end()

    def open(self, path: Path) -> dict[str, Any]:
        """What comes out of one file or folder.

        The memory (and the time) of a child's first file counts its imports too: where that matters, open an intact
        file of the same format first.
        """
        with self._one() as child:
            return child.ask(path, self._seconds if child.running else _START)

    def open_all(self, path: Path, damages: Iterable[Damage], member: str) -> list[tuple[str, dict[str, Any]]]:
        """What comes out of each damaged copy of `path`, with the words for the damage."""

        def one(damage: Damage) -> tuple[str, dict[str, Any]]:
            with self._one() as child:
                child.warm(path)
                child.place(path, member).write_bytes(damage.data)
                return damage.what, child.ask(child.copy(path), self._seconds)

        with ThreadPoolExecutor(len(self._children)) as pool:
            return list(pool.map(one, damages))

    @contextmanager
    def _one(self) -> Iterator[_Child]:
        child = self._free.get()
        try:
            yield child
        finally:
            self._free.put(child)


class _Child:
    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._folder = tempfile.TemporaryDirectory(prefix="damage-", dir="/dev/shm" if _room_in_memory() else None)
        self._warm: Path | None = None
        self._said, self._code = "", 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def copy(self, path: Path) -> Path:
        return Path(self._folder.name) / path.name

    def place(self, path: Path, member: str) -> Path:
        """Where the damaged file goes; the rest of a folder is copied the first time."""
        if not member:
            return self.copy(path)
        if not self.copy(path).exists():
            shutil.copytree(path, self.copy(path))
        return self.copy(path) / member

    def warm(self, path: Path) -> None:
        """Open the intact file once, so that imports do not count as a file's memory."""
        if self._process is None or self._warm != path:
            self.ask(path, _START)
            self._warm = path

    def ask(self, path: Path, seconds: float) -> dict[str, Any]:
        process = self._process or self._start()
        try:
            process.stdin.write(json.dumps(str(path)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, which the reading finds out
        line = _line(process.stdout, seconds)
        if line:
            return json.loads(line)
        self._stop(at_once=line is None)
        if line is None:
            return {"error": f"no answer within {seconds:g} s", "memory": 0}
        return {"error": f"the process died ({self._code}):\n{self._said}", "memory": 0}

    def end(self) -> None:
        self._stop()
        self._folder.cleanup()

    def _start(self) -> subprocess.Popen[bytes]:
        self._said_in = (Path(self._folder.name) / "stderr.txt").open("w+b")
        environment = os.environ | {"HDF5_PLUGIN_PATH": "/nonexistent", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(_CHILD), str(_ROOM), self._reader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said_in,
            env=environment,
        )
        return self._process

    def _stop(self, *, at_once: bool = False) -> None:
        if self._process is None:
            return
        if at_once:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said_in.seek(0)
        self._said = self._said_in.read()[-2000:].decode(errors="replace")
        self._said_in.close()
        self._code, self._process = self._process.returncode, None


def _line(stream: Any, seconds: float) -> bytes | None:
    """The next line, b"" at the end of the stream, None when none came in time."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    return stream.readline()


def _judge(answer: dict[str, Any], expected: dict[str, Any], checksum: bool, memory: int) -> tuple[str, str]:
    """The verdict and, for "failed", why."""
    if "error" in answer:
        return "failed", answer["error"]
    if answer["memory"] > memory:
        return "failed", f"it took {answer['memory']:,} bytes of memory, {memory:,} allowed"
    if "refused" in answer:
        return "refused", ""
    found = answer["arrays"]
    if found == expected:
        return "right", ""
    if checksum:
        return "failed", "other arrays came out, although the format has a checksum"
    fits = all(name in found and found[name][:2] == expected[name][:2] for name in expected)
    return ("other values" if fits else "misfit"), ""


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _room_in_memory() -> bool:
    return os.access("/dev/shm", os.W_OK)
