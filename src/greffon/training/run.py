"""A finished training, as Python is given it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greffon.training.progress import duration

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.bundle.predict import Predictor
    from greffon.evaluation.baselines import Baselines
    from greffon.evaluation.folds import Folds
    from greffon.evaluation.measures import Measures


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: the folder that it left.
        measures: of the validation pictures.
        summary: the figures that `--json` prints.
        baselines: majority class, nearest neighbour and linear head on the same pictures; None where near-copies were
            not looked for, which gives the features.
        folds: repeated folds of the solved head, a number that nothing was chosen by; None where there is a test/ to be
            asked, where there are too many pictures, or without features.
        about_folds: what is to be said of them, or instead of them.
        flattery: why the validation pictures flatter it, one clause each; see `greffon.bundle.flattery`.
        hints: what to try next, one sentence each.
    """

    path: Path
    measures: Measures = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    baselines: Baselines | None = field(default=None, repr=False)
    folds: Folds | None = field(default=None, repr=False)
    about_folds: str = field(default="", repr=False)
    flattery: tuple[str, ...] = field(default=(), repr=False)
    hints: tuple[str, ...] = field(default=(), repr=False)

    def load(self) -> Predictor:
        """What predicts with the run's model."""
        from greffon.bundle.predict import load

        return load(self.path)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __rich__(self) -> str:
        from rich.markup import escape

        return escape(str(self))

    def _lines(self) -> list[str]:
        saved = self.summary["seconds_saved"]
        lines = [] if self.folds is None else [str(self.folds) + (f" ({self.about_folds})" if self.about_folds else "")]
        if self.folds is None and self.about_folds:
            lines = [self.about_folds]
        above = len(lines) + 1
        lines += [
            f"validation {self.measures.headline()}{self._but()}",
            f"time {duration(self.summary['seconds'])}, "
            f"of which the frozen part {duration(self.summary['trunk_seconds'])}",
        ]
        if saved is not None and saved > 0:
            whole = duration(self.summary["trunk_seconds_every_epoch"])
            lines.append(
                f"running the frozen layers in every epoch would have cost about {whole}, at the speed of this run: "
                f"{duration(saved)} saved"
            )
        if self.baselines is not None:
            said = "nearest neighbour and linear head: on average features of the network before it was trained"
            lines[above:above] = [*str(self.baselines).splitlines(), said]
        return [*lines, *self.hints, f"run {self.path}"]

    def _but(self) -> str:
        """Why the validation flatters the run, in brackets."""
        return f" ({'; '.join(self.flattery)})" if self.flattery else ""
