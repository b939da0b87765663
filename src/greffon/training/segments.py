"""A model as a row of segments, and what a stage leaves of each to trunk and tail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.backbone.freeze import freeze
from greffon.backbone.parts import block_of, group_of, split_parts
from greffon.frozen.cost import node_macs
from greffon.frozen.cut import find_cut
from greffon.frozen.graph import flatten
from greffon.frozen.trunk import kept_dtypes
from greffon.training import rate
from greffon.training.estimate import SEGMENTS, StageFacts
from greffon.training.gradual import gradual_stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from greffon.frozen.cut import Cut
    from greffon.recipe import Recipe, Stage, Unfreeze


@dataclass(frozen=True)
class Anatomy:
    """A grafted model, taken apart.

    Attributes:
        model: the model; its trainable flags are changed by what is asked here.
        work: multiply-accumulates for one picture, by segment and layer name.
        layers: how many layers each segment has.
        last_block: name of the backbone's last block.
    """

    model: keras.Model
    work: dict[str, dict[str, int]]
    layers: dict[str, int]
    last_block: str

    @classmethod
    def of(cls, model: keras.Model) -> Anatomy:
        """Take a model apart."""
        parts = split_parts(model)
        last = next((block_of(layer.name) for layer in reversed(parts.backbone) if block_of(layer.name)), "")
        places = {layer.name: _segment(part, layer.name, last) for part, layer in parts}
        work: dict[str, dict[str, int]] = {name: {} for name in SEGMENTS}
        graph = flatten(model)
        for node in graph.nodes:
            work[places[node.operation.name]][node.operation.name] = node_macs(node, graph)
        counts = {name: sum(place == name for place in places.values()) for name in SEGMENTS}
        return cls(model, work, counts, last)

    def macs(self, segment: str) -> int:
        """Multiply-accumulates of one segment for one picture."""
        return sum(self.work[segment].values())

    def rule(self, segment: str) -> Unfreeze:
        """What to unfreeze, so that the tail begins with this segment."""
        rules: dict[str, Unfreeze] = {
            "head": "none",
            "last-block": self.last_block,
            "conv5": "conv5",
            "conv4": ("conv4", "conv5"),
            "early": "all",
        }
        return rules[segment]

    def cut(self, stage: Stage) -> Cut:
        """Freeze as a stage says, and cut."""
        freeze(self.model, stage.unfreeze, batch_norm=stage.batch_norm)
        return find_cut(self.model)

    def share(self, cut: Cut) -> dict[str, float]:
        """What the tail behind a cut holds of each segment; all of it where the cut gains nothing."""
        if not cut.gains:
            return dict.fromkeys(SEGMENTS, 1.0)
        behind = {layer.name for layer in cut.tail.layers}
        shares = {}
        for name, work in self.work.items():
            whole = sum(work.values())
            shares[name] = sum(macs for layer, macs in work.items() if layer in behind) / whole if whole else 0.0
        return shares

    def facts(self, recipe: Recipe) -> list[StageFacts]:
        """Every stage of a recipe, as far as its cost goes; a gradual one as all the stages that it becomes."""
        facts: list[StageFacts] = []
        moved: set[int] = set()
        for stage in gradual_stages(recipe, self.model).stages:
            cut = self.cut(stage)
            late = any(id(weight) in moved for layer in cut.trunk.layers for weight in layer.weights)
            found = self._facts(stage, cut, recipe.activations, late=late and cut.gains)
            facts.append(replace(found, **_looked_for(recipe, stage, first=not facts)))
            moved |= {id(weight) for layer in cut.tail.layers for weight in layer.weights}
        return facts

    def _facts(self, stage: Stage, cut: Cut, dtype: str, *, late: bool) -> StageFacts:
        graph = cut.tail if cut.gains else flatten(self.model)
        outputs = [graph.specs[tensor].shape[1:] for node in graph.nodes for tensor in node.outputs]
        return StageFacts(
            name=stage.name,
            epochs=stage.epochs,
            batch_size=stage.batch_size,
            tail=self.share(cut),
            has_trunk=cut.gains,
            late=late,
            activation_bytes=activation_bytes(cut, dtype) if cut.gains else 0,
            trainable=sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables),
            step_bytes=4 * sum(int(np.prod(shape)) for shape in outputs),
        )


def _looked_for(recipe: Recipe, stage: Stage, *, first: bool) -> dict[str, Any]:
    """What a stage does beside or instead of its epochs."""
    if recipe.solves(stage):
        return {"solved": True}
    tried = len(rate.rates_to_try(stage)) * min(rate.TRIED_EPOCHS, stage.epochs)
    epochs = tried if stage.learning_rate == "auto" else 0
    steps = rate.STEPS if str(stage.learning_rate) == "range" else 0
    return {
        "tried_epochs": epochs,
        "tried_steps": steps,
        "judged": stage.only_if_better and not first,
        "carried": stage.carry_best,
    }


def activation_bytes(cut: Cut, dtype: str) -> int:
    """Bytes of one picture's activation, kept in this dtype."""
    pairs = zip(cut.shapes, kept_dtypes(cut, dtype), strict=True)
    return sum(int(np.prod([side or 0 for side in shape])) * kept.itemsize for shape, kept in pairs)


def with_last_stage(recipe: Recipe, rule: Unfreeze) -> Recipe:
    """The recipe with other freeze rules in its last stage; for the head alone, without that stage if there are more.

    It is what `greffon train --unfreeze RULE` makes of the recipe.
    """
    *before, last = recipe.stages
    if rule == "none" and before and last.unfreeze not in ("none", 0):
        return recipe.replace(stages=tuple(before))
    return recipe.replace(stages=(*before, last.replace(unfreeze=rule)))


class MadeUp:
    """Stands where activations stand: random numbers of their shape, the same few for all rows."""

    in_memory = True
    _ROWS = 32

    def __init__(self, cut: Cut, dtype: str, rows: int) -> None:
        self._rows = rows
        self.shapes: list[tuple[int, ...]] = [tuple(int(side or 1) for side in shape) for shape in cut.shapes]
        self.dtypes = kept_dtypes(cut, dtype)
        random = np.random.default_rng(0)
        kinds = zip(self.shapes, self.dtypes, strict=True)
        self._arrays = [random.random((self._ROWS, *shape), np.float32).astype(kept) for shape, kept in kinds]

    def __len__(self) -> int:
        return self._rows

    def gather(self, rows: Any) -> list[Any]:
        """For some rows: one array of shape (rows, ...) per tensor of the cut."""
        return [array[np.asarray(rows) % self._ROWS] for array in self._arrays]


def _segment(part: str, name: str, last_block: str) -> str:
    if part != "backbone":
        return "head" if part == "head" else "early"
    if block_of(name) == last_block:
        return "last-block"
    group = group_of(name)
    return group if group in {"conv4", "conv5"} else "early"


def segments_from(name: str) -> Sequence[str]:
    """A segment and those behind it."""
    return SEGMENTS[SEGMENTS.index(name) :]
