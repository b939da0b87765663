"""The stages of a training: planned together, so that one pass of the trunk serves all of them; run one by one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.freeze import freeze
from greffon.backbone.proof import examine, fingerprint
from greffon.errors import CheckFailedError, InputError
from greffon.frozen.activations import Activations
from greffon.frozen.cost import known_speed, macs, remember_speed
from greffon.frozen.cut import Cut, find_cut
from greffon.frozen.engine import build_engine
from greffon.frozen.even import at_even_positions
from greffon.frozen.graph import flatten
from greffon.frozen.together import OnePass
from greffon.frozen.trunk import DoesNotFitFloat16, Trunk
from greffon.training.feed import RowFeed
from greffon.training.samples import PictureRows, Samples
from greffon.training.tail import Tail
from greffon.training.watch import StageWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.backbone.proof import FreezeProof
    from greffon.backbone.table import FreezeTable
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.store import ActivationStore
    from greffon.recipe import Recipe, Stage
    from greffon.training.progress import Reporter

    Array = np.ndarray[Any, Any]

# A pass over fewer pictures says little about the speed of the machine.
_ENOUGH_TO_MEASURE = 32


@dataclass
class StagePlan:
    """One stage before it runs.

    Attributes:
        stage: its options.
        table: what trains.
        cut: where its trunk ends; without a trunk where nothing worth it is frozen.
        source: gives what passes the cut, by row; None: made when the stage begins, because an earlier stage still
            moves what is frozen here.
    """

    stage: Stage
    table: FreezeTable
    cut: Cut
    source: Activations | PictureRows | None


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
    """

    stage: Stage
    table: FreezeTable
    cut: str
    history: list[dict[str, Any]]
    best: int
    proof: FreezeProof
    seconds: float
    trunk_macs: int

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
        }


@dataclass
class TrunkWork:
    """What the frozen part cost in a run.

    Attributes:
        computed: pictures that went through it.
        reused: pictures whose activations were all stored already.
        engine: what computed them; None where nothing had to be computed.
        seconds: time for it, decoding and storing included.
        activations: dtype that activations were kept in.
        multiply_accumulates: of all pictures that were computed.
    """

    computed: int = 0
    reused: int = 0
    engine: str | None = None
    seconds: float = 0.0
    activations: str = "float16"
    multiply_accumulates: int = 0

    @property
    def speed(self) -> float | None:
        """Multiply-accumulates per second, from this run or an earlier one on this machine."""
        if self.computed >= _ENOUGH_TO_MEASURE:
            return self.multiply_accumulates / self.seconds
        return known_speed(self.engine)

    def to_dict(self) -> dict[str, Any]:
        """For the run's record."""
        return {name: getattr(self, name) for name in ("computed", "reused", "engine", "activations")}


@dataclass
class Stages:
    """Plans and runs the stages of a recipe on one model.

    Attributes:
        model: grafted.
        recipe: its stages, seed and dtype of activations are read.
        samples: the pictures.
        store: where activations are kept; None: nowhere.
        reporter: told what happens.
        notes: what the user should know afterwards.
        work: what the frozen part cost.
    """

    model: keras.Model
    recipe: Recipe
    samples: Samples
    store: ActivationStore | None
    reporter: Reporter
    notes: list[str] = field(default_factory=list)
    work: TrunkWork = field(default_factory=TrunkWork)
    _graph: FlatGraph = field(init=False, repr=False)

    def run(self) -> tuple[list[StageResult], Array]:
        """Run every stage.

        Returns:
            What each stage did, and the class probabilities for the validation rows, float32 (rows, classes).

        Raises:
            InputError: a loss that is not a number before there was a best epoch.
            CheckFailedError: a frozen tensor moved, or one that the optimizer should have moved could not.
        """
        self.work.activations = self.recipe.activations
        plans = self._filled_plans()
        results = []
        for index, plan in enumerate(plans):
            try:
                results.append(self._run_stage(index, plan))
            except DoesNotFitFloat16:  # of a stage whose trunk an earlier one moved, or that nothing could hold
                raise InputError(
                    f"stage {plan.stage.name!r}: an activation is beyond the range of float16; train with "
                    "--activations float32"
                ) from None
            last = plan.source
            if index < len(plans) - 1:
                plan.source = None  # gives the memory back
        return results, self._probabilities(plans[-1].cut, last)

    # --- the trunk ---

    def _filled_plans(self) -> list[StagePlan]:
        """Plan all stages and run the trunk; with float32 where a number is too large for float16."""
        plans = self._plan()
        try:
            self._fill([plan.source for plan in plans if isinstance(plan.source, Activations)])
        except DoesNotFitFloat16:
            self._note("an activation is beyond the range of float16; all are kept in float32")
            self.work.activations = "float32"
            plans = self._plan()
            self._fill([plan.source for plan in plans if isinstance(plan.source, Activations)])
        return plans

    def _plan(self) -> list[StagePlan]:
        plans: list[StagePlan] = []
        moved: set[int] = set()
        graph = self._graph = self._common_graph()
        for stage in self.recipe.stages:
            table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
            cut = find_cut(self.model, graph=graph)
            if not cut.gains:
                cut = _without_trunk(cut)
            late = any(id(weight) in moved for layer in cut.trunk.layers for weight in layer.weights)
            plans.append(StagePlan(stage, table, cut, None if late else self._source(cut)))
            moved |= {id(weight) for layer in cut.tail.layers for weight in layer.weights}
        return plans

    def _common_graph(self) -> FlatGraph:
        """One graph for all stages, so that their cuts share tensors: right for the stage that moves most."""
        moving: set[int] = set()
        for stage in self.recipe.stages:
            freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
            moving |= {id(layer) for layer in self.model.layers if layer.trainable}
        return at_even_positions(flatten(self.model), moving=lambda norm: id(norm) in moving)

    def _source(self, cut: Cut) -> Activations | PictureRows:
        if not cut.trunk.nodes:
            return PictureRows(self.samples)
        dtype = self.work.activations
        trunk = Trunk(
            cut, [self.samples.shape], store=self.store, dtype=dtype, label=f"{self.model.name}, {cut.where}, {dtype}"
        )
        return Activations(trunk, self.samples.keys, self.samples.load)

    def _fill(self, parts: Sequence[Activations]) -> None:
        """One pass over the pictures for all of these parts."""
        if not parts:
            return
        one_pass = OnePass(self._graph, parts, self.samples.load)
        missing = len(one_pass.missing())
        self.work.reused += len(self.samples) - missing
        if missing:
            if missing < len(self.samples):
                self.reporter.note(f"frozen part: {len(self.samples) - missing} activations are in the store already")
            start = time.perf_counter()
            with self.reporter.bar("frozen part", total=missing) as advance:
                one_pass.run(advance)
            self.work.seconds += time.perf_counter() - start
            self.work.computed += missing
            self.work.multiply_accumulates += missing * macs(one_pass.graph)
            self.work.engine = one_pass.engine_name
            if missing >= _ENOUGH_TO_MEASURE and self.work.engine and self.work.speed:
                remember_speed(self.work.engine, self.work.speed)
        else:
            self.reporter.note(f"frozen part: all {len(self.samples)} activations are in the store already")

    # --- a stage ---

    def _run_stage(self, index: int, plan: StagePlan) -> StageResult:
        stage, samples = plan.stage, self.samples
        table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
        if plan.source is None:
            plan.source = self._source(plan.cut)
            if isinstance(plan.source, Activations):
                self._fill([plan.source])
        self.reporter.stage(stage.name, index + 1, len(self.recipe.stages), table.compact())
        keras.utils.set_random_seed(self.recipe.seed + index)
        self._compile(stage)
        tail = Tail(self.model, plan.cut, jit_compile=False)
        watch = StageWatch(stage, self.reporter, list(tail.weights))
        before = fingerprint(self.model)
        start = time.perf_counter()
        tail.train(
            self._feed(plan.source, samples.train, stage, shuffle=True),
            validation_data=self._feed(plan.source, samples.validation, stage, shuffle=False),
            callbacks=[watch],
            epochs=stage.epochs,
            verbose=0,
            steps=None,
        )
        seconds = time.perf_counter() - start
        self._check_finite(watch)
        # Before the best weights come back: those of the first epoch could be the ones that it began with.
        proof = examine(self.model, before)
        if not proof.holds:
            raise CheckFailedError(f"stage {stage.name!r}: the proof of freezing failed: {proof}")
        if stage.keep_best:
            watch.restore_best()
        self.reporter.note(f"{stage.name}: {proof}")
        where = plan.cut.where if plan.cut.trunk.nodes else ""
        return StageResult(stage, table, where, watch.rows, watch.best, proof, seconds, macs(plan.cut.trunk))

    def _compile(self, stage: Stage) -> None:
        optimizer = keras.optimizers.get(
            {"class_name": stage.optimizer, "config": {"learning_rate": stage.learning_rate}}
        )
        loss = "binary_crossentropy" if self.recipe.head.output == "sigmoid" else "categorical_crossentropy"
        accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
        self.model.compile(optimizer=optimizer, loss=loss, metrics=[accuracy])

    def _feed(self, source: Any, rows: Array, stage: Stage, *, shuffle: bool) -> RowFeed:
        return RowFeed(source, rows=rows, y=self.samples.targets[rows], batch_size=stage.batch_size, shuffle=shuffle)

    def _check_finite(self, watch: StageWatch) -> None:
        if not watch.not_finite:
            return
        stage = watch.stage
        if not watch.best or not stage.keep_best:
            raise InputError(
                f"stage {stage.name!r}: the loss was not a number in epoch {watch.not_finite}, at learning rate "
                f"{stage.learning_rate:g}; give a lower --learning-rate"
            )
        self._note(
            f"stage {stage.name!r} stopped in epoch {watch.not_finite}, whose loss was not a number; the weights of "
            f"epoch {watch.best} are kept"
        )

    def _probabilities(self, cut: Cut, source: Any) -> Array:
        """Of the validation rows, by the model as it will be saved, from the activations of the last stage."""
        engine = build_engine(cut.tail)
        rows = self.samples.validation
        parts = [
            engine.run([np.asarray(array, np.float32) for array in source.gather(rows[start : start + 64])])[0]
            for start in range(0, len(rows), 64)
        ]
        return np.concatenate(parts)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.reporter.warn(text)


def _without_trunk(cut: Cut) -> Cut:
    """The cut at the model's inputs: the whole graph trains."""
    whole = replace(cut.tail, nodes=(*cut.trunk.nodes, *cut.tail.nodes))
    inputs = cut.trunk.inputs
    return replace(cut, trunk=cut.trunk.between(inputs, inputs), tail=whole.between(inputs, cut.tail.outputs))
