"""What `greffon diagnose` found of a run, as the page shows it: its file is read as data, and may be anybody's."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NAME = "diagnosis.json"
_MOST = 50  # findings
_VERDICTS = ("found", "not found", "not tested")


@dataclass(frozen=True)
class Cause:
    """One cause that was tried out.

    Attributes:
        name: of the cause.
        verdict: found, not found or not tested.
        said: what came out.
        advice: what to do.
        measure: what the numbers are.
        now: the number as it is; None where there is none.
        without: without the fault, likewise.
        interval: 95 % of the difference, likewise.
    """

    name: str
    verdict: str
    said: str
    advice: str
    measure: str
    now: float | None
    without: float | None
    interval: tuple[float, float] | None


def causes_of(run: Path) -> list[Cause]:
    """The findings in a run's folder, as they are ranked there; none where there is no such file, or it is another.

    Args:
        run: the folder.
    """
    try:
        found = json.loads((run / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    findings = found.get("findings") if isinstance(found, dict) else None
    rows = [it for it in findings if isinstance(it, dict)] if isinstance(findings, list) else []
    return [_cause(it) for it in rows[:_MOST] if it.get("verdict") in _VERDICTS]


def _cause(values: dict[str, Any]) -> Cause:
    interval = values.get("gain_interval_95")
    ends = [_number(it) for it in interval] if isinstance(interval, list) else []
    low, high = ends if len(ends) == 2 else (None, None)
    texts = {name: str(values.get(name) or "") for name in ("cause", "said", "advice", "measure")}
    return Cause(
        texts["cause"],
        values["verdict"],
        texts["said"],
        texts["advice"],
        texts["measure"],
        _number(values.get("now")),
        _number(values.get("without")),
        None if low is None or high is None else (low, high),
    )


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
