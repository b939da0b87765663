"""Seconds of training and validation steps of real tails, for a plan."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from greffon.frozen.hardware import has_accelerator
from greffon.training.estimate import SEGMENTS, XLA_PAYS, XLA_TRIED, SegmentTimes
from greffon.training.feed import RowFeed
from greffon.training.segments import MadeUp, segments_from
from greffon.training.stage_tail import StageTail, can_fill_up, compile_stage

if TYPE_CHECKING:
    from greffon.frozen.cut import Cut
    from greffon.recipe import Recipe, Stage
    from greffon.training.clock import Clock
    from greffon.training.segments import Anatomy

# Seconds of a training and of a validation step over the engine's, for the same layers, where nothing was measured.
_USUAL = (4.0, 1.5)
# Seconds that XLA takes to compile a tail over those of TensorFlow's graph.
_XLA_COMPILES = 2.7


class _StepTimes(NamedTuple):
    """Of one tail: seconds of training and of validation for one picture, and of compiling; and how much slower."""

    train: float
    validation: float
    compile: float
    slowness: float = 1.0

    def beyond(self, other: _StepTimes) -> _StepTimes:
        """What it takes more than another."""
        return _StepTimes(
            max(0.0, self.train - other.train),
            max(0.0, self.validation - other.validation),
            max(0.0, self.compile - other.compile),
            self.slowness,
        )

    def at_least(self, other: _StepTimes) -> _StepTimes:
        """The larger of each; how much slower is of this tail, the deeper one."""
        return _StepTimes(
            max(self.train, other.train),
            max(self.validation, other.validation),
            max(self.compile, other.compile),
            self.slowness,
        )


class Steps:
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
                found[name] = SegmentTimes(
                    trunk[name], adds.train, adds.validation, adds.compile, slowness=adds.slowness
                )
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
        return SegmentTimes(
            trunk[name], train * trunk[name], validation * trunk[name], compiling, measured=False,
            slowness=behind.slowness,
        )  # fmt: skip

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
    return _StepTimes(train_seconds / train, held_out_seconds / held_out, compiling, watch.slowness())


class _EpochTimes(keras.callbacks.Callback):
    """Seconds of training and of validation in each epoch; ends after the second when time is up."""

    MOST = 4

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.times: list[tuple[float, float]] = []
        self.processor: list[float] = []
        self._marks = [0.0, 0.0, 0.0]

    def slowness(self) -> float:
        """How many times the middle of the epochs one may take: the slowest seen, or all its threads in a row.

        Where another process holds a processor, the threads that compute a step wait for one another on what is left;
        an epoch then takes its processor time, whatever the number of processors.
        """
        epochs = [sum(times) for times in self.times[1:]]
        slowest = max(epochs) if has_accelerator() else max(*epochs, *self.processor[1:])
        return max(1.0, slowest / max(1e-9, statistics.median(epochs)))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._marks[0], self._marks[2] = time.perf_counter(), time.process_time()

    def on_test_begin(self, logs: Any = None) -> None:
        self._marks[1] = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        began, tested, processor = self._marks
        now = time.perf_counter()
        self.times.append((tested - began, now - tested))
        self.processor.append(time.process_time() - processor)
        steady = [sum(times) for times in self.times[1:]]
        if steady and (sum(steady) + steady[-1] > 0.1 * self._clock.limit or not self._clock.allows(steady[-1])):
            self.model.stop_training = True
