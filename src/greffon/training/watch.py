"""What looks on while a stage trains: shows each epoch, keeps the best weights, stops in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.training.schedule import rate_of_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.recipe import Stage
    from greffon.training.progress import Reporter


class StageWatch(keras.callbacks.Callback):
    """Follows one stage by its validation loss.

    Args:
        stage: its name, epochs, patience.
        reporter: told of every epoch.
        variables: what the stage can move, statistics of BatchNormalization included.

    Attributes:
        rows: one per epoch: stage, epoch (from 1), learning rate, losses and metrics.
        best: number of the best epoch, 0 before there is one.
        not_finite: number of the epoch whose loss was not a number, at which the stage stopped; 0 if none.
    """

    def __init__(self, stage: Stage, reporter: Reporter, variables: list[Any]) -> None:
        super().__init__()
        self.stage, self.reporter = stage, reporter
        self.rows: list[dict[str, Any]] = []
        self.best = self.not_finite = 0
        self._lowest = math.inf
        self._variables = variables
        self._kept: list[np.ndarray[Any, Any]] = []
        self._first = [_value(variable) for variable in variables] if stage.only_if_better else []

    @property
    def epochs(self) -> int:
        """How many epochs ran."""
        return len(self.rows)

    @property
    def lowest(self) -> float:
        """Validation loss of the best epoch."""
        return self._lowest

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Note the epoch down; keep its weights if it is the best one; stop when none was better for too long."""
        values = in_order({name: float(value) for name, value in (logs or {}).items()})
        number = epoch + 1
        rate = rate_of_epoch(self.model.optimizer, epoch)
        self.rows.append({"stage": self.stage.name, "epoch": number, "learning_rate": rate, **values})
        loss = values["val_loss"]
        better = loss < self._lowest
        if better:
            self._lowest, self.best = loss, number
            if self.stage.keep_best:
                self._kept = [_value(variable) for variable in self._variables]
        self.reporter.epoch(self.stage.name, number, self.stage.epochs, values, better)
        if not (math.isfinite(loss) and math.isfinite(values["loss"])):
            self.not_finite = number
            self.model.stop_training = True
        elif self.stage.patience is not None and number - self.best >= self.stage.patience:
            self.model.stop_training = True

    def carry(self, loss: float) -> None:
        """What the stage begins with, of this validation loss, counts as its epoch 0."""
        self._lowest = loss
        if self.stage.keep_best:
            self._kept = [_value(variable) for variable in self._variables]

    def state(self) -> dict[str, Any]:
        """For a checkpoint: see `greffon.training.checkpoint.Stateful`."""
        return {
            "rows": [dict(row) for row in self.rows],
            "best": self.best,
            "not_finite": self.not_finite,
            "lowest": self._lowest,
            "kept": list(self._kept),
            "first": list(self._first),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another process was; the epochs so far are told again."""
        self.rows, self.best, self.not_finite = list(state["rows"]), state["best"], state["not_finite"]
        self._lowest, self._kept, self._first = state["lowest"], list(state["kept"]), list(state["first"])
        tell_again(self.rows, self.stage, self.reporter)

    def restore_best(self) -> None:
        """Put the weights of the best epoch back, where they were kept."""
        for variable, value in zip(self._variables, self._kept, strict=False):
            variable.assign(value)

    def restore_first(self) -> None:
        """Put the weights back that the stage began with; kept where it may be taken back."""
        for variable, value in zip(self._variables, self._first, strict=False):
            variable.assign(value)


def tell_again(rows: Sequence[Mapping[str, Any]], stage: Stage, reporter: Reporter) -> None:
    """Tell a reporter of epochs that ran in another process."""
    lowest = math.inf
    for row in rows:
        logs = {name: value for name, value in row.items() if name not in ("stage", "epoch", "learning_rate")}
        better, lowest = logs["val_loss"] < lowest, min(lowest, logs["val_loss"])
        epochs = stage.epochs if row["learning_rate"] is not None else 1
        reporter.epoch(stage.name, row["epoch"], epochs, logs, better)


def in_order(logs: Mapping[str, float]) -> dict[str, float]:
    """Losses and metrics as they are shown, whichever order they came in: of the pictures to learn from, then held out.

    Example:
        >>> from greffon.training.watch import in_order
        >>> list(in_order({"accuracy": 0.9, "loss": 0.1, "val_accuracy": 0.8, "val_loss": 0.2}))
        ['loss', 'accuracy', 'val_loss', 'val_accuracy']
    """

    def place(name: str) -> tuple[bool, bool]:
        return name.startswith("val_"), name.removeprefix("val_") != "loss"

    return {name: logs[name] for name in sorted(logs, key=place)}


def _value(variable: Any) -> np.ndarray[Any, Any]:
    return np.array(keras.ops.convert_to_numpy(variable))
