"""What an evaluation found, as it prints and as it goes into JSON."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Group

    from greffon.evaluation.abstain import Selected
    from greffon.evaluation.baselines import Baselines
    from greffon.evaluation.calibration import Bin
    from greffon.evaluation.folds import Folds
    from greffon.evaluation.measures import Measures


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a run is on labelled pictures.

    Attributes:
        measures: of the pictures that the run does not know; where it knows them all, of those that it was not trained
            on; where there are none of these either, of all.
        is_test: whether `measures` say how good the run is on new pictures; False where it knows them all.
        known: measures of the pictures that it knows, by the side of its own split: `train`, `val`.
        table: one row per picture, known ones included, as `greffon.evaluation.table` describes it; the last column,
            `known`, is `train` or `val` where the run was trained on the picture or chose its best epoch by it.
        side: which pictures of the folder were taken: `train`, `val`, `test` or `all`.
        unreadable: pictures that were left out, and why: (path, reason).
        notes: what the user should know, one sentence each.
        baselines: majority class and, where pictures that the run was trained on are among the data, nearest neighbour
            and solved head; on the pictures of `measures`, or where the run knows them all on those that it was not
            trained on. The run itself is the last row. None where they were not wanted.
        folds: repeated folds of a solved head on the features of all pictures; None where they were not wanted.
        about_folds: why they flatter, in a clause; nothing where the features know nothing of these pictures.
        chosen_by: what the run chose by its validation pictures, in words; nothing where it chose nothing.
        selected: what answering only where the run is sure means on the pictures of `measures`; None likewise.
        risk_coverage: of the pictures of `measures`, rows of coverage, error and confidence, each 0..1; at most 20.
        reliability: of the same pictures, what is said beside what is so, by how sure the answers are.
    """

    measures: Measures
    is_test: bool
    known: dict[str, Measures]
    table: pl.DataFrame
    side: str
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    baselines: Baselines | None = None
    folds: Folds | None = None
    about_folds: str = ""
    chosen_by: str = ""
    selected: Selected | None = None
    risk_coverage: tuple[dict[str, float], ...] = ()
    reliability: tuple[Bin, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it but the table as plain values, ready for JSON."""
        return {
            **self.measures.to_dict(),
            "is_test": self.is_test,
            "side": self.side,
            "known": {name: measures.to_dict() for name, measures in self.known.items()},
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "notes": list(self.notes),
            "baselines": None if self.baselines is None else self.baselines.to_dict(),
            "folds": None if self.folds is None else self.folds.to_dict(),
            "about_folds": self.about_folds,
            "chosen_by_validation": self.chosen_by,
            "selected": None if self.selected is None else self.selected.to_dict(),
            "risk_coverage": list(self.risk_coverage),
            "reliability": [dict(vars(one)) for one in self.reliability],
        }

    def __str__(self) -> str:
        table = [] if self.baselines is None else [str(self.baselines)]
        return "\n".join([*self._above(), str(self.measures), *table, *self._below(), *self.notes])

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        above = (Text(line, style="bold red") for line in self._above())
        table = [] if self.baselines is None else [self.baselines.__rich__()]
        return Group(*above, self.measures.__rich__(), *table, *map(Text, (*self._below(), *self.notes)))

    def _repr_html_(self) -> str:
        above = "".join(f"<p><b>{line}</b></p>" for line in self._above())
        table = "" if self.baselines is None else f"<pre>{html.escape(str(self.baselines))}</pre>"
        below = "".join(f"<p>{html.escape(note)}</p>" for note in (*self._below(), *self.notes))
        return f"{above}{self.measures._repr_html_()}{table}{below}"

    def _above(self) -> list[str]:
        """What is to be read before the numbers: that they say little, and the ones that say more."""
        if self.is_test:
            return []
        if "val" not in self.known:
            return [f"{_NO_TEST} and was trained on them, so the numbers say nothing about new ones.", *self._better()]
        count = self.measures.count
        chosen = f" to choose {self.chosen_by}, which flatters it a little" if self.chosen_by else ""
        return [
            f"{_NO_TEST}.",
            *self._better(),
            f"The {count:,} that it held out{chosen}:",
        ]

    def _better(self) -> list[str]:
        """Folds that are better than what the run says of pictures that it knows."""
        return [] if self.folds is None or self.about_folds else [f"{self.folds}; {_UNKNOWING}"]

    def _below(self) -> list[str]:
        lines = [] if self.selected is None else [str(self.selected)]
        if self.folds is None or (not self.is_test and not self.about_folds):
            return lines
        return [*lines, f"{self.about_folds}: {self.folds}" if self.about_folds else str(self.folds)]


_UNKNOWING = "the features have learned nothing of them"
_NO_TEST = "This is no test: the run knows all of these pictures"
