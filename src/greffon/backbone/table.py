"""The freeze table: every layer, whether it trains, and the totals that the optimizer will hold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from greffon.backbone import printing
from greffon.backbone.parts import batch_norms, block_of, group_of, learnable, output_shape, split_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    import keras
    import rich.table

    from greffon.backbone.rules import FreezeRules

View = Literal["auto", "compact", "full"]


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        index: its number in the backbone, as index ranges count; None outside.
        name: of the layer; with the names of the models around it where it is nested.
        part: preprocessing, backbone or head.
        block: such as `conv5_block3`; empty where the name tells none.
        group: such as `conv5`.
        kind: the layer's class.
        shape: of its output, batch dimension first; None where it was never called.
        parameters: all of them, statistics of BatchNorm included.
        learnable: those that can train.
        trainable: those that do.
        batch_norm: `stored` or `batch`: the statistics that a BatchNorm in it uses while training; else empty.
    """

    index: int | None
    name: str
    part: str
    block: str
    group: str
    kind: str
    shape: tuple[int | None, ...] | None
    parameters: int
    learnable: int
    trainable: int
    batch_norm: str

    @property
    def trains(self) -> str:
        """`yes`, `no`, `in part`, or nothing for a layer that has nothing to learn."""
        if not self.learnable:
            return ""
        return {0: "no", self.learnable: "yes"}.get(self.trainable, "in part")


@dataclass(frozen=True, repr=False)
class FreezeTable:
    """Every layer of a model and whether it trains; prints as a table in the terminal and in a notebook.

    Frozen blocks are one line each and what trains is shown layer by layer; `compact()` folds more, `full()`
    nothing.

    Attributes:
        model: the model's name.
        rows: one per layer, in the order of the graph.
        trainable_tensors: how many tensors train: what `len(model.trainable_variables)` is.
        unfreeze: the rules that led here, if known.
        batch_norm: the BatchNorm policy, if known.
        view: how it prints.
    """

    model: str
    rows: tuple[Row, ...]
    trainable_tensors: int
    unfreeze: tuple[int | str, ...] | None = None
    batch_norm: str | None = None
    view: View = "auto"

    @property
    def trainable_count(self) -> int:
        """Parameters that train: those of `model.trainable_variables`, which the optimizer will hold."""
        return sum(row.trainable for row in self.rows)

    @property
    def frozen_count(self) -> int:
        """All other parameters, statistics of BatchNorm included."""
        return self.total_count - self.trainable_count

    @property
    def total_count(self) -> int:
        """All parameters."""
        return sum(row.parameters for row in self.rows)

    def full(self) -> FreezeTable:
        """The same table, printing every layer."""
        return replace(self, view="full")

    def compact(self) -> FreezeTable:
        """The same table, printing one line for every block whose layers agree."""
        return replace(self, view="compact")

    def groups(self) -> dict[str, dict[str, int]]:
        """Layers, parameters, learnable and trainable parameters of every group of the backbone, and of the head."""
        totals: dict[str, dict[str, int]] = {}
        for row in self.rows:
            name = (row.group or row.name) if row.part == "backbone" else row.part
            total = totals.setdefault(name, {"layers": 0, "parameters": 0, "learnable": 0, "trainable": 0})
            total["layers"] += 1
            for count in ("parameters", "learnable", "trainable"):
                total[count] += getattr(row, count)
        return totals

    def describe(self) -> str:
        """What trains, in one line."""
        return printing.describe(self)

    def changes(self, before: FreezeTable) -> str:
        """What trains now and did not before, or the reverse, in one line.

        Args:
            before: the table of the same model under other rules.
        """
        return printing.changes(before, self)

    def groups_that_train(self) -> list[str]:
        """Groups of the backbone of which something trains."""
        return list(
            dict.fromkeys(row.group or row.name for row in self.rows if row.part == "backbone" and row.trainable)
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "model": self.model,
            "unfreeze": None if self.unfreeze is None else list(self.unfreeze),
            "batch_norm": self.batch_norm,
            "trainable_parameters": self.trainable_count,
            "frozen_parameters": self.frozen_count,
            "trainable_tensors": self.trainable_tensors,
            "groups": self.groups(),
            "layers": [
                asdict(row) | {"shape": row.shape and list(row.shape), "trains": row.trains} for row in self.rows
            ],
        }

    def __str__(self) -> str:
        return printing.as_text(self)

    __repr__ = __str__

    def __rich__(self) -> rich.table.Table:
        return printing.as_rich(self)

    def _repr_html_(self) -> str:
        return printing.as_html(self)


def make_table(model: keras.Model, rules: FreezeRules | None = None) -> FreezeTable:
    """Read the state of every layer.

    Args:
        model: any Keras model.
        rules: that led to the state.
    """
    training = {id(variable) for variable in model.trainable_variables}
    parts = split_parts(model)
    seen: set[int] = set()
    rows, number = [], parts.first_index
    for part, layer in parts:
        path = parts.path(layer)
        fresh = [variable for variable in layer.weights if id(variable) not in seen]
        seen.update(id(variable) for variable in fresh)
        can = {id(variable) for variable in learnable(layer)}
        inside = part == "backbone"
        rows.append(
            Row(
                index=number if inside else None,
                name=path,
                part=part,
                block=block_of(layer.name) if inside else "",
                group=group_of(layer.name) if inside else "",
                kind=type(layer).__name__,
                shape=output_shape(layer),
                parameters=_size(fresh),
                learnable=_size(variable for variable in fresh if id(variable) in can),
                trainable=_size(variable for variable in fresh if id(variable) in training),
                batch_norm=_statistics(layer),
            )
        )
        number += inside
    rest = [variable for variable in model.weights if id(variable) not in seen]
    if rest:
        rows.append(_own_row(model, rest, training))
    return FreezeTable(
        model=model.name,
        rows=tuple(rows),
        trainable_tensors=len(training),
        unfreeze=rules.unfreeze if rules else None,
        batch_norm=rules.batch_norm if rules else None,
    )


def _own_row(model: Any, variables: list[Any], training: set[int]) -> Row:
    """What a subclassed model holds itself, outside its layers."""
    can = {id(variable) for variable in learnable(model)}
    return Row(
        index=None,
        name=f"{model.name} (its own)",
        part="head",
        block="",
        group="",
        kind=type(model).__name__,
        shape=None,
        parameters=_size(variables),
        learnable=_size(variable for variable in variables if id(variable) in can),
        trainable=_size(variable for variable in variables if id(variable) in training),
        batch_norm="",
    )


def _statistics(layer: Any) -> str:
    modes = {"batch" if norm.trainable else "stored" for norm in batch_norms(layer)}
    return " and ".join(sorted(modes))


def _size(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)
