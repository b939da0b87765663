"""Good practice of a stage beside its optimizer and its loss, and what of it does not act where it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.recipe import Stage


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
    notes = []
    for name in ("momentum", "nesterov"):
        if getattr(stage, name) and stage.optimizer != "sgd":
            notes.append(f"{name} is an option of sgd, and the optimizer is {stage.optimizer}: it does nothing")
    if stage.nesterov and stage.optimizer == "sgd" and not stage.momentum:
        notes.append("nesterov is a kind of momentum, and momentum is 0: it does nothing")
    return [f"stage {stage.name!r}: {note}" for note in notes]
