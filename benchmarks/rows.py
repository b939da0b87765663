"""One line of the tables of docs/performance.md: what was compared, what came out, and how far the limit is.

A module of this folder that measures something has `measure(options) -> list[Row]`; `run.py` lists it. What cannot be
measured here, for now, raises `Skipped` with the reason, and the table keeps its old line.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Skipped(Exception):  # noqa: N818  # nothing is wrong: the table keeps its old line
    """A row that cannot be measured, and why."""


@dataclass(frozen=True)
class Options:
    """What all rows are measured with.

    Attributes:
        rounds: how often both sides run, in turn.
        data: a folder with one folder of pictures per class; None: pictures are generated.
        smoke: a few small pictures and a thin, short network, to see that the script works. Says nothing about speed.
    """

    rounds: int = 2
    data: Path | None = None
    smoke: bool = False


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what `make bench ROW=name` calls it; where one name gives several rows, `name/which`.
        what: what is compared, a phrase.
        other: what the other side took or gave, as text: `210 s, extended from 2 epochs`.
        ours: the same of Greffon.
        ratios: ours over the other side, one for each round; above 1 is faster.
        target: the ratio to reach; None where there is none.
        limit: the ratio that seconds measured for each part allow, by the cost formula; None where it has none.
        note: what a reader must know beside, such as both accuracies.
        table: which table it stands in, a key of `docs.TABLES`.
        extra: figures for the file of results alone.
    """

    name: str
    what: str
    other: str
    ours: str
    ratios: list[float]
    target: float | None = None
    limit: float | None = None
    note: str = ""
    table: str = "training"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The middle of the ratios."""
        return statistics.median(self.ratios)

    @property
    def of_limit(self) -> float | None:
        """The share of the limit that was reached, 1 for all of it."""
        return None if self.limit is None else self.ratio / self.limit

    @property
    def above_limit(self) -> bool:
        """Whether more was reached than can be: a mistake of measurement until it is explained."""
        return self.of_limit is not None and self.of_limit > 1.0

    @property
    def reached(self) -> bool | None:
        """Whether the target was; None without one."""
        return None if self.target is None else self.ratio >= self.target

    def to_dict(self) -> dict[str, Any]:
        """For the file of results."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """A row from the file of results; what it does not know any more is left out."""
        known = {each.name for each in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
