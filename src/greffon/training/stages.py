"""The stages of a training, run one by one on activations that one pass of the trunk gave for all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np

from greffon.backbone.freeze import freeze
from greffon.backbone.proof import FreezeProof, examine, fingerprint
from greffon.errors import CheckFailedError, InputError
from greffon.frozen.activations import Activations
from greffon.frozen.cost import macs
from greffon.frozen.feature_augment import FeatureAugment, augments_features, is_pooled
from greffon.frozen.trunk import DoesNotFitFloat16
from greffon.training.balance import balanced_rows, balanced_weights
from greffon.training.choices import Choices
from greffon.training.int8 import Agreement, Compared, probabilities
from greffon.training.mixed import is_wanted, mixed_precision
from greffon.training.optimizers import constant_rate, pretrained_values
from greffon.training.ordered import StageFeed
from greffon.training.planned import Planned, TrunkWork
from greffon.training.practice import callbacks_of, finish, mixing_of, notes_on
from greffon.training.rate import find_rate
from greffon.training.solved import improvement, picture_losses, solve_head, sure_enough
from greffon.training.solver import Solver
from greffon.training.stage_memory import Memory, stage_memory
from greffon.training.stage_tail import StageTail, can_fill_up, compile_stage, xla_pays
from greffon.training.watch import StageWatch, tell_again

if TYPE_CHECKING:
    from greffon.backbone.table import FreezeTable
    from greffon.frozen.cut import Cut
    from greffon.frozen.store import ActivationStore
    from greffon.recipe import Recipe, Stage
    from greffon.training.checkpoint import State
    from greffon.training.planned import StagePlan
    from greffon.training.progress import Reporter
    from greffon.training.samples import Samples

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        stage: its options.
        table: what trained.
        cut: where the trunk ended; empty where the pictures themselves were fed.
        history: one row per epoch.
        best: number of the best epoch.
        proof: that the frozen part stood still.
        seconds: of training, without the trunk.
        trunk_macs: multiply-accumulates of the frozen part for one picture.
        xla: whether XLA compiled its steps.
        more: what else was found: the penalty, the learning rate, whether the stage was kept.
    """

    stage: Stage
    table: FreezeTable
    cut: str
    history: list[dict[str, Any]]
    best: int
    proof: FreezeProof
    seconds: float
    trunk_macs: int
    xla: bool
    more: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "name": self.stage.name,
            "trains": self.table.describe(),
            "cut": self.cut,
            "epochs": len(self.history),
            "best_epoch": self.best,
            "proof": self.proof.to_dict(),
            "seconds": round(self.seconds, 2),
            "xla": self.xla,
            **self.more,
        }


@dataclass(frozen=True)
class _Trained:
    """What solving or training gave: rows of history, the best epoch, the proof where it was taken already."""

    rows: list[dict[str, Any]]
    best: int
    proof: FreezeProof | None = None
    xla: bool = False
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stages:
    """Runs the stages of a recipe on one model.

    Attributes:
        model: grafted.
        recipe: its head's output, stages, seed, precision and dtype of activations are read.
        samples: the pictures.
        store: where activations are kept; None: nowhere.
        reporter: told what happens.
        notes: what the user should know afterwards.
        agreement: of int8 with fp32, where int8 was asked for and the stages have run.
        out_of_fold: where the model is a solved head, the probabilities of its training pictures by heads that have not
            seen them, and their targets; see `calibrate`.
        earlier: a pass that brought these pictures' activations into the store, before they were split.
        choices: what was or will be chosen by timing.
        end: where the last stage was cut, and what passes there, by row; once the stages have run.
        memory: what an interrupted training had done, and where checkpoints go; None: they are not written.
        solver: has solved heads on these features before, perhaps.
    """

    model: keras.Model
    recipe: Recipe
    samples: Samples
    store: ActivationStore | None
    reporter: Reporter
    notes: list[str] = field(default_factory=list)
    agreement: Agreement | None = None
    earlier: Planned | None = None
    choices: Choices = field(default_factory=Choices)
    memory: Memory | None = None
    solver: Solver = field(default_factory=Solver)
    out_of_fold: tuple[Array, Array] | None = field(default=None, init=False)
    end: tuple[Cut, Any] | None = field(default=None, init=False)
    _planned: Planned = field(init=False, repr=False)
    _memory: Memory = field(init=False, repr=False)
    _pretrained: dict[int, Array] = field(init=False, repr=False, default_factory=dict)
    _practice: list[Any] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._memory = self.memory or Memory(self.model)
        if any(stage.l2_sp for stage in self.recipe.stages):
            # Of the backbone alone, and as it was before a checkpoint was put back.
            now, before = pretrained_values(self.model), self._memory.overwritten
            self._pretrained = {key: before.get(key, value) for key, value in now.items()}
        self._planned = Planned(
            self.model, self.recipe, self.samples, self.store, self.reporter, self.notes, self.choices
        )
        if self.earlier:
            self._planned.goes_on_from(self.earlier)

    @property
    def work(self) -> TrunkWork:
        """What the frozen part cost."""
        return self._planned.work

    def run(self) -> tuple[list[StageResult], Array]:
        """Run every stage.

        Returns:
            What each stage did, and the class probabilities for the validation rows, float32 (rows, classes), from
            the model as it is saved: in fp32.

        Raises:
            InputError: a loss that is not a number before there was a best epoch.
            CheckFailedError: a frozen tensor moved, or one that the optimizer should have moved could not; or int8
                agrees with fp32 on fewer pictures than the recipe asks for.
        """
        plans = self._planned.plan()
        self._note_feature_augment(plans)
        plans = self._planned.filled(plans)
        results = []
        for index, plan in enumerate(plans):
            try:
                results.append(self._recalled(index, plan) or self._remembered(index, plan))
            except DoesNotFitFloat16:  # of a stage whose trunk an earlier one moved, or that nothing could hold
                raise InputError(
                    f"stage {plan.stage.name!r}: an activation is beyond the range of float16; train with "
                    "--activations float32"
                ) from None
            last = plan.source
            if index < len(plans) - 1:
                plan.source = None  # gives the memory back
        source = self._filled(plans[-1]) if last is None else last
        self.end = plans[-1].cut, source
        return results, self._answers(plans[-1], source)

    def _filled(self, plan: StagePlan) -> Any:
        """The source of a stage whose trunk an earlier stage moved, now that it stands still."""
        source = self._planned.source(plan.cut)
        if isinstance(source, Activations):
            self._planned.fill([source])
        return source

    # --- a stage in a training that may be interrupted ---

    def _remembered(self, index: int, plan: StagePlan) -> StageResult:
        """Run a stage, and keep what it did."""
        before = len(self.notes)
        self._memory.begin()
        result = self._run_stage(index, plan)
        state = {
            "rows": result.history,
            "best": result.best,
            "proof": result.proof.to_dict(),
            "seconds": result.seconds,
            "xla": result.xla,
            "more": result.more,
            "notes": self.notes[before:],
            "out_of_fold": None if self.out_of_fold is None else list(self.out_of_fold),
        }
        self._memory.finish(state, plan.cut)
        return result

    def _recalled(self, index: int, plan: StagePlan) -> StageResult | None:
        """What a stage did that ran before the training was interrupted; its weights are in the model already."""
        if index >= len(self._memory.finished):
            return None
        state, stage = self._memory.finished[index], plan.stage
        table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
        self.reporter.stage(stage.name, index + 1, len(self.recipe.stages), table.compact())
        tell_again(state["rows"], stage, self.reporter)
        for note in state["notes"]:
            self._note(note)
        held_out = state["out_of_fold"]
        self.out_of_fold = None if held_out is None else (held_out[0], held_out[1])
        proof = {name: value for name, value in state["proof"].items() if name != "holds"}
        proof["changed"] = tuple(proof["changed"])
        where = plan.cut.where if plan.cut.trunk.nodes else ""
        return StageResult(
            stage, table, where, state["rows"], state["best"], FreezeProof(**proof), state["seconds"],
            macs(plan.cut.trunk), state["xla"], state["more"],
        )  # fmt: skip

    # --- a stage ---

    def _run_stage(self, index: int, plan: StagePlan) -> StageResult:
        stage = plan.stage
        table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
        if plan.source is None:
            plan.source = self._filled(plan)
        self.reporter.stage(stage.name, index + 1, len(self.recipe.stages), table.compact())
        compile_stage(
            self.model, stage, several_labels=self._several, steps=self._steps(stage), pretrained=self._pretrained
        )
        for note in notes_on(stage, plan.cut.shapes):
            self._note(note)
        seed = self.recipe.seed + index
        if stage.optimizer == "lbfgs" and not self.recipe.solves(stage):
            self.reporter.note(f"{stage.name}: the head is not linear, so it is trained with adam and not solved")
        before = fingerprint(self.model)
        start = time.perf_counter()
        trained = self._solve(plan, seed) if self.recipe.solves(stage) else self._fine_tune(index, plan, seed)
        seconds = time.perf_counter() - start
        proof = examine(self.model, before) if trained.proof is None else trained.proof
        if not proof.holds:
            raise CheckFailedError(f"stage {stage.name!r}: the proof of freezing failed: {proof}")
        self.reporter.note(f"{stage.name}: {proof}")
        where = plan.cut.where if plan.cut.trunk.nodes else ""
        trunk_macs = macs(plan.cut.trunk)
        return StageResult(
            stage, table, where, trained.rows, trained.best, proof, seconds, trunk_macs, trained.xla, trained.more
        )

    @property
    def _several(self) -> bool:
        return self.recipe.head.output == "sigmoid"

    def _solve(self, plan: StagePlan, seed: int) -> _Trained:
        """Solve the head; one row of history stands for it."""
        shown, _ = self._balanced()
        source = cast("Activations", plan.source)
        probe, values = solve_head(self.model, source, self.samples, shown, self.recipe, seed=seed, solver=self.solver)
        if probe.held_out is not None:
            views = self.samples.views.shape[1]
            self.out_of_fold = probe.held_out[::views], self.samples.targets[self.samples.train[shown]]
        row = {"stage": plan.stage.name, "epoch": 1, "learning_rate": None, **values}
        self.reporter.epoch(plan.stage.name, 1, 1, values, True)
        return _Trained([row], 1, more={"penalty": {"C": probe.strength, "held_out_loss": _number(probe.log_loss)}})

    def _fine_tune(self, index: int, plan: StagePlan, seed: int) -> _Trained:
        """Train by steps; take it back where it does not help and the stage asks for that."""
        stage, before = plan.stage, fingerprint(self.model)
        judged = stage.only_if_better and index > 0
        losses = self._validation_losses(plan) if judged or stage.carry_best else None
        with mixed_precision(plan.cut.tail, wanted=is_wanted(self.recipe.mixed_precision)):
            tail, watch, more = self._train(plan, seed, losses)
        self._check_finite(watch)
        # Before the best weights come back: those of the first epoch could be the ones that it began with.
        proof = examine(self.model, before)
        if stage.keep_best:
            watch.restore_best()
        more |= finish(self._practice, lambda: float(self._validation_losses(plan).mean()))
        if judged and losses is not None:
            more |= self._judge(plan, losses, watch, seed)
        if more.get("kept", True):
            self.out_of_fold = None
        return _Trained(watch.rows, watch.best, proof, bool(tail.jit_compile), more)

    def _validation_losses(self, plan: StagePlan) -> Array:
        rows = self.samples.validation
        answers = probabilities(plan.cut, [plan.source], rows)[0]
        return picture_losses(answers, self.samples.targets[rows], several_labels=self._several)

    def _judge(self, plan: StagePlan, before: Array, watch: StageWatch, seed: int) -> dict[str, Any]:
        """Keep what the stage did if it improves the validation loss surely enough; what to write down of it."""
        after = self._validation_losses(plan)
        share = improvement(before, after, seed=seed)
        needed = sure_enough(len(before))
        kept = share >= needed
        losses = f"{before.mean():.4f} to {after.mean():.4f}, better in {share:.0%} of resamples"
        if kept:
            self.reporter.note(f"{plan.stage.name}: kept; validation loss {losses}")
        else:
            watch.restore_first()
            self._note(
                f"stage {plan.stage.name!r} is taken back: validation loss {losses}, {needed:.0%} are asked for; "
                "the model is that of the stage before it"
            )
        return {"kept": kept, "better_in_resamples": round(share, 4)}

    def _train(self, plan: StagePlan, seed: int, losses: Array | None) -> tuple[StageTail, StageWatch, State]:
        """The tail that was trained, what watched it, and what was found out about the learning rate."""
        tail, feeds = self._tail_and_feeds(plan, seed)
        inside = self._memory.take_inside()
        found = self._found_rate(tail, plan, feeds, seed) if inside is None else dict(inside["rate"])
        keras.utils.set_random_seed(seed)
        watch = StageWatch(plan.stage, self.reporter, list(tail.weights))
        if plan.stage.carry_best and losses is not None:
            watch.carry(float(losses.mean()))
        self._practice = callbacks_of(plan.stage, list(tail.weights))
        feed, callbacks = feeds["train"](), [watch, *self._practice]
        keeps = stage_memory(self._memory, tail, plan.cut, feed, callbacks, found)
        if inside is not None:
            keeps.restore(inside)
        with keeps.training(plan.stage.epochs):
            tail.train_on(
                feed, validation_data=feeds["validation"](), callbacks=[*callbacks, keeps], epochs=plan.stage.epochs,
                initial_epoch=keeps.epoch, verbose=0, steps=None,
            )  # fmt: skip
        return tail, watch, found

    def _found_rate(self, tail: StageTail, plan: StagePlan, feeds: dict[str, Any], seed: int) -> State:
        """The learning rate that suits, where it is to be searched for; what to write down of it."""
        if not isinstance(plan.stage.learning_rate, str):
            return {}
        with constant_rate(tail.optimizer):
            found = find_rate(tail, plan.stage, feeds, seed=seed)
        self.reporter.note(f"{plan.stage.name}: {found}")
        return found.to_dict()

    def _tail_and_feeds(self, plan: StagePlan, seed: int) -> tuple[StageTail, dict[str, Any]]:
        """The tail, with XLA or without, and what makes the batches that suit it."""
        stage, samples = plan.stage, self.samples
        fills_up = can_fill_up(plan.cut.tail)
        shown, weights = self._balanced()

        def feed(rows: Array, *, xla: bool, shuffle: bool, weights: Array | None = None) -> StageFeed:
            first = rows.reshape(len(rows), -1)[:, 0]
            return StageFeed(
                plan.source, rows=rows, y=samples.targets[first], sample_weight=weights, batch_size=stage.batch_size,
                shuffle=shuffle, seed=seed, fill_up=xla and fills_up,
            )  # fmt: skip

        def tail(xla: bool) -> StageTail:
            return StageTail(
                self.model, plan.cut, jit_compile=xla, augment=self._feature_augment(plan.cut, seed),
                smoothing=stage.label_smoothing, mixing=mixing_of(stage, plan.cut.shapes, seed=seed),
            )  # fmt: skip

        train = partial(feed, samples.views[shown], weights=weights, shuffle=True)
        batches = -(-len(shown) // stage.batch_size)
        xla = self.choices.xla(
            stage.name, lambda: xla_pays(tail, lambda xla: train(xla=xla), steps=batches * stage.epochs)
        )
        feeds = {
            "train": partial(train, xla=xla),
            "validation": partial(feed, samples.validation, xla=xla, shuffle=False),
        }
        return tail(xla), feeds

    def _balanced(self) -> tuple[Array, Array | None]:
        """Which of the pictures to learn from an epoch shows, and how much each of those counts."""
        targets = self.samples.targets[self.samples.train]
        shown = np.arange(len(targets))
        if self.recipe.sampling == "balanced":
            shown = balanced_rows(targets, seed=self.recipe.seed)
        return shown, balanced_weights(targets[shown]) if self.recipe.class_weight == "balanced" else None

    def _steps(self, stage: Stage) -> int:
        """Batches of an epoch."""
        return -(-len(self._balanced()[0]) // stage.batch_size)

    def _feature_augment(self, cut: Cut, seed: int) -> FeatureAugment | None:
        recipe = self.recipe
        if not (augments_features(recipe) and is_pooled(cut.shapes)):
            return None
        return FeatureAugment(recipe.feature_noise, recipe.feature_brightness, seed)

    def _note_feature_augment(self, plans: list[StagePlan]) -> None:
        """Pooled activations are changed in the stages that have them."""
        others = [plan for plan in plans if not is_pooled(plan.cut.shapes)]
        if not augments_features(self.recipe) or not others:
            return
        names = ", ".join(repr(plan.stage.name) for plan in others)
        self._note(f"activations are changed at random where they are pooled, so not in stage {names}")

    def _check_finite(self, watch: StageWatch) -> None:
        if not watch.not_finite:
            return
        stage = watch.stage
        if not watch.best or not stage.keep_best:
            raise InputError(
                f"stage {stage.name!r}: the loss was not a number in epoch {watch.not_finite}, at learning rate "
                f"{stage.learning_rate}; give a lower --learning-rate"
            )
        self._note(
            f"stage {stage.name!r} stopped in epoch {watch.not_finite}, whose loss was not a number; the weights of "
            f"epoch {watch.best} are kept"
        )

    # --- at the end ---

    def _answers(self, plan: StagePlan, source: Any) -> Array:
        """Class probabilities of the validation rows in fp32; with int8, how far its answers are from them."""
        rows = self.samples.validation
        if self.work.precision == "fp32" or not isinstance(source, Activations):
            return probabilities(plan.cut, [source], rows)[0]
        exact = self._planned.source(plan.cut, precision="fp32")
        ours, answers = probabilities(plan.cut, (source, exact), rows)
        least = self.recipe.min_agreement
        train = Compared(plan.cut, source, exact, self.samples.train)
        self.agreement = Agreement.of(ours, answers, self.samples.targets[rows]).with_training(train, least)
        self.reporter.note(str(self.agreement))
        self.agreement.require(least)
        return answers

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.reporter.warn(text)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
