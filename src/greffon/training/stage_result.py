"""What a stage of a training did: for the run's record, and for a training that goes on behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greffon.backbone.proof import FreezeProof
from greffon.frozen.cost import macs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.backbone.table import FreezeTable
    from greffon.recipe import Stage
    from greffon.training.planned import StagePlan


@dataclass(frozen=True)
class Trained:
    """What solving or training gave.

    Attributes:
        rows: of history, one per epoch; one stands for a head that was solved.
        best: number of the best epoch.
        proof: of freezing, where it was taken already.
        xla: whether XLA compiled the steps.
        more: what else was found.
    """

    rows: list[dict[str, Any]]
    best: int
    proof: FreezeProof | None = None
    xla: bool = False
    more: dict[str, Any] = field(default_factory=dict)


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

    @property
    def still_improves(self) -> bool:
        """Whether it was trained by steps, to the last of several epochs, and that one was the best."""
        epochs = len(self.history)
        trained = epochs > 1 and self.history[-1]["learning_rate"] is not None
        return trained and self.best == epochs == self.stage.epochs and bool(self.more.get("kept", True))

    @classmethod
    def of(
        cls, plan: StagePlan, table: FreezeTable, trained: Trained, proof: FreezeProof, seconds: float
    ) -> StageResult:  # fmt: skip
        """Of a stage that has run."""
        where = plan.cut.where if plan.cut.trunk.nodes else ""
        return cls(
            plan.stage, table, where, trained.rows, trained.best, proof, seconds, macs(plan.cut.trunk), trained.xla,
            trained.more,
        )  # fmt: skip

    @classmethod
    def of_state(cls, plan: StagePlan, table: FreezeTable, state: Mapping[str, Any]) -> StageResult:
        """Of a stage that ran in another process; `state` is what `to_state` gave there."""
        proof = {name: value for name, value in state["proof"].items() if name != "holds"}
        proof["changed"] = tuple(proof["changed"])
        trained = Trained(state["rows"], state["best"], None, state["xla"], state["more"])
        return cls.of(plan, table, trained, FreezeProof(**proof), state["seconds"])

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint: what the recipe and the network do not tell again."""
        return {
            "rows": self.history,
            "best": self.best,
            "proof": self.proof.to_dict(),
            "seconds": self.seconds,
            "xla": self.xla,
            "more": self.more,
        }

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
