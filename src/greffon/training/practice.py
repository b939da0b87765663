"""Good practice of a stage beside its optimizer and its loss, and what of it does not act where it is asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.training.mixing import Mixing, grid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from greffon.recipe import Stage
    from greffon.training.norm_statistics import MovingStatistics

    Array = np.ndarray[Any, Any]


class Averaging(keras.callbacks.Callback):
    """Validates the running mean of the weights in place of the weights, and ends with it.

    The optimizer keeps the mean; see `greffon.training.optimizers`. From the beginning of a validation to the end of
    the epoch the model holds it, so that callbacks in front of this one see it; those behind see the weights again.

    Args:
        statistics: of the BatchNormalization that the stage moves; they are taken anew for the mean each time, and are
            those of the weights again while it trains. None: it moves none.
    """

    def __init__(self, statistics: MovingStatistics | None = None) -> None:
        super().__init__()
        self._statistics = statistics
        self._inside = False
        self._of_weights: list[Array] = []

    def on_test_begin(self, logs: Any = None) -> None:
        """The mean takes the place of the weights."""
        self._take_mean()
        self._inside = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Training goes on with the weights."""
        if self._inside:
            self.model.optimizer.swap()
            if self._statistics is not None:
                self._statistics.restore(self._of_weights)
            self._inside = False

    def on_train_end(self, logs: Any = None) -> None:
        """The mean is what the stage ends with."""
        self._take_mean()

    def _take_mean(self) -> None:
        self.model.optimizer.swap()
        if self._statistics is not None:
            self._of_weights = self._statistics.values()
            self._statistics.renew()


class Soup(keras.callbacks.Callback):
    """Keeps the weights of the best epochs, to average those that are better together.

    Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time": the greedy one, of epochs of one training.

    Args:
        most: epochs to keep.
        variables: what the stage can move.
        statistics: of the BatchNormalization that it moves; taken anew for each soup. None: it moves none.
    """

    def __init__(
        self, most: int, variables: Sequence[Any], statistics: MovingStatistics | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self._most, self._variables, self._statistics = most, list(variables), statistics
        self._kept: list[tuple[float, int, list[Array]]] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Keep the epoch if it is one of the best so far."""
        loss = float((logs or {})["val_loss"])
        full = len(self._kept) >= self._most
        if not math.isfinite(loss) or (full and loss >= self._kept[-1][0]):
            return
        values = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables]
        self._kept = sorted([*self._kept, (loss, epoch + 1, values)], key=lambda it: it[:2])[: self._most]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"kept": [{"loss": loss, "epoch": epoch, "values": values} for loss, epoch, values in self._kept]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another process was."""
        self._kept = [(it["loss"], it["epoch"], list(it["values"])) for it in state["kept"]]

    def cook(self, loss_of: Callable[[], float]) -> dict[str, Any]:
        """Put the soup into the model: the best epoch, and with it every next one that makes it no worse.

        Args:
            loss_of: validation loss of the model as it is.

        Returns:
            For the run's record: the epochs that are in it, the validation loss of the best one and of the soup.
        """
        if not self._kept:
            return {}
        _, first, total = self._kept[0]
        used = [first]
        self._assign(total)
        alone = lowest = loss_of()
        for _, epoch, values in self._kept[1:]:
            more = [one + other for one, other in zip(total, values, strict=True)]
            self._mix(more, len(used) + 1)
            loss = loss_of()
            if loss <= lowest:
                total, lowest = more, loss
                used.append(epoch)
        self._mix(total, len(used))
        return {"soup": {"epochs": used, "loss_of_best": round(alone, 6), "loss": round(lowest, 6)}}

    def _mix(self, total: Sequence[Array], count: int) -> None:
        """The mean of so many epochs; their own statistics where it is one."""
        self._assign([value / count for value in total])
        if self._statistics is not None and count > 1:
            self._statistics.renew()

    def _assign(self, values: Sequence[Array]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def callbacks_of(
    stage: Stage, variables: Sequence[Any], statistics: MovingStatistics | None = None
) -> list[keras.callbacks.Callback]:  # fmt: skip
    """What looks on while a stage trains, behind its watch and in front of what writes checkpoints, in this order.

    Args:
        stage: its options.
        variables: what it can move.
        statistics: of the BatchNormalization that it moves; None: it moves none.
    """
    soup: list[keras.callbacks.Callback] = [Soup(stage.soup, variables, statistics)] if stage.soup else []
    return [*soup, Averaging(statistics)] if stage.ema else soup


def finish(callbacks: Sequence[Any], loss_of: Callable[[], float]) -> dict[str, Any]:
    """When a stage has trained and its best weights are back: the soup, where one was asked for.

    Args:
        callbacks: of the stage.
        loss_of: validation loss of the model as it is.

    Returns:
        For the run's record.
    """
    return next((it.cook(loss_of) for it in callbacks if isinstance(it, Soup)), {})


def mixing_of(stage: Stage, shapes: Sequence[tuple[int | None, ...]], *, seed: int) -> Mixing | None:
    """What mixes the pictures of a stage; None where nothing does.

    Args:
        stage: its options.
        shapes: of what passes its cut for one picture, per tensor.
        seed: of what is drawn.
    """
    mixing = Mixing(shapes, mixup=stage.mixup, cutmix=stage.cutmix, seed=seed)
    return mixing if mixing.mixup or mixing.cutmix else None


_PRACTICE = (
    "schedule", "warmup", "group_decay", "weight_decay", "momentum", "nesterov", "l2_sp", "label_smoothing", "mixup",
    "cutmix", "ema", "soup", "gradual", "carry_best",
)  # fmt: skip


def practised(stage: Stage) -> list[str]:
    """Names of the options of good practice that a stage sets.

    Example:
        >>> import greffon
        >>> from greffon.training.practice import practised
        >>> practised(greffon.Stage(mixup=0.2, epochs=3))
        ['mixup']
    """
    return [name for name in _PRACTICE if getattr(stage, name) != type(stage).model_fields[name].default]


def notes_on(stage: Stage, shapes: Sequence[tuple[int | None, ...]]) -> list[str]:
    """What a stage asks for and does not get, one sentence each.

    Args:
        stage: its options.
        shapes: of what passes its cut for one picture, per tensor.

    Example:
        >>> import greffon
        >>> from greffon.training.practice import notes_on
        >>> notes_on(greffon.Stage(momentum=0.9), [(1024,)])
        ["stage 'head': momentum is an option of sgd, and the optimizer is adam: it does nothing"]
    """
    if stage.optimizer == "lbfgs":
        return []
    notes = [
        f"{name} is an option of sgd, and the optimizer is {stage.optimizer}: it does nothing"
        for name in ("momentum", "nesterov")
        if getattr(stage, name) and stage.optimizer != "sgd"
    ]
    if stage.nesterov and stage.optimizer == "sgd" and not stage.momentum:
        notes.append("nesterov is a kind of momentum, and momentum is 0: it does nothing")
    if stage.cutmix and not grid_of(shapes):
        notes.append("CutMix needs places, and what passes the cut is pooled: it does nothing (mixup would)")
    if stage.carry_best and not stage.keep_best:
        notes.append("carry_best is for a stage that keeps its best weights: it does nothing")
    return [f"stage {stage.name!r}: {note}" for note in notes]
