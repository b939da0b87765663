"""The stages of a training, run one by one on activations that one pass of the trunk gave for all of them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from greffon.backbone.freeze import freeze
from greffon.backbone.proof import examine, fingerprint
from greffon.errors import CheckFailedError, InputError
from greffon.frozen.activations import Activations
from greffon.frozen.feature_augment import augments_features, is_pooled
from greffon.frozen.trunk import DoesNotFitFloat16
from greffon.training.choices import Choices
from greffon.training.feeding import Feeding
from greffon.training.fine_tuning import FineTuning
from greffon.training.int8 import Agreement, Compared, probabilities
from greffon.training.mixed import is_wanted, mixed_precision
from greffon.training.optimizers import pretrained_values
from greffon.training.planned import Planned, TrunkWork
from greffon.training.practice import notes_on
from greffon.training.solved import solve_head
from greffon.training.solver import Solver
from greffon.training.stage_memory import Memory
from greffon.training.stage_result import StageResult, Trained
from greffon.training.stage_tail import compile_stage
from greffon.training.watch import tell_again

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras

    from greffon.backbone.table import FreezeTable
    from greffon.frozen.cut import Cut
    from greffon.frozen.store import ActivationStore
    from greffon.recipe import Recipe
    from greffon.training.feeding import Feeds
    from greffon.training.planned import StagePlan
    from greffon.training.progress import Reporter
    from greffon.training.samples import Samples
    from greffon.training.stage_tail import StageTail

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Begun:
    """A stage that could begin to train.

    Attributes:
        tail: compiled.
        feeds: make what it trains on and is judged by.
        seed: of the stage.
    """

    tail: StageTail
    feeds: Feeds
    seed: int


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
    _feeding: Feeding = field(init=False, repr=False)
    _pretrained: dict[int, Array] = field(init=False, repr=False, default_factory=dict)
    _told: FreezeTable | None = field(init=False, repr=False, default=None)
    _shown_whole: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        self._memory = self.memory or Memory(self.model)
        if any(stage.l2_sp for stage in self.recipe.stages):
            # Of the backbone alone, and as it was before a checkpoint was put back.
            now, before = pretrained_values(self.model), self._memory.overwritten
            self._pretrained = {key: before.get(key, value) for key, value in now.items()}
        self._planned = Planned(
            self.model, self.recipe, self.samples, self.store, self.reporter, self.notes, self.choices
        )
        self._feeding = Feeding(self.model, self.recipe, self.samples, self.choices)
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
        plans = self._plans()
        results = self._run_all(plans, keep_last=True)
        last = plans[-1].source
        source = self._filled(plans[-1]) if last is None else last  # one that was recalled needed none
        self.end = plans[-1].cut, source
        return results, self._answers(plans[-1], source)

    @contextmanager
    def at_last_stage(self) -> Iterator[Begun]:
        """Run the stages but the last one, and give that one as it would begin; it has to be one that is trained."""
        *before, plan = self._plans()
        self._run_all(before)
        index = len(before)
        self._begin(index, plan)
        seed = self.recipe.seed + index
        with mixed_precision(plan.cut.tail, wanted=is_wanted(self.recipe.mixed_precision)):
            yield Begun(*self._feeding.tail_and_feeds(plan, seed), seed)

    def _plans(self) -> list[StagePlan]:
        """What each stage is to do, its activations filled as far as they can be."""
        plans = self._planned.plan()
        self._note_feature_augment(plans)
        deeper = (index for index, plan in enumerate(plans) if plan.table.groups_that_train())
        self._shown_whole = next(deeper, 0)
        return self._planned.filled(plans)

    def _run_all(self, plans: list[StagePlan], *, keep_last: bool = False) -> list[StageResult]:
        results = []
        for index, plan in enumerate(plans):
            try:
                results.append(self._recalled(index, plan) or self._remembered(index, plan))
            except DoesNotFitFloat16:  # of a stage whose trunk an earlier one moved, or that nothing could hold
                raise InputError(
                    f"stage {plan.stage.name!r}: an activation is beyond the range of float16; train with "
                    "float32 (--activations float32, or activations= of the recipe)"
                ) from None
            if not (keep_last and plan is plans[-1]):
                plan.source = None  # gives the memory back
        return results

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
        more = {
            "notes": self.notes[before:],
            "out_of_fold": None if self.out_of_fold is None else list(self.out_of_fold),
        }
        self._memory.finish(result.to_state() | more, plan.cut)
        return result

    def _recalled(self, index: int, plan: StagePlan) -> StageResult | None:
        """What a stage did that ran before the training was interrupted; its weights are in the model already."""
        if index >= len(self._memory.finished):
            return None
        state, stage = self._memory.finished[index], plan.stage
        table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
        self._tell_begin(index, table)
        tell_again(state["rows"], stage, self.reporter)
        for note in state["notes"]:
            self._note(note)
        held_out = state["out_of_fold"]
        self.out_of_fold = None if held_out is None else (held_out[0], held_out[1])
        return StageResult.of_state(plan, table, state)

    # --- a stage ---

    def _begin(self, index: int, plan: StagePlan) -> FreezeTable:
        """Freeze, fill and compile for a stage."""
        stage = plan.stage
        table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
        if plan.source is None:
            plan.source = self._filled(plan)
        self._tell_begin(index, table)
        compile_stage(
            self.model, stage, several_labels=self._several, steps=self._feeding.steps(stage),
            pretrained=self._pretrained,
        )  # fmt: skip
        for note in notes_on(stage, plan.cut.shapes):
            self._note(note)
        return table

    def _tell_begin(self, index: int, table: FreezeTable) -> None:
        """A stage begins. What trains is shown whole once: where something of the network does for the first time."""
        from rich.text import Text

        stages = self.recipe.stages
        shown: Any = table.compact()
        if index != self._shown_whole:
            shown = Text(table.describe() if self._told is None else table.changes(self._told))
        self._told = table
        self.reporter.stage(stages[index].name, index + 1, len(stages), shown)

    def _run_stage(self, index: int, plan: StagePlan) -> StageResult:
        stage, seed = plan.stage, self.recipe.seed + index
        table = self._begin(index, plan)
        if stage.optimizer == "lbfgs" and not self.recipe.solves(stage):
            self.reporter.note(f"{stage.name}: the head is not linear, so it is trained with adam and not solved")
        before = fingerprint(self.model)
        self._memory.stage_begins()
        trained = self._solve(plan, seed) if self.recipe.solves(stage) else self._fine_tune(index, plan, seed)
        seconds = self._memory.stage_seconds
        proof = examine(self.model, before) if trained.proof is None else trained.proof
        if not proof.holds:
            raise CheckFailedError(f"stage {stage.name!r}: the proof of freezing failed: {proof}")
        self.reporter.note(f"{stage.name}: {proof}")
        return StageResult.of(plan, table, trained, proof, seconds)

    @property
    def _several(self) -> bool:
        return self.recipe.head.output == "sigmoid"

    def _solve(self, plan: StagePlan, seed: int) -> Trained:
        """Solve the head; one row of history stands for it."""
        shown, _ = self._feeding.shown()
        source = cast("Activations", plan.source)
        probe, values = solve_head(self.model, source, self.samples, shown, self.recipe, seed=seed, solver=self.solver)
        if probe.held_out is not None:
            views = self.samples.views.shape[1]
            self.out_of_fold = probe.held_out[::views], self.samples.targets[self.samples.train[shown]]
        row = {"stage": plan.stage.name, "epoch": 1, "learning_rate": None, **values}
        self.reporter.epoch(plan.stage.name, 1, 1, values, True)
        return Trained([row], 1, more={"penalty": {"C": probe.strength, "held_out_loss": _number(probe.log_loss)}})

    def _fine_tune(self, index: int, plan: StagePlan, seed: int) -> Trained:
        """Train by steps."""
        tuning = FineTuning(self._feeding, self._memory, self.reporter, self._note)
        trained = tuning.run(plan, seed, may_be_taken_back=index > 0)
        if trained.more.get("kept", True):
            self.out_of_fold = None
        return trained

    def _note_feature_augment(self, plans: list[StagePlan]) -> None:
        """Pooled activations are changed in the stages that have them."""
        others = [plan for plan in plans if not is_pooled(plan.cut.shapes)]
        if not augments_features(self.recipe) or not others:
            return
        names = ", ".join(repr(plan.stage.name) for plan in others)
        self._note(f"activations are changed at random where they are pooled, so not in stage {names}")

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
