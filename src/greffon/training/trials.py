"""Trainings that share a backbone: one pass of the trunk for all cuts, one compiled step for those that are alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.blocks import kept_channels
from greffon.backbone.clone import Copier
from greffon.backbone.freeze import freeze
from greffon.backbone.head import grow
from greffon.backbone.parts import split_parts
from greffon.errors import InputError
from greffon.frozen.activations import Activations
from greffon.frozen.cut import Cut, find_cut
from greffon.frozen.even import at_even_positions
from greffon.frozen.graph import flatten
from greffon.frozen.keys import content_keys
from greffon.frozen.together import OnePass
from greffon.frozen.trunk import Trunk
from greffon.frozen.union import union
from greffon.say import say
from greffon.training.at_once import AtOnce, fits_at_once
from greffon.training.feed import RowFeed
from greffon.training.given import PictureGuard
from greffon.training.progress import Reporter
from greffon.training.stage_tail import compile_stage
from greffon.training.tail import Tail
from greffon.training.watch import StageWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from greffon.frozen.store import ActivationStore
    from greffon.recipe import Head, Stage

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trial:
    """One training of several.

    Attributes:
        stage: what trains, how long, at which learning rate.
        head: what is grafted on for it; None: the model's own head.

    Example:
        >>> import greffon
        >>> trial = greffon.Trial(greffon.Stage(name="wide", epochs=5), greffon.Head(hidden=256))
        >>> trial.stage.name, trial.head.hidden
        ('wide', 256)
    """

    stage: Stage
    head: Head | None = None


@dataclass
class TrialResult:
    """What a trial came to.

    Attributes:
        trial: its options.
        history: one row per epoch: loss, accuracy, val_loss, val_accuracy.
        best: number of the epoch with the lowest validation loss; the weights are its, if the stage keeps the best.
        model: the plain Keras model of the trial's head; trials share it. `restore` gives it the trial's weights.
        at_once: how many models were trained in its step, itself counted.

    Example:
        >>> import greffon, numpy as np
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(32, 32, 3)), 2, preprocessing="none")
        >>> x, y = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)), np.eye(2)[[0, 1] * 4]
        >>> (result,) = greffon.fit_many(model, [greffon.Stage(epochs=2)], x, y, validation_data=(x, y), verbose=0)
        >>> len(result.history), result.restore().output_shape
        (2, (None, 2))
    """

    trial: Trial
    history: list[dict[str, Any]]
    best: int
    model: keras.Model = field(repr=False)
    at_once: int
    _weights: list[tuple[Any, Array]] = field(repr=False)

    @property
    def val_loss(self) -> float:
        """Validation loss of the best epoch."""
        return float(self.history[self.best - 1]["val_loss"]) if self.best else float("nan")

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy of the epoch whose weights were kept."""
        at = self.best - 1 if self.trial.stage.keep_best else -1
        return float(self.history[at]["val_accuracy"])

    def restore(self) -> keras.Model:
        """The model with this trial's weights; those of other trials on the same backbone are gone from it."""
        for variable, value in self._weights:
            variable.assign(value)
        return self.model


@dataclass(frozen=True)
class Data:
    """Pictures and targets of both sides, those to learn from first."""

    x: Array
    y: Array
    train: Array
    validation: Array

    @classmethod
    def of(cls, model: keras.Model, x: Any, y: Any, validation_data: Any) -> Data:
        """Of arrays that fit the model; refuses others."""
        if len(model.inputs) != 1:
            raise InputError(f"the model must have one input, pictures, got {len(model.inputs)}")
        if not isinstance(validation_data, tuple) or len(validation_data) != 2:
            raise InputError(f"validation_data must be (pictures, targets), got {type(validation_data).__name__}")
        sides = [(np.asarray(x), np.asarray(y, "float32")), tuple(map(np.asarray, validation_data))]
        for pictures, targets in sides:
            if targets.ndim != 2 or len(pictures) != len(targets) or not len(pictures):
                raise InputError(
                    "expected as many rows of targets (n, classes) as pictures, at least one, got "
                    f"{pictures.shape} and {targets.shape}"
                )
        if sides[0][0].shape[1:] != sides[1][0].shape[1:] or sides[0][1].shape[1:] != sides[1][1].shape[1:]:
            raise InputError(
                f"pictures and targets to validate on must have the shapes of the others, got "
                f"{[array.shape for side in sides for array in side]}"
            )
        for (pictures, _), what in zip(sides, ("pictures", "validation pictures"), strict=True):
            PictureGuard(model, lambda text: say(f"greffon: {text}"), what).look_at_all([pictures])
        both, targets = (np.concatenate(parts) for parts in zip(*sides, strict=True))
        at = len(sides[0][0])
        return cls(both, targets.astype("float32"), np.arange(at), np.arange(at, len(both)))


@dataclass
class _Plan:
    """A trial with its model, and where that is cut."""

    trial: Trial
    model: keras.Model
    cut: Cut
    source: Activations | None = None


class Trials:
    """Runs trials on one backbone.

    Args:
        model: whose backbone they share; left with the weights and flags of whatever came last.
        trials: with different names.
        data: pictures and targets.
        store: where activations are kept.
        dtype: what they are kept in.
        seed: the same for every trial.
        reporter: told what happens.
    """

    def __init__(
        self, model: Any, trials: list[Trial], data: Data, store: ActivationStore, dtype: str, seed: int,
        reporter: Reporter,
    ) -> None:  # fmt: skip
        self.model, self.trials, self.data, self.store = model, trials, data, store
        self.dtype, self.seed, self.reporter = dtype, seed, reporter

    def run(self) -> list[TrialResult]:
        """One result per trial, in order."""
        plans = self._plans()
        self._fill(plans)
        results: dict[str, TrialResult] = {}
        for alike in _grouped(plans):
            results.update((result.trial.stage.name, result) for result in self._train(alike))
        return [results[trial.stage.name] for trial in self.trials]

    # --- the trunk ---

    def _plans(self) -> list[_Plan]:
        models = self._models()
        graph, outputs = union([flatten(model) for model in models.values()])
        graph = at_even_positions(graph, moving=self._moving(models))
        parts = {head: graph.between(graph.inputs, tensors) for head, tensors in zip(models, outputs, strict=True)}
        self._graph = graph
        plans = []
        for trial in self.trials:
            model = models[trial.head]
            freeze(model, trial.stage.unfreeze, batch_norm=trial.stage.batch_norm)
            plans.append(_Plan(trial, model, find_cut(model, graph=parts[trial.head])))
        return plans

    def _models(self) -> dict[Head | None, keras.Model]:
        """One model for each head, on the layers of one backbone."""
        outputs: dict[Head | None, Any] = {}
        for head in dict.fromkeys(trial.head for trial in self.trials):
            if head is None:
                outputs[head] = self.model.outputs[0]
                continue
            keras.utils.set_random_seed(self.seed)
            copier = Copier(taken=set())
            outputs[head] = grow(self._features(), self.data.y.shape[1], head, copier)
            copier.fill()
        return {head: keras.Model(self.model.inputs[0], tensor) for head, tensor in outputs.items()}

    def _features(self) -> Any:
        """The feature map that a head is put on."""
        parts = split_parts(self.model)
        # Where all blocks are pooled, the head's first layer is on the first block.
        return parts.backbone[-1].output if kept_channels(self.model) else parts.head[0].input

    def _moving(self, models: dict[Head | None, keras.Model]) -> Any:
        """Normalisations that use batch statistics in one of the trials."""
        moving: set[int] = set()
        for trial in self.trials:
            model = models[trial.head]
            freeze(model, trial.stage.unfreeze, batch_norm=trial.stage.batch_norm)
            moving |= {id(layer) for layer in model.layers if layer.trainable}
        return lambda norm: id(norm) in moving

    def _fill(self, plans: list[_Plan]) -> None:
        """Activations behind every cut, in one pass over the pictures."""
        keys = content_keys([self.data.x], [self.model.inputs[0].dtype])
        behind: dict[tuple[int, ...], Activations] = {}
        for plan in plans:
            if plan.cut.trunk.outputs not in behind:
                label = f"{self.model.name}, {plan.cut.where}, {self.dtype}"
                shape = self.data.x.shape[1:]
                trunk = Trunk(plan.cut, [shape], store=self.store, dtype=self.dtype, label=label)
                behind[plan.cut.trunk.outputs] = Activations(trunk, keys, self._load)
            plan.source = behind[plan.cut.trunk.outputs]
        one_pass = OnePass(self._graph, list(behind.values()), self._load)
        with self.reporter.bar("frozen part", total=len(one_pass.missing())) as advance:
            one_pass.run(advance)

    def _load(self, rows: Array) -> list[Array]:
        return [self.data.x[rows]]

    # --- the tails ---

    def _train(self, alike: list[_Plan]) -> Iterable[TrialResult]:
        """Trials that differ in what a compiled step does not know: at once, or one after the other."""
        first = alike[0]
        stage = first.trial.stage
        freeze(first.model, stage.unfreeze, batch_norm=stage.batch_norm)
        activation = getattr(first.model.layers[-1], "activation", None)
        compile_stage(first.model, stage, several_labels=keras.activations.serialize(activation) == "sigmoid")
        tail = Tail(first.model, first.cut)
        if len(alike) > 1 and fits_at_once(tail):
            return self._at_once(tail, alike)
        return self._in_turn(tail, alike)

    def _at_once(self, tail: Tail, alike: list[_Plan]) -> Iterable[TrialResult]:
        keras.utils.set_random_seed(self.seed)
        job = AtOnce(tail, [plan.trial.stage for plan in alike])
        job.run(self._feed(alike[0], self.data.train, shuffle=True), self._feed(alike[0], self.data.validation))
        for plan, model in zip(alike, job.models, strict=True):
            weights = list(zip(tail.trainable_variables, model.weights, strict=True))
            self.reporter.note(f"{plan.trial.stage.name}: {_told(model.rows, model.best)}")
            yield TrialResult(plan.trial, model.rows, model.best, plan.model, len(alike), weights)

    def _in_turn(self, tail: Tail, alike: list[_Plan]) -> Iterable[TrialResult]:
        variables = [*tail.variables, *tail.optimizer.variables]
        start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
        for plan in alike:
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
            stage = plan.trial.stage
            tail.optimizer.learning_rate = stage.learning_rate
            watch = StageWatch(stage, Reporter(), list(tail.weights))
            keras.utils.set_random_seed(self.seed)
            tail.train_on(
                self._feed(plan, self.data.train, shuffle=True),
                validation_data=self._feed(plan, self.data.validation),
                callbacks=[watch], epochs=stage.epochs, verbose=0, steps=None,
            )  # fmt: skip
            if stage.keep_best:
                watch.restore_best()
            weights = [(weight, np.array(keras.ops.convert_to_numpy(weight))) for weight in tail.weights]
            self.reporter.note(f"{stage.name}: {_told(watch.rows, watch.best)}")
            yield TrialResult(plan.trial, watch.rows, watch.best, plan.model, 1, weights)
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)

    def _feed(self, plan: _Plan, rows: Array, *, shuffle: bool = False) -> RowFeed:
        size = plan.trial.stage.batch_size
        return RowFeed(plan.source, rows=rows, y=self.data.y[rows], batch_size=size, shuffle=shuffle)


def _grouped(plans: Sequence[_Plan]) -> list[list[_Plan]]:
    """Trials whose compiled steps are the same, deepest cuts last."""
    groups: dict[Any, list[_Plan]] = {}
    for plan in plans:
        stage = plan.trial.stage
        what = (plan.trial.head, stage.unfreeze, stage.batch_norm, stage.batch_size, stage.optimizer)
        groups.setdefault(what, []).append(plan)
    return list(groups.values())


def _told(rows: list[dict[str, Any]], best: int) -> str:
    at = rows[best - 1] if best else rows[-1]
    return f"{len(rows)} epochs, best {best}: validation loss {at['val_loss']:.4f}, accuracy {at['val_accuracy']:.3f}"
