"""What a study came to, as it is printed and as programs read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greffon.say import counted
from greffon.searching.importance import Importance, caution

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from greffon.recipe import Recipe
    from greffon.searching.final import FinalCheck

_SHOWN = 8


@dataclass(frozen=True)
class Study:
    """A search over recipes.

    Attributes:
        path: its folder.
        best: the recipe with the least validation loss.
        trial: its number; 0 is the recipe as it was given.
        trials: one row per trial, best first: trial, state (ended, pruned, failed), log_loss and accuracy of the
            validation pictures, seconds, what, reason, and the choices.
        check: on pictures that the search has not seen; None where it was interrupted.
        importances: what mattered, largest first; empty where the trials were too few.
        seconds: of all calls together.
        notes: what the user should know.
    """

    path: Path
    best: Recipe
    trial: int | None
    trials: pl.DataFrame = field(repr=False)
    check: FinalCheck | None
    importances: tuple[Importance, ...] = field(repr=False)
    seconds: float
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What `study.json` holds of the result."""
        states = self.trials["state"].to_list()
        return {
            "trials": {state: states.count(state) for state in ("ended", "pruned", "failed")},
            "best_trial": self.trial,
            "best_recipe": self.best.model_dump(mode="json"),
            "final_check": self.check.to_dict() if self.check else None,
            "said": self.check.sentence() if self.check else None,
            "importances": [it.to_dict() for it in self.importances],
            "caution": caution(states.count("ended")),
            "notes": list(self.notes),
        }

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        run = self.path / "run"
        return {
            "study": str(self.path),
            "recipe": str(self.path / "recipe.yaml"),
            "run": str(run) if self.check else None,
            "seconds": round(self.seconds, 1),
            **self.facts(),
            "table": self.trials.to_dicts(),
        }

    def __str__(self) -> str:
        lines = [*self._table(), "", *self._mattered()]
        if self.check is not None:
            for name, measures in (("best", self.check.best), ("as given", self.check.default)):
                if measures is not None:
                    lines.append(f"unseen, {name}: {measures.headline()}, log loss {measures.log_loss:.4f}")
            lines.append(self.check.sentence())
        lines.append(f"study {self.path}: recipe.yaml, trials.csv" + (", run" if self.check else ""))
        return "\n".join(lines)

    def __rich__(self) -> str:
        from rich.markup import escape

        return escape(str(self))

    def _table(self) -> list[str]:
        states = self.trials["state"].to_list()
        found = ", ".join(
            f"{states.count(state)} {state}" for state in ("ended", "pruned", "failed") if state in states
        )
        many = counted(len(states), "trial")
        lines = [
            f"{many}: {found}; the best by the validation loss (chosen by it, so it flatters):",
            f"{'trial':>5}  {'loss':>7}  {'accuracy':>8}  {'time':>7}  recipe",
        ]
        for row in self.trials.filter(self.trials["state"] == "ended").head(_SHOWN).iter_rows(named=True):
            lines.append(
                f"{row['trial']:>5}  {row['log_loss']:>7.4f}  {row['accuracy']:>8.3f}  {row['seconds']:>5.0f} s  "
                f"{row['what']}"
            )
        return lines

    def _mattered(self) -> list[str]:
        if not self.importances:
            return ["what mattered: too few trials to say"]
        count = self.trials["state"].to_list().count("ended")
        lines = [f"what mattered ({caution(count)}):"]
        for it in self.importances:
            values = ", ".join(f"{value} {loss:.3f}" for value, loss in sorted(it.medians.items(), key=lambda x: x[1]))
            lines.append(
                f"  {it.name:<14} {it.share:>4.0%}  ({it.low:.0%} to {it.high:.0%})"
                f"{'  median loss: ' + values if values else ''}"
            )
        return lines
