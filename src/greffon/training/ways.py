"""The ways to train that a plan compares: as rows of a table, and which of them to take within a time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from greffon.training.progress import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.training.estimate import Measured

FEW = 800
"""With fewer pictures than this a trained head is usually as good as unfreezing more (Kornblith et al. 2019)."""
COLUMNS = ("plan", "first run", "rerun", "memory", "disk", "flags of greffon train")
"""Headings of `Plan.lines`."""

_DEPTHS = ("head", "last-block", "conv5", "conv4", "all")
_GAP = 2  # blanks between columns
# Of a first run's time; where the slowest is within it, one figure is said.
_ALIKE = 1.1


@dataclass(frozen=True)
class PlanRow:
    """One way to train.

    Attributes:
        name: what trains: `head`, `last-block`, `conv5`, `conv4` (and conv5), `all`, or `recipe` for the recipe's own
            last stage where that is none of these.
        precision: of the trunk, `fp32` or `int8`.
        views: of each picture to learn from.
        first: seconds of a first run, at most: no stage ends early.
        slowest: the same where all steps of the tail are slow: its threads one after another, as where another process
            holds a processor.
        rerun: seconds of a run with another head or learning rate, on stored activations.
        memory: bytes that the process needs.
        disk: bytes of activations.
        flags: what to give to `greffon train`.
        measured: whether its steps were measured; else they are scaled from those of the next depth.
        parts: seconds of the first run by what they go into.
        note: what is in the way, or nothing.
    """

    name: str
    precision: str
    views: int
    first: float
    rerun: float
    memory: int
    disk: int
    flags: str
    measured: bool
    parts: dict[str, float]
    note: str = ""
    slowest: float = 0.0

    @property
    def depth(self) -> int:
        """Place in the order of depth; a recipe's own rule stands with the head."""
        return _DEPTHS.index(self.name) if self.name in _DEPTHS else 0

    @property
    def lasts(self) -> str:
        """The first run's time as text, as a range where it depends on the kind of steps."""
        first, slowest = roughly(self.first), roughly(self.slowest)
        if self.slowest <= _ALIKE * self.first or first == slowest:
            return f"about {first}"
        value, _, unit = first.partition(" ")
        return f"{value if slowest.endswith(unit) else first} to {slowest}"

    @property
    def called(self) -> str:
        """Its name, with precision and views where they are not float32 and one."""
        words = [
            self.name,
            *(["int8"] if self.precision == "int8" else []),
            *([f"{self.views} views"] if self.views > 1 else []),
        ]
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """By name, times in tenths of a second."""
        rounded = {name: round(getattr(self, name), 1) for name in ("first", "slowest", "rerun")}
        values = asdict(self) | rounded
        return values | {"parts": {name: round(seconds, 2) for name, seconds in self.parts.items()}}


@dataclass(frozen=True)
class Plan:
    """What `greffon.plan` found.

    Attributes:
        pictures: how many there are to learn from (`train`) and held out (`val`).
        rows: the ways to train, the least deep first.
        budget: seconds that may be spent; None: not said.
        choice: the row to take within the budget; None without a budget, or where nothing fits.
        why: why that one; or what comes nearest.
        left_out: what has no row, and why.
        times: what was measured.
    """

    pictures: dict[str, int]
    rows: tuple[PlanRow, ...]
    budget: float | None
    choice: PlanRow | None
    why: str
    left_out: tuple[str, ...]
    times: Measured

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "pictures": self.pictures,
            "rows": [row.to_dict() for row in self.rows],
            "budget": self.budget,
            "choice": None if self.choice is None else self.choice.to_dict(),
            "why": self.why,
            "left_out": list(self.left_out),
            "measured": self.times.to_dict(),
        }

    def with_flags(self, given: Mapping[str, str]) -> Plan:
        """The same plan; flags that were given for the recipe are repeated in every row that does not change them.

        Args:
            given: flag to value, such as `--views` to `4`.
        """
        rows = []
        for row in self.rows:
            own = row.flags.split()[::2]
            more = [f"{flag} {value}" for flag, value in given.items() if flag not in own]
            rows.append(replace(row, flags=" ".join([*more, *([row.flags] if row.flags else [])])))
        choice = None if self.choice is None else rows[self.rows.index(self.choice)]
        return replace(self, rows=tuple(rows), choice=choice)

    def lines(self, width: int | None = None) -> list[str]:
        """The table as lines of text: plan, first run, rerun, memory, disk, flags.

        Args:
            width: characters in a line; where they are not enough, flags and notes stand below their row. None: any.
        """
        cells = [COLUMNS, *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(COLUMNS))]
        padded = [[cell.ljust(size) for cell, size in zip(line, widths, strict=True)] for line in cells]
        if width is None or sum(widths) + _GAP * (len(widths) - 1) <= width:
            return [(" " * _GAP).join(line).rstrip() for line in padded]
        below = " " * (2 * _GAP)
        lines = []
        for line in padded:
            lines.append((" " * _GAP).join(line[:-1]).rstrip())
            lines += [below + part for part in wrap(line[-1], max(20, width - len(below)), break_on_hyphens=False)]
        return lines

    def _cells(self, row: PlanRow) -> tuple[str, ...]:
        return (
            ("> " if row is self.choice else "") + row.called,
            row.lasts + ("" if row.measured else " *"),
            roughly(row.rerun),
            f"{row.memory / 1e9:.1f} GB",
            f"{math.ceil(row.disk / 1e6)} MB",
            row.flags + (f" ({row.note})" if row.note else ""),
        )

    def remarks(self) -> list[str]:
        """What is to be read below the table."""
        remarks = [
            f"measured for {self.times.spent:.0f} s, so times are rough; no stage is taken to end early. A rerun finds "
            "its activations stored"
        ]
        if any(row.slowest > _ALIKE * row.first for row in self.rows):
            remarks.append(
                '"to": where something else keeps a processor busy, steps take as long as their threads one by one'
            )
        if not all(row.measured for row in self.rows):
            remarks.append("*: steps scaled from a shallower cut; --seconds gives measuring more time")
        return [*remarks, *self.left_out, *([self.why] if self.why else [])]

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *self.remarks()])


def choose(rows: Sequence[PlanRow], pictures: int, budget: float | None) -> tuple[PlanRow | None, str]:
    """The row to take within a budget, and why; without a budget none.

    With few pictures the head, since unfreezing more is then seldom better; else the deepest that fits. Of those with
    the same depth float32 before int8, and one view before several.
    """
    if budget is None:
        return None, ""
    in_budget = [row for row in rows if row.first <= budget and not row.note]
    if not in_budget:
        nearest = min(rows, key=lambda row: row.first)
        return None, (
            f"nothing fits into {duration(budget)}; nearest is {nearest.called} with about {roughly(nearest.first)}"
            + (f" ({nearest.note})" if nearest.note else "")
        )
    best = max(in_budget, key=_preference)
    if pictures < FEW and in_budget[0].depth == 0 < best.depth:
        head = max((row for row in in_budget if row.depth == 0), key=_preference)
        return head, (
            f"within {duration(budget)}: {head.called}; with {pictures} pictures, under about {FEW}, a trained head "
            f"is usually as good as unfreezing more. {best.called} fits too (about {roughly(best.first)}): worth a "
            "try where classes differ in fine detail"
        )
    late = f"; up to {roughly(best.slowest)} if the machine is busy otherwise" if best.slowest > budget else ""
    took = f"in about {roughly(best.first)}{late}"
    return best, f"within {duration(budget)}: {best.called}, the deepest that fits, {took}"


def _preference(row: PlanRow) -> tuple[int, bool, int]:
    return row.depth, row.precision == "fp32", -row.views


def roughly(seconds: float) -> str:
    """Seconds in two digits, which is all that a short measurement can say.

    Example:
        >>> from greffon.training.ways import roughly
        >>> roughly(0.42), roughly(64), roughly(325), roughly(9000)
        ('0.42 s', '64 s', '5.4 min', '2.5 h')
    """
    size, unit = (1, "s") if seconds < 100 else (60, "min") if seconds < 6000 else (3600, "h")
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"
