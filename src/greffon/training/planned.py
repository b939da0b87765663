"""The stages of a training before they run: what each one trains, where it is cut; one pass of the trunk for all."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from greffon.backbone.blocks import EACH_BLOCK
from greffon.backbone.freeze import freeze
from greffon.backbone.head import pool_layers
from greffon.backbone.parts import split_parts
from greffon.frozen.activations import Activations
from greffon.frozen.cost import macs
from greffon.frozen.cut import Cut, find_cut
from greffon.frozen.even import at_even_positions
from greffon.frozen.feature_augment import augments_features, check_pooled, is_pooled
from greffon.frozen.graph import flatten, with_calls
from greffon.frozen.together import OnePass
from greffon.frozen.trunk import DoesNotFitFloat16, Trunk
from greffon.training.choices import Choices
from greffon.training.narrowed import hand_over, joined_blocks, with_blocks
from greffon.training.samples import PictureRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras
    import numpy as np

    from greffon.backbone.table import FreezeTable
    from greffon.frozen.engine import Engine
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.store import ActivationStore
    from greffon.recipe import Pool, Recipe, Stage
    from greffon.training.progress import Reporter
    from greffon.training.samples import Samples

    Array = np.ndarray[Any, Any]

# A pass over fewer pictures says little about the speed of the machine.
_ENOUGH_TO_MEASURE = 32
# Pictures that int8 is calibrated on: as many as are looked at.
_CALIBRATION = 16


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


@dataclass
class TrunkWork:
    """What the frozen part cost in a run.

    Attributes:
        computed: pictures (views counted) that went through it.
        reused: those whose activations were all stored already.
        engine: what computed them; None where nothing had to be computed.
        precision: fp32 or int8.
        threads: of the engine; None where nothing was computed, or the backend decides.
        batch_size: the most pictures that the engine computed at once.
        seconds: time for it, decoding and storing included.
        activations: dtype that activations were kept in.
        multiply_accumulates: of all pictures that were computed.
    """

    computed: int = 0
    reused: int = 0
    engine: str | None = None
    precision: str = "fp32"
    threads: int | None = None
    batch_size: int | None = None
    seconds: float = 0.0
    activations: str = "float16"
    multiply_accumulates: int = 0

    @property
    def speed(self) -> float | None:
        """Multiply-accumulates per second; None where so little was computed that it says nothing."""
        if self.computed < _ENOUGH_TO_MEASURE:
            return None
        return self.multiply_accumulates / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """For the run's record."""
        names = ("computed", "reused", "engine", "precision", "threads", "batch_size", "activations")
        return {name: getattr(self, name) for name in names}


@dataclass
class Planned:
    """Plans the stages of a recipe on one model, and fills their activations.

    Attributes:
        model: grafted.
        recipe: its stages, precision and dtype of activations are read.
        samples: the pictures.
        store: where activations are kept; None: nowhere.
        reporter: told what happens.
        notes: what the user should know afterwards.
        choices: what was or will be chosen by timing.
        work: what the frozen part cost.
        parts: what `with_features` filled.
    """

    model: keras.Model
    recipe: Recipe
    samples: Samples
    store: ActivationStore | None
    reporter: Reporter
    notes: list[str]
    choices: Choices = field(default_factory=Choices)
    work: TrunkWork = field(init=False)
    parts: list[Activations] = field(init=False, repr=False, default_factory=list)
    _earlier: list[Activations] = field(init=False, repr=False, default_factory=list)
    _known: int = field(init=False, repr=False, default=0)
    _graph: FlatGraph = field(init=False, repr=False)
    _missing: int = field(init=False, repr=False, default=0)
    _beside: Pool | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.work = TrunkWork(activations=self.recipe.activations, precision=self.recipe.precision)

    def goes_on_from(self, earlier: Planned) -> None:
        """Count an earlier pass over some of these pictures, whose activations are in the store, as part of this."""
        self.work, self._known = earlier.work, len(earlier.samples)
        self._earlier, earlier.parts = earlier.parts, []

    def filled(self, plans: list[StagePlan]) -> list[StagePlan]:
        """Run the trunk for all stages; with float32, and plans for it, where a number is too large for float16."""
        if self._earlier:
            hand_over(self._earlier, _activations(plans), self.model, self.recipe.head.channels)
        self._earlier = []  # gives the memory back
        try:
            self.fill(_activations(plans))
        except DoesNotFitFloat16:
            self._keep_float32()
            plans = self.plan()
            self.fill(_activations(plans))
        return plans

    def with_features(self, pools: Sequence[Pool]) -> dict[Pool, Activations]:
        """Run the trunk for all stages and, in the same pass, for pooled features; give these, by row.

        Nothing of the stages is kept but what is in the store.

        Args:
            pools: ways to pool, as `Head.pool` names them.
        """
        try:
            return self._fill_features(pools)
        except DoesNotFitFloat16:
            self._keep_float32()
            return self._fill_features(pools)

    def _fill_features(self, pools: Sequence[Pool]) -> dict[Pool, Activations]:
        self._beside = next((pool for pool in pools if pool in EACH_BLOCK and self.recipe.head.pool != pool), None)
        plans = self.plan()
        features = {pool: cast("Activations", self.source(cut)) for pool, cut in self._pooled(pools).items()}
        self.parts = [*_activations(plans), *features.values()]
        self.fill(self.parts)
        return features

    def _pooled(self, pools: Sequence[Pool]) -> dict[Pool, Cut]:
        """Cuts of the common graph, widened for this, behind the backbone's feature map, pooled."""
        last = split_parts(self.model).backbone[-1]
        [tensor] = [node.outputs[0] for node in self._graph.nodes if node.operation is last]
        cuts = {}
        for pool in pools:
            if pool in EACH_BLOCK:
                output = joined_blocks(self._graph)
            else:
                layers = pool_layers(pool, self._graph.specs[tensor].shape[1:3])
                self._graph, output = with_calls(self._graph, layers, tensor)
            trunk = self._graph.between(self._graph.inputs, [output])
            cuts[pool] = Cut(trunk, self._graph.between([output], [output]), (), 0)
        return cuts

    def _keep_float32(self) -> None:
        note = "an activation is beyond the range of float16; all are kept in float32"
        self.notes.append(note)
        self.reporter.warn(note)
        self.work.activations = "float32"

    def source(self, cut: Cut, *, precision: str | None = None) -> Activations | PictureRows:
        """What passes a cut, by row of the samples; still to be filled.

        Args:
            cut: of the common graph.
            precision: of the trunk; by default the recipe's.
        """
        if not cut.trunk.nodes:
            return PictureRows(self.samples)
        precision = precision or self.work.precision
        dtype = self.work.activations
        kind = dtype if precision == "fp32" else f"{dtype}, {precision}"
        trunk = Trunk(
            cut,
            [self.samples.shape],
            store=self.store,
            dtype=dtype,
            label=f"{self.model.name}, {cut.where}, {kind}",
            precision=precision,
            calibration=self._calibration,
        )
        return Activations(trunk, self.samples.keys, self.samples.load)

    def fill(self, parts: Sequence[Activations]) -> None:
        """One pass over the pictures for all of these parts."""
        if not parts:
            return
        one_pass = OnePass(self._graph, parts, self.samples.load, build=self._engine)
        missing = self._missing = len(one_pass.missing())
        stored = max(len(self.samples) - missing - self._known, 0)
        self.work.reused += stored
        if stored:
            which = "all " if stored == len(self.samples) else ""
            self.reporter.note(f"frozen part: {which}{stored} activations are in the store already")
        if not missing:
            return
        start = time.perf_counter()
        with self.reporter.bar("frozen part", total=missing) as advance:
            one_pass.run(advance)
        self.work.seconds += time.perf_counter() - start
        self.work.computed += missing
        self.work.multiply_accumulates += missing * macs(one_pass.graph)
        engine = one_pass.engine
        self.work.engine, self.work.threads, self.work.batch_size = engine.name, engine.threads, engine.batch_size

    def _engine(self, graph: FlatGraph) -> Engine:
        return self.choices.engine(
            graph, pictures=self._missing, precision=self.work.precision, calibration=self._calibration
        )

    def _calibration(self) -> list[Array]:
        return list(self.samples.load(self.samples.train[:_CALIBRATION]))

    def plan(self) -> list[StagePlan]:
        """Freeze and cut the model for every stage; nothing is computed yet.

        Raises:
            InputError: pooled activations are to be changed at random, and no stage has them.
        """
        plans: list[StagePlan] = []
        moved: set[int] = set()
        graph = self._graph = self._common_graph()
        for stage in self.recipe.stages:
            table = freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
            cut = find_cut(self.model, graph=graph)
            if not cut.gains:
                cut = cut.without_trunk()
            late = any(id(weight) in moved for layer in cut.trunk.layers for weight in layer.weights)
            plans.append(StagePlan(stage, table, cut, None if late else self.source(cut)))
            moved |= {id(weight) for layer in cut.tail.layers for weight in layer.weights}
        if augments_features(self.recipe) and not any(is_pooled(plan.cut.shapes) for plan in plans):
            first = plans[0]
            check_pooled(self.recipe, first.cut.shapes, stage=first.stage.name, where=first.cut.where)
        return plans

    def _common_graph(self) -> FlatGraph:
        """One graph for all stages, so that their cuts share tensors: right for the stage that moves most."""
        moving: set[int] = set()
        for stage in self.recipe.stages:
            freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
            moving |= {id(layer) for layer in self.model.layers if layer.trainable}
        graph = flatten(self.model)
        if self._beside is not None:
            graph = with_blocks(graph, self._beside)  # before the rewriting: these read every position
        return at_even_positions(graph, moving=lambda norm: id(norm) in moving)


def _activations(plans: Sequence[StagePlan]) -> list[Activations]:
    return [plan.source for plan in plans if isinstance(plan.source, Activations)]
