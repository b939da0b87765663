"""Seconds of the parts of a training, measured on this machine and the user's own pictures until time is up."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from greffon.backbone.proof import fingerprint
from greffon.errors import DataError, InputError
from greffon.frozen.build import build_engine
from greffon.frozen.hardware import has_accelerator
from greffon.frozen.store import ActivationStore
from greffon.pictures.decode import decode_many, usual_workers
from greffon.pictures.scan import read_picture
from greffon.training.clock import Clock
from greffon.training.estimate import SEGMENTS, Int8Times, Measured
from greffon.training.measured_heads import measure_copies, measure_solving
from greffon.training.measured_steps import Steps
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from greffon.recipe import Recipe, ResizeRule, Stage
    from greffon.training.segments import Anatomy

    Array = np.ndarray[Any, Any]

# Pictures that are decoded and go through the engines: enough for full speed, few enough for a slow machine.
SAMPLE = 32


def measure(
    anatomy: Anatomy, recipe: Recipe, files: Sequence[Path], *, rule: ResizeRule, pictures: tuple[int, int],
    seconds: float, start: float, with_folds: bool = False,
) -> Measured:  # fmt: skip
    """Measure the parts, the most telling ones first; what there is no time for is scaled from its neighbour.

    Args:
        anatomy: of the grafted model.
        recipe: its last stage's options, image size and dtype of activations are read.
        files: some of the pictures.
        rule: how a picture becomes square.
        pictures: how many there are to learn from and held out; an epoch of the head is measured with as many.
        seconds: to spend; the last measurement may take a little longer.
        start: seconds that the model took.
        with_folds: whether repeated folds will be taken.

    Raises:
        DataError: none of the pictures can be read.
    """
    clock = Clock(seconds)
    memory = psutil.Process().memory_info().rss
    decode, scan, x = _pictures(files, recipe.image_size, rule, clock)
    engines = _Engines(anatomy, recipe.stages[-1], x, clock)
    engines.measure("head")
    steps = Steps(anatomy, recipe, pictures, clock)
    steps.measure("head")
    steps.measure("last-block")
    write, read = _store_speeds()
    proof, end = _end(anatomy.model)
    solving = measure_solving(anatomy.model, recipe, engines.features, pictures, clock, with_folds=with_folds)
    copies = measure_copies(files, engines.features, clock) if recipe.near_copies == "together" else 0.0
    int8 = engines.int8()
    engines.measure("conv5")
    steps.measure("conv5")
    engines.measure("conv4")
    steps.measure("conv4")
    steps.measure("early")
    trunk = engines.by_segment()
    return Measured(
        start=start,
        scan=scan,
        decode=decode,
        build=engines.build,
        write=write,
        read=read,
        end=end,
        copies=copies,
        proof=proof,
        solve=solving,
        segments=steps.by_segment(trunk),
        int8=int8 if isinstance(int8, Int8Times) else None,
        why_no_int8="" if isinstance(int8, Int8Times) else int8,
        memory=memory,
        shares_cores=not has_accelerator(),
        xla=bool(steps.xla),
        spent=clock.spent,
    )


# --- pictures and disk ----------------------------------------------------------------------------------------------


def _pictures(files: Sequence[Path], size: int, rule: ResizeRule, clock: Clock) -> tuple[float, float, Array]:
    """Seconds to decode and to scan one picture, and the pixels of some."""
    pixels: list[Array] = []

    def decode() -> None:
        pixels[:] = [got for _, got in decode_many(files, size, rule) if not isinstance(got, DataError)]

    decoding = clock.repeat(decode, share=0.05) / len(files)
    if not pixels:
        raise DataError(f"none of {len(files)} pictures that were tried can be read, such as {files[0]}")
    with ThreadPoolExecutor(usual_workers()) as pool:
        scanning = clock.repeat(lambda: list(pool.map(read_picture, files)), share=0.05) / len(files)
    return decoding, scanning, np.stack([pixels[row % len(pixels)] for row in range(SAMPLE)])


def _store_speeds() -> tuple[float, float]:
    """Bytes per second into an activation store on the disk where ours lies, and out of it."""
    rows, numbers = 64, 100_000
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="plan-") as folder, ActivationStore(folder) as store:
        trunk = store.trunk(bytes(16), label="measuring")
        keys = [row.to_bytes(16, "big") for row in range(rows)]
        array = np.random.default_rng(0).random((rows, numbers), np.float32).astype(np.float16)
        start = time.perf_counter()
        trunk.put_many(keys, [array])
        written = time.perf_counter()
        trunk.read_into(keys, [np.empty_like(array)])
        return array.nbytes / (written - start), array.nbytes / (time.perf_counter() - written)


def _end(model: keras.Model) -> tuple[float, float]:
    """Seconds of a fingerprint of the model, and of writing it."""
    start = time.perf_counter()
    fingerprint(model)
    proven = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
    return proven - start, time.perf_counter() - proven


# --- the trunk ------------------------------------------------------------------------------------------------------


class _Engines:
    """Seconds per picture of the engine up to one cut after another.

    Attributes:
        build: seconds until the first engine was ready.
        features: what the whole trunk gave for the pictures, pooled as the head takes it, float32 (rows, d).
    """

    def __init__(self, anatomy: Anatomy, stage: Stage, x: Array, clock: Clock) -> None:
        self._anatomy, self._stage, self._x, self._clock = anatomy, stage, x, clock
        self._seconds: dict[str, float] = {}
        self.build = 0.0
        self.features: Array = np.zeros((len(x), 1), np.float32)

    def measure(self, segment: str) -> None:
        """The trunk in front of a segment; the one in front of the head always, others while there is time."""
        first = not self._seconds
        if not first and not self._clock.allows(self._seconds["head"] * len(self._x)):
            return
        cut = self._anatomy.cut(self._stage.replace(unfreeze=self._anatomy.rule(segment)))
        if not cut.trunk.nodes:
            return
        start = time.perf_counter()
        engine = build_engine(cut.trunk, check=first)
        if first:
            self.build = time.perf_counter() - start
            self.features = np.asarray(engine.run([self._x])[0], np.float32).reshape(len(self._x), -1)
        self._seconds[segment] = self._clock.repeat(lambda: engine.run([self._x]), share=0.08, most=3) / len(self._x)

    def int8(self) -> Int8Times | str:
        """The whole trunk in int8; or why not."""
        if not self._clock.allows(self._seconds["head"] * len(self._x)):
            return "there was no time to measure it; give more with --seconds"
        cut = self._anatomy.cut(self._stage.replace(unfreeze="none"))
        start = time.perf_counter()
        try:
            engine = build_engine(cut.trunk, check=False, precision="int8", calibration=lambda: [self._x])
        except InputError as error:
            return str(error)
        build = time.perf_counter() - start
        engine.run([self._x[:1]])
        seconds = self._clock.repeat(lambda: engine.run([self._x]), share=0.08, most=3) / len(self._x)
        return Int8Times(seconds / self._seconds["head"], max(0.0, build - self.build))

    def by_segment(self) -> dict[str, float]:
        """Seconds of each segment, by nested cuts; between two cuts by their work."""
        found = dict.fromkeys(SEGMENTS, 0.0)
        begun, done = 0, 0.0
        for place, name in enumerate(SEGMENTS):
            if name not in self._seconds:
                continue
            inside = SEGMENTS[begun:place]
            work = sum(map(self._anatomy.macs, inside))
            spent = max(0.0, self._seconds[name] - done)
            for each in inside:
                found[each] = spent * self._anatomy.macs(each) / work if work else 0.0
            begun, done = place, max(done, self._seconds[name])
        return found
