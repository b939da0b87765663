"""What a diagnosis found: one finding for each cause, ranked by what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from greffon.diagnosing.compare import Change

Verdict = Literal["found", "not found", "not tested"]
_ORDER: dict[Verdict, int] = {"found": 0, "not found": 1, "not tested": 2}


@dataclass(frozen=True)
class Finding:
    """One cause of a bad result, tried out.

    Attributes:
        cause: what it is, in a few words; always the same ones.
        verdict: `found`, `not found` or `not tested`.
        said: what was done and what came out; or why it could not be done.
        change: the number as it is and without the fault; None where none can be had.
        advice: what to do; "" where there is nothing to do.
        decides: nothing else can be told while this is so; it comes first.
        details: numbers behind it, by name, as plain values.
    """

    cause: str
    verdict: Verdict
    said: str
    change: Change | None = None
    advice: str = ""
    decides: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def effect(self) -> float:
        """How much the number would move, up or (where it is too good) down."""
        return abs(self.change.gain) if self.change else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return {
            "cause": self.cause,
            "verdict": self.verdict,
            "said": self.said,
            "advice": self.advice,
            "decides": self.decides,
            **({} if self.change is None else self.change.to_dict()),
            "details": self.details,
        }


@dataclass(frozen=True)
class Diagnosis:
    """All causes, the one that costs most first.

    Attributes:
        findings: ranked: found before not found before not tested; of those that were found, by their effect.
        count: pictures that were looked at.
        measured: of those, how many the run held out.
        accuracy: of the run on these, as the experiments compute it; None where it could not be.
        notes: what the user should know, one sentence each.
        path: the file that was written; None where none was.
    """

    findings: tuple[Finding, ...]
    count: int
    measured: int
    accuracy: float | None
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def found(self) -> tuple[Finding, ...]:
        """The causes that were found."""
        return tuple(it for it in self.findings if it.verdict == "found")

    @property
    def ok(self) -> bool:
        """Whether none was."""
        return not self.found

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return {
            "kind": "greffon diagnosis",
            "ok": self.ok,
            "accuracy": self.accuracy,
            "pictures": self.count,
            "held_out": self.measured,
            "findings": [it.to_dict() for it in self.findings],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        rows = [("cause", "verdict", "measure", "now", "without", "gain", "95 % interval"), *map(_cells, self.findings)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", *self._told()])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self._table(), Text(""), *map(Text, self._told()))

    def _table(self) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
        for name in ("cause", "verdict", "measure"):
            table.add_column(name)
        for name in ("now", "without", "gain", "95 % interval"):
            table.add_column(name, justify="right")
        for it in self.findings:
            style = {"found": "bold red", "not tested": "dim"}.get(it.verdict)
            table.add_row(*_cells(it), style=style)
        return table

    def _told(self) -> list[str]:
        """Sentences below the table."""
        lines = [f"{it.cause}: {it.said}{' ' if it.advice else ''}{it.advice}" for it in self.found]
        lines += [f"{it.cause} could not be tested: {it.said}" for it in self.findings if it.verdict == "not tested"]
        if self.ok:
            tested = sum(it.verdict != "not tested" for it in self.findings)
            lines.insert(0, f"None of {tested} causes was found.")
        return [*lines, *self.notes]


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings as a diagnosis lists them."""
    return tuple(sorted(findings, key=lambda it: (_ORDER[it.verdict], not it.decides, -it.effect)))


def not_tested(cause: str, why: str) -> Finding:
    """A cause that could not be tried out."""
    return Finding(cause, "not tested", why)


def _cells(it: Finding) -> tuple[str, ...]:
    change = it.change
    if change is None:
        known = it.details.get("accuracy")
        now = ("accuracy", f"{known:.3f}") if isinstance(known, float) else ("", "-")
        return it.cause, it.verdict, *now, "-", "-", "-"
    interval = "-" if change.interval is None else f"{change.interval[0]:+.3f} to {change.interval[1]:+.3f}"
    gain, without = f"{change.gain:+.3f}", f"{change.without:.3f}"
    return it.cause, it.verdict, change.measure, f"{change.now:.3f}", without, gain, interval
