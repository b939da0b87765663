"""Checkpoints of the stages: what is finished, and where the one that runs is, to the batch."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

from greffon.training import tail as tails
from greffon.training.checkpoint import CheckpointError, Parts
from greffon.training.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from greffon.frozen.cut import Cut
    from greffon.recipe import Stage
    from greffon.training.checkpoint import State
    from greffon.training.ordered import StageFeed
    from greffon.training.partial import Partial
    from greffon.training.tail import Tail

    Array = np.ndarray[Any, Any]


class Memory:
    """What the stages of a training have done so far.

    Args:
        model: its variables are known by their places.
        partial: where checkpoints go; None: nowhere.
        interrupts: tell when to stop.

    Attributes:
        finished: what each finished stage left, as it was given to `finish`.
        inside: the state of the stage that was interrupted, until it is taken.
        overwritten: id of a variable -> the value that it had before a checkpoint was put back.
    """

    def __init__(
        self, model: keras.Model, partial: Partial | None = None, interrupts: Interrupts | None = None
    ) -> None:
        self.model, self.partial = model, partial
        self.interrupts = interrupts or Interrupts()
        self.finished: list[State] = []
        self.inside: State | None = None
        self.overwritten: dict[int, Array] = {}
        self._moved: set[int] = set()  # by finished stages: places in `model.variables`
        self._before: State = {}  # what they are when a stage begins
        self._began, self._spent = time.perf_counter(), 0.0
        state = partial.load() if partial else None
        if state is not None:
            self._restore(state)

    def begin(self) -> None:
        """A stage begins: what the model is now is what a resumed one begins with."""
        self._before = self._values()

    def finish(self, state: State, cut: Cut) -> None:
        """A stage has ended: a checkpoint is written.

        Args:
            state: what it left, beside the variables of its tail.
            cut: where its tail begins.
        """
        self.finished.append(state)
        ours = {id(variable) for layer in cut.tail.layers for variable in layer.variables}
        self._moved |= {place for place, variable in enumerate(self.model.variables) if id(variable) in ours}
        if self.partial is not None:
            self.partial.save({"finished": self.finished, "model": self._values(), "inside": None})
        self.interrupts.stop_if_asked()

    def save(self, inside: State) -> None:
        """Write a checkpoint inside a stage."""
        if self.partial is not None:
            self.partial.save({"finished": self.finished, "model": self._before, "inside": inside})

    def take_inside(self) -> State | None:
        """The state of the stage that was interrupted; once."""
        inside, self.inside = self.inside, None
        return inside

    def where(self, stages: Sequence[Stage]) -> str:
        """Where a training that was interrupted goes on, as a sentence."""
        done = len(self.finished)
        if done >= len(stages):
            return "all stages had ended; what is left is to measure the run and to write it"
        stage, again = stages[done], "; what ran before is told again"
        if self.inside is None:
            return f"goes on at the beginning of stage {stage.name!r}{again if done else ''}"
        epoch, step = int(self.inside["epoch"]), int(self.inside["step"])
        behind = f", behind step {step}" if step else ""
        where = f"epoch {epoch + 1} of {stage.epochs}{behind}"
        return f"goes on in stage {stage.name!r}, {where}{again if done or epoch else ''}"

    def stage_begins(self) -> None:
        """From here on the time of a stage counts; on top of what an earlier process took for it."""
        self._began = time.perf_counter()
        self._spent = 0.0 if self.inside is None else float(self.inside.get("seconds", 0.0))

    @property
    def stage_seconds(self) -> float:
        """How long the stage that runs has taken so far."""
        return self._spent + time.perf_counter() - self._began

    def _values(self) -> State:
        variables = self.model.variables
        return {str(place): _value(variables[place]) for place in sorted(self._moved)}

    def _restore(self, state: State) -> None:
        variables = self.model.variables
        for place, value in state["model"].items():
            if int(place) >= len(variables):
                raise CheckpointError("the checkpoint is of another network: train again with --overwrite")
            variable = variables[int(place)]
            self.overwritten[id(variable)] = _value(variable)
            _assign([variable], [value])
            self._moved.add(int(place))
        self.finished, self.inside = list(state["finished"]), state["inside"]


class StageMemory(keras.callbacks.Callback):
    """Writes checkpoints while a stage trains, and puts one back; the last of its callbacks.

    Args:
        memory: of the training.
        tail: that trains.
        feed: what it trains on.
        others: the other callbacks: those that are `Stateful` are kept.
        rate: what was found out before the steps began, kept as it is.
    """

    def __init__(self, memory: Memory, tail: Tail, feed: StageFeed, others: Iterable[Any], rate: State) -> None:
        super().__init__()
        self._memory, self._tail, self._feed, self._rate = memory, tail, feed, rate
        self._parts = Parts()
        self._parts.add_stateful(others)
        self.epoch = self._step = self._skipped = 0
        self._epochs = 0
        self._metrics: Sequence[Array] = ()

    def restore(self, state: State) -> None:
        """Be where the checkpoint was written; call it before training."""
        _assign(self._variables, state["variables"])
        if state["generator"] is not None:
            global_seed_generator().state.assign(state["generator"])
        self._parts.restore(state["parts"])
        self.epoch, self._step, self._metrics = state["epoch"], state["step"], state["metrics"]

    @contextmanager
    def training(self, epochs: int) -> Iterator[None]:
        """Around the training loop."""
        self._epochs = epochs
        with self._memory.interrupts.waits():
            yield

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The feed goes to where the epoch begins; Keras has just set the metrics back."""
        self.epoch, self._skipped = epoch, self._step
        self._feed.at(epoch, skipped=self._step)
        if self._step:
            self._build_metrics()
            _assign(self._tail.metrics_variables, self._metrics)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a checkpoint when it is time; not behind the last epoch, where the stage's end writes one."""
        self._step = 0
        if not self.model.stop_training and epoch + 1 < self._epochs:
            self._save_if_due(epoch + 1)

    def _build_metrics(self) -> None:
        """Keras builds them in the first step, which is too late."""
        metrics = self._tail._compile_metrics
        if metrics is not None and not metrics.built:
            targets: Any = self._feed.targets
            shape = (1, targets.shape[1])
            metrics.build(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def _save_if_due(self, epoch: int) -> None:
        partial, interrupts = self._memory.partial, self._memory.interrupts
        if partial is not None and (partial.due or interrupts.asked):
            self._memory.save(self._state(epoch))
        interrupts.stop_if_asked()

    def _state(self, epoch: int) -> State:
        if keras.backend.backend() == "jax":
            self._tail.jax_state_sync()  # while it trains, Keras keeps the values beside the variables
        return {
            "epoch": epoch,
            "step": self._step,
            "variables": [_value(variable) for variable in self._variables],
            "metrics": [_value(variable) for variable in self._tail.metrics_variables] if self._step else [],
            "parts": self._parts.state(),
            "rate": self._rate,
            "generator": _shared_generator(),
            "seconds": self._memory.stage_seconds,
        }

    @property
    def _variables(self) -> list[Any]:
        variables = [*self._tail.variables, *self._tail.optimizer.variables]
        return list({id(variable): variable for variable in variables}.values())


class BatchMemory(StageMemory):
    """The same inside epochs; for stages whose epochs are more than one call."""

    _is_cut = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a checkpoint when it is time; not behind the last batch, where the epoch's end writes one."""
        self._step = self._skipped + batch + 1
        if self._step < int(self._feed.num_batches or 0):
            self._save_if_due(self.epoch)
        elif self._skipped:
            # Keras knows nothing of skipped batches. It would ask for more, and a step without a batch still counts:
            # for the optimizer, for seed generators.
            self.model.stop_training = self._is_cut = True

    def on_test_begin(self, logs: Any = None) -> None:
        """The validation of a shortened epoch: the training goes on behind it."""
        if self._is_cut:
            self.model.stop_training = self._is_cut = False


def stage_memory(
    memory: Memory, tail: Tail, cut: Cut, feed: StageFeed, others: Iterable[Any], rate: State
) -> StageMemory:  # fmt: skip
    """The one that suits: small activations are trained on in one call per epoch, which a look at batches would end."""
    most = tails._SMALL
    small = all(np.prod([side or most + 1 for side in shape]) <= most for shape in cut.shapes)
    kind = StageMemory if small and keras.backend.backend() == "tensorflow" else BatchMemory
    return kind(memory, tail, feed, others, rate)


def _shared_generator() -> Array | None:
    """The state of Keras' shared generator, which layers of somebody's draw from; None where nobody has."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else _value(generator.state)


def _value(variable: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(variable))


def _assign(variables: Sequence[Any], values: Sequence[Array]) -> None:
    if [tuple(variable.shape) for variable in variables] != [tuple(np.shape(value)) for value in values]:
        raise CheckpointError(
            "the checkpoint does not fit this training: another version of Greffon, Keras or TensorFlow wrote it. "
            "Train again with --overwrite"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
