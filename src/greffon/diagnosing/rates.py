"""Learning rate too high or too low: the run's stages once more at a tenth and at ten times of it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.diagnosing.compare import Change, compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.errors import GreffonError, InputError
from greffon.frozen.cost import macs
from greffon.training.samples import samples_of
from greffon.training.solved import picture_losses
from greffon.training.solver import Solver

if TYPE_CHECKING:
    import keras

    from greffon.diagnosing.subject import Subject
    from greffon.recipe import Recipe, Stage

    Array = np.ndarray[Any, Any]

CAUSE = "learning rate"
_HIGHEST, _LOWEST = 3.0, 1e-8
_MOST_STEPS = 4  # powers of ten that a rate is moved by, as long as it helps
_BLIND = {10.0: 0, 0.1: 1}  # steps in a direction that need not help: a tenth of far too much is still too much
_WORK = 4e11  # multiply-accumulates that one try may take: some ten seconds on two cores
_FEWEST_EPOCHS = 2
_STILL = 0.02  # share by which the training loss has to fall over a stage, or it stood still
_FAR = 10.0  # times the loss of chance
_DIVERGED = 1.5  # last training loss over the first one


def try_rates(subject: Subject) -> Finding:
    """Whether the stages that were trained by steps do better at another learning rate."""
    recipe = subject.recipe()
    stages = [stage for stage in recipe.stages if not recipe.solves(stage)]
    if not stages:
        return Finding(CAUSE, "not found", "the head was solved, and nothing was trained by steps.")
    if not subject.labels_tell:
        return not_tested(CAUSE, "the labels tell nothing")
    history = {stage.name: _symptom(subject, stage) for stage in stages}
    signs = [f"stage {name!r}: {sign}" for name, sign in history.items() if sign]
    told = f" History: {'; '.join(signs)}." if signs else " History: the losses fell."
    details: dict[str, Any] = {"history": history, "tried": {}}
    try:
        experiment = _Experiment(subject, recipe)
        same = experiment.run(1.0)
        best: tuple[float, Change] | None = None
        for direction in (10.0, 0.1):
            if best is not None and best[1].helps:
                break
            factor, before = direction, same
            for step in range(_MOST_STEPS):
                if not experiment.allows(factor):
                    break
                answers = experiment.run(factor)
                if answers is None:
                    break
                change = experiment.change(same, answers)
                details["tried"][f"{factor:g}"] = change.to_dict()
                if best is None or change.gain > best[1].gain:
                    best = factor, change
                if before is not None and not experiment.is_better(before, answers) and step >= _BLIND[direction]:
                    break
                factor, before = factor * direction, answers
    except GreffonError as error:
        return not_tested(CAUSE, f"the stages cannot be run again: {error}{told}")
    if best is None:
        return not_tested(CAUSE, f"at no other learning rate the loss stays a number.{told}")
    return _judged(best, recipe, experiment, told, details)


def _judged(
    best: tuple[float, Change], recipe: Recipe, experiment: _Experiment, told: str, details: dict[str, Any]
) -> Finding:
    factor, change = best
    rates = ", ".join(f"{experiment.rate(stage):g}" for stage in recipe.stages if not recipe.solves(stage))
    said = (
        f"the stages again at {factor:g} times the learning rate ({rates}){experiment.shortened}: {change.without:.3f} "
        f"of the held-out pictures are right, {change.now:.3f} in the run.{told}"
    )
    if not change.helps:
        return Finding(CAUSE, "not found", said, change, details=details)
    what, much = ("too low", "higher") if factor > 1 else ("too high", "lower")
    details["too"] = what
    advice = f"It is {what}: take one {factor if factor > 1 else 1 / factor:g} times {much}, or --learning-rate auto."
    return Finding(CAUSE, "found", said, change, advice, details=details)


class _Experiment:
    """The run's training on the pictures that are looked at, from its start."""

    def __init__(self, subject: Subject, recipe: Recipe) -> None:
        self._subject, self._recipe = subject, recipe
        stages = subject.bundle.record.get("stages")
        found = [one if isinstance(one, dict) else {} for one in stages] if isinstance(stages, list) else []
        self._chosen = {str(one.get("name")): one.get("chosen_learning_rate") for one in found}
        # The head before the first step is the same in every try. On channels that were chosen by the pictures to learn
        # from, its penalty is that of the run: a search on these would find another one.
        penalties = [one["penalty"].get("C") for one in found if isinstance(one.get("penalty"), dict)]
        known = next((penalty for penalty in penalties if isinstance(penalty, float)), None)
        self._solver = Solver(strength=known if recipe.head.channels else None)
        prepare = subject.bundle.preprocessing
        self._samples = samples_of(
            subject.catalog, prepare.size, prepare.resize, views=recipe.views, augment=recipe.augment
        )
        self._targets = subject.targets[subject.val]
        self._most = self._epochs()
        self.shortened = "" if self._most is None else f", {self._most} epochs"

    @cached_property
    def _model(self) -> tuple[keras.Model, list[Array]]:
        """The model that the training started from, and its weights then."""
        import keras

        from greffon.training.adapt_norms import adapt_norms
        from greffon.training.start import build_backbone, find_start, graft_head

        recipe = self._recipe
        keras.utils.set_random_seed(recipe.seed)
        start = find_start(recipe.weights)
        backbone, record, _ = build_backbone(start, recipe)
        model, _ = graft_head(backbone, record, start, recipe.head, self._subject.class_names)
        if recipe.norm_statistics == "adapted":
            adapt_norms(model, self._samples, seed=recipe.seed)
        return model, model.get_weights()

    def rate(self, stage: Stage) -> float:
        """The learning rate of a stage in the run."""
        chosen = self._chosen.get(stage.name)
        if isinstance(stage.learning_rate, float):
            return stage.learning_rate
        return float(chosen) if isinstance(chosen, int | float) else 1e-4

    def allows(self, factor: float) -> bool:
        """Whether a learning rate that is so much higher still is one."""
        rates = [self.rate(stage) * factor for stage in self._recipe.stages if not self._recipe.solves(stage)]
        return all(_LOWEST <= rate <= _HIGHEST for rate in rates)

    def run(self, factor: float) -> Array | None:
        """float32 (held out, classes): answers after a training at so many times the rate; None where it broke down."""
        import keras

        from greffon.training.progress import Reporter
        from greffon.training.stages import Stages

        recipe = self._recipe.replace(stages=tuple(self._stage(stage, factor) for stage in self._recipe.stages))
        model, weights = self._model
        keras.utils.set_random_seed(recipe.seed)
        model.set_weights(weights)
        with self._subject.progress.bar(f"learning rate x {factor:g}", total=None):
            try:
                stages = Stages(
                    model, recipe, self._samples, self._subject.store, Reporter(), notes=[], solver=self._solver
                )
                return np.asarray(stages.run()[1])
            except InputError as error:
                if "not a number" in str(error):
                    return None
                raise

    def change(self, same: Array | None, answers: Array) -> Change:
        """What it gains over the run, or over the same training at the run's own rate where that gains more.

        A run that is bad for another reason is beaten by any training: that is not the learning rate's doing.
        """
        subject = self._subject
        right = subject.rightness(answers, self._targets)
        losses = (self._losses(subject.network.answers[subject.val]), self._losses(answers))
        found = compared(subject.right, right, losses=losses)
        if same is None:
            return found
        other = compared(subject.rightness(same, self._targets), right, losses=(self._losses(same), losses[1]))
        return min(found, other, key=lambda it: it.gain)

    def is_better(self, before: Array, after: Array) -> bool:
        """Whether the loss went down, so that another step in this direction is worth a try."""
        change = self._losses(before) - self._losses(after)
        return bool(change.mean() > 0 and (change.mean() > 2 * change.std() / np.sqrt(len(change))))

    def _losses(self, answers: Array) -> Array:
        return picture_losses(answers, self._targets, several_labels=self._subject.several)

    def _stage(self, stage: Stage, factor: float) -> Stage:
        if self._recipe.solves(stage):
            return stage
        epochs = stage.epochs if self._most is None else min(self._most, stage.epochs)
        return stage.replace(learning_rate=self.rate(stage) * factor, epochs=epochs)

    def _epochs(self) -> int | None:
        """The epochs that a try may have; None: all of them."""
        subject = self._subject
        trained = [stage for stage in self._recipe.stages if not self._recipe.solves(stage)]
        work = 3 * macs(subject.network.cut.tail) * len(subject.train) * max(stage.epochs for stage in trained)
        if work <= _WORK:
            return None
        return max(_FEWEST_EPOCHS, int(max(stage.epochs for stage in trained) * _WORK / work))


def _symptom(subject: Subject, stage: Stage) -> str:
    """What the history says of a stage; "" where nothing is odd."""
    history = subject.bundle.history
    if any("not a number" in note and repr(stage.name) in note for note in subject.bundle.notes):
        return "the loss became not a number"
    if "loss" not in history.columns:
        return ""
    losses = np.array(history.filter(history["stage"] == stage.name)["loss"].to_list(), float)
    return _sign(losses[np.isfinite(losses)], float(np.log(max(2, len(subject.class_names)))))


def _sign(losses: Array, chance: float) -> str:
    """What the training losses of a stage say, beside the loss of chance."""
    if len(losses) < 2:
        return ""
    if losses.max() > _FAR * chance:
        return f"the training loss was as high as {losses.max():.3g}, where chance has {chance:.3g}"
    if losses[-1] > _DIVERGED * losses[0]:
        return f"the training loss rose from {losses[0]:.3g} to {losses[-1]:.3g}"
    if losses[-1] > (1 - _STILL) * losses[0]:
        return f"the training loss stood still ({losses[0]:.3g} to {losses[-1]:.3g})"
    return ""
