"""Seconds of the parts of a training, measured on this machine and the user's own pictures until time is up."""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import psutil

from greffon.backbone.proof import fingerprint
from greffon.errors import DataError, InputError
from greffon.frozen.build import build_engine
from greffon.frozen.hardware import has_accelerator
from greffon.frozen.store import ActivationStore
from greffon.pictures.decode import decode_many, usual_workers
from greffon.pictures.scan import read_picture
from greffon.training.estimate import SEGMENTS, XLA_PAYS, XLA_TRIED, Int8Times, Measured, SegmentTimes
from greffon.training.feed import RowFeed
from greffon.training.segments import MadeUp, segments_from
from greffon.training.stage_tail import StageTail, can_fill_up, compile_stage
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.frozen.cut import Cut
    from greffon.recipe import Recipe, ResizeRule, Stage
    from greffon.training.segments import Anatomy

    Array = np.ndarray[Any, Any]

# Pictures that are decoded and go through the engines: enough for full speed, few enough for a slow machine.
SAMPLE = 32
# A measurement is not begun that would end later than this share of the time that was allowed.
_LATEST = 1.3
# Seconds of a training and of a validation step over the engine's, for the same layers, where nothing was measured.
_USUAL = (4.0, 1.5)
# Seconds that XLA takes to compile a tail over those of TensorFlow's graph.
_XLA_COMPILES = 2.7


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


def measure(
    anatomy: Anatomy, recipe: Recipe, files: Sequence[Path], *, rule: ResizeRule, pictures: tuple[int, int],
    seconds: float, start: float,
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

    Raises:
        DataError: none of the pictures can be read.
    """
    clock = Clock(seconds)
    memory = psutil.Process().memory_info().rss
    decode, scan, x = _pictures(files, recipe.image_size, rule, clock)
    engines = _Engines(anatomy, recipe.stages[-1], x, clock)
    engines.measure("head")
    steps = _Steps(anatomy, recipe, pictures, clock)
    steps.measure("head")
    steps.measure("last-block")
    write, read = _store_speeds()
    end = _end(anatomy.model)
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


def _end(model: keras.Model) -> float:
    """Seconds of what comes behind the epochs: the proof of freezing, and writing the model."""
    start = time.perf_counter()
    fingerprint(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
    return time.perf_counter() - start


# --- the trunk ------------------------------------------------------------------------------------------------------


class _Engines:
    """Seconds per picture of the engine up to one cut after another."""

    def __init__(self, anatomy: Anatomy, stage: Stage, x: Array, clock: Clock) -> None:
        self._anatomy, self._stage, self._x, self._clock = anatomy, stage, x, clock
        self._seconds: dict[str, float] = {}
        self.build = 0.0

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
            engine.run([self._x[:1]])
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


# --- the tail -------------------------------------------------------------------------------------------------------


class _StepTimes(NamedTuple):
    """Of one tail: seconds of training and of validation for one picture, and of compiling."""

    train: float
    validation: float
    compile: float

    def beyond(self, other: _StepTimes) -> _StepTimes:
        """What it takes more than another."""
        return _StepTimes(*(max(0.0, mine - theirs) for mine, theirs in zip(self, other, strict=True)))

    def at_least(self, other: _StepTimes) -> _StepTimes:
        """The larger of each."""
        return _StepTimes(*map(max, self, other))


class _Steps:
    """Seconds of training and validation steps of real tails, each beginning with another segment."""

    def __init__(self, anatomy: Anatomy, recipe: Recipe, pictures: tuple[int, int], clock: Clock) -> None:
        self._anatomy, self._recipe, self._pictures, self._clock = anatomy, recipe, pictures, clock
        self._times: dict[str, _StepTimes] = {}
        self.xla: bool | None = None  # whether it pays; None: not tried

    def measure(self, segment: str) -> None:
        """A few epochs of a few steps; the head's always, others while there is time."""
        if self._times and not self._clock.allows(self._expected(segment)):
            return
        if segment != "head" and segments_from(segment)[1] not in self._times:
            return  # what is scaled must lie in front of what is measured
        anatomy = self._anatomy
        stage = self._recipe.stages[-1].replace(unfreeze=anatomy.rule(segment))
        cut = anatomy.cut(stage)
        cut = cut if cut.gains else cut.without_trunk()
        times = self._timed(segment, cut, stage, xla=bool(self.xla))
        if self.xla is None and self._is_tried(segment, stage, times):
            compiled = self._timed(segment, cut, stage, xla=True)
            self.xla = compiled.train < XLA_PAYS * times.train
            times = compiled if self.xla else times
        self._times[segment] = times

    def _is_tried(self, segment: str, stage: Stage, times: _StepTimes) -> bool:
        """Whether a stage like this is long enough for a training to try XLA, and there is time to do so now.

        XLA takes a few times as long to compile; where there is no time to try it, it is taken not to pay.
        """
        needed = _XLA_COMPILES * times.compile + 3 * self._rows(segment)[0] * (times.train + times.validation)
        return times.train * self._pictures[0] * stage.epochs >= XLA_TRIED and self._clock.allows(needed)

    def _timed(self, segment: str, cut: Cut, stage: Stage, *, xla: bool) -> _StepTimes:
        batch, (train, held_out) = self._rows(segment)
        source = MadeUp(cut, self._recipe.activations, train + held_out)
        compile_stage(self._anatomy.model, stage, several_labels=self._recipe.head.output == "sigmoid")
        return _timed_fit(self._anatomy.model, cut, source, (batch, train, held_out), self._clock, xla=xla)

    def by_segment(self, trunk: dict[str, float]) -> dict[str, SegmentTimes]:
        """What each segment adds; those in front of the last one measured by their work, at the rate of conv5."""
        found: dict[str, SegmentTimes] = {}
        before = _StepTimes(0.0, 0.0, 0.0)
        for name in reversed(SEGMENTS):
            if name in self._times:
                adds, before = self._times[name].beyond(before), self._times[name].at_least(before)
                found[name] = SegmentTimes(trunk[name], adds.train, adds.validation, adds.compile)
            else:
                found[name] = self._scaled(name, trunk, found)
        return {name: found[name] for name in SEGMENTS}

    def _scaled(self, name: str, trunk: dict[str, float], found: dict[str, SegmentTimes]) -> SegmentTimes:
        """From the segment behind: steps take as many times the engine's seconds as they do there."""
        behind = found[segments_from(name)[1]]
        known = behind.trunk > 0.0 and segments_from(name)[1] != "head"
        train, validation = (behind.train / behind.trunk, behind.validation / behind.trunk) if known else _USUAL
        layers = self._anatomy.layers[name] / max(1, self._anatomy.layers[segments_from(name)[1]])
        compiling = behind.compile * layers
        return SegmentTimes(trunk[name], train * trunk[name], validation * trunk[name], compiling, measured=False)

    def _expected(self, segment: str) -> float:
        """Seconds that measuring a segment will take: compiling, and three steps."""
        known = segments_from(segment)[1]
        if known not in self._times or known == "head":
            return 0.0
        times = self._times[known]
        work = sum(map(self._anatomy.macs, segments_from(segment))) / sum(map(self._anatomy.macs, segments_from(known)))
        layers = self._anatomy.layers[segment] / max(1, self._anatomy.layers[known])
        return times.compile * (1.0 + layers) + 2.5 * self._rows(segment)[0] * (times.train + times.validation) * work

    def _rows(self, segment: str) -> tuple[int, tuple[int, int]]:
        """Pictures of a step; and of an epoch, to learn from and held out."""
        train, held_out = self._pictures
        batch = min(self._recipe.stages[-1].batch_size, train)
        if segment == "head":  # so little work that what an epoch costs beside its steps must be seen
            return batch, (min(train, 4096), min(held_out, 1024))
        return batch, (2 * batch if segment == "last-block" else batch, batch)


def _timed_fit(
    model: keras.Model, cut: Cut, source: MadeUp, rows: tuple[int, int, int], clock: Clock, *, xla: bool
) -> _StepTimes:
    """A few epochs of a tail, as a stage would run them."""
    batch, train, held_out = rows
    classes = int(model.output_shape[-1])
    targets = np.eye(classes, dtype=np.float32)[np.arange(train + held_out) % classes]
    numbers = np.arange(train + held_out)
    watch = _EpochTimes(clock)
    start = time.perf_counter()
    tail = StageTail(model, cut, jit_compile=xla)
    built = time.perf_counter() - start
    fill_up = xla and can_fill_up(cut.tail)
    feeds = [
        RowFeed(source, rows=numbers[part], y=targets[part], batch_size=batch, shuffle=shuffle, fill_up=fill_up)
        for part, shuffle in ((slice(None, train), True), (slice(train, None), False))
    ]
    tail.train_on(
        feeds[0], validation_data=feeds[1], callbacks=[watch], epochs=_EpochTimes.MOST, verbose=0, steps=None
    )  # fmt: skip
    first, *steady = watch.times
    train_seconds = statistics.median(times[0] for times in steady)
    held_out_seconds = statistics.median(times[1] for times in steady)
    compiling = max(0.0, sum(first) - train_seconds - held_out_seconds) + built
    return _StepTimes(train_seconds / train, held_out_seconds / held_out, compiling)


class _EpochTimes(keras.callbacks.Callback):
    """Seconds of training and of validation in each epoch; ends after the second when time is up."""

    MOST = 4

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.times: list[tuple[float, float]] = []
        self._marks = [0.0, 0.0]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._marks[0] = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        self._marks[1] = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        began, tested = self._marks
        now = time.perf_counter()
        self.times.append((tested - began, now - tested))
        steady = [sum(times) for times in self.times[1:]]
        if steady and (sum(steady) + steady[-1] > 0.1 * self._clock.limit or not self._clock.allows(steady[-1])):
            self.model.stop_training = True
