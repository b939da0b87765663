"""`greffon.plan`: what each way to train would take on this machine and these pictures, before any of it runs."""

from __future__ import annotations

import math
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, InputError
from greffon.pictures.layout import read_layout
from greffon.recipe import Recipe
from greffon.training.estimate import SEGMENTS, Measured, Workload, estimate
from greffon.training.progress import ConsoleReporter, Reporter, duration
from greffon.training.start import build_model, find_start
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from greffon.recipe import ResizeRule, Unfreeze
    from greffon.training.estimate import StageFacts
    from greffon.training.segments import Anatomy

MEASURING = 20.0
"""Seconds of measuring."""
FEW = 800
"""With fewer pictures than this a trained head is usually as good as unfreezing more (Kornblith et al. 2019)."""

_NAMES = {segment: "all" if segment == "early" else segment for segment in SEGMENTS}
_DEPTHS = ("head", "last-block", "conv5", "conv4", "all")
_MORE_VIEWS = 4
# Of a first run's time; where the slowest is within it, one figure is said.
_ALIKE = 1.1
_DURATION = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)\s*h(?:ours?)?)?\s*(?:(?P<m>\d+(?:\.\d+)?)\s*m(?:in(?:utes?)?)?)?\s*"
    r"(?:(?P<s>\d+(?:\.\d+)?)\s*s(?:ec(?:onds?)?)?)?"
)


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
        if self.slowest <= _ALIKE * self.first:
            return duration(self.first)
        return f"{duration(self.first)} to {duration(self.slowest)}"

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

    def cells(self) -> Iterator[tuple[str, ...]]:
        """The table's lines as text: plan, precision, views, first run, rerun, memory, disk, flags."""
        for row in self.rows:
            about = "" if row.measured else "about "
            yield (
                ("> " if row is self.choice else "") + row.name,
                row.precision,
                str(row.views),
                about + row.lasts,
                about + duration(row.rerun),
                f"{row.memory / 1e9:.1f} GB",
                f"{math.ceil(row.disk / 1e6)} MB",
                row.flags + (f" ({row.note})" if row.note else ""),
            )

    def remarks(self) -> list[str]:
        """What is to be read below the table."""
        remarks = [f"measured for {self.times.spent:.0f} s; no stage is taken to end early"]
        if any(row.slowest > _ALIKE * row.first for row in self.rows):
            remarks.append(
                '"to": where something else keeps a processor busy, steps take as long as their threads one by one'
            )
        if not all(row.measured for row in self.rows):
            remarks.append('"about": steps scaled from a shallower cut; --seconds gives measuring more time')
        return [*remarks, *self.left_out, *([self.why] if self.why else [])]

    def __str__(self) -> str:
        lines = [COLUMNS, *self.cells()]
        widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*(row.rstrip() for row in rows), *self.remarks()])


COLUMNS = ("plan", "precision", "views", "first run", "rerun", "memory", "disk", "greffon train")
"""Headings of `Plan.cells`."""


def plan(
    data: str | Path,
    *,
    recipe: Recipe | None = None,
    budget: str | float | None = None,
    seconds: float = MEASURING,
    reporter: Reporter | None = None,
) -> Plan:
    """Measure for a while, then say what each way to train would take.

    Some of the pictures are decoded, a few go through the frozen part, and a few steps of real tails are taken. The
    rest is arithmetic, see `greffon.training.estimate`. Nothing is written, and no picture is left out for good.

    Args:
        data: a folder of pictures, as `greffon.train` takes it.
        recipe: head, stages, weights and all else; its last stage is the one that gets other freeze rules.
        budget: time that the first run may take: `10m`, `1h30m`, `90s`, or seconds.
        seconds: for measuring, at least 1; loading the weights comes before, and the last measurement may take longer.
        reporter: told what happens; by default the console.

    Raises:
        InputError: an option or the weights cannot be used.
        DataError: the folder has no pictures of two classes, or none that can be read.

    Example:
        >>> import greffon, tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.plan import plan
        >>> from greffon.training.progress import Reporter
        >>> recipe = greffon.Recipe(weights="thin", image_size=32)
        >>> found = plan(demo_pictures(tempfile.mkdtemp()), recipe=recipe, budget="1h", seconds=1, reporter=Reporter())
        >>> found.rows[0].name, found.choice.name
        ('head', 'head')
    """
    limit = None if budget is None else parse_budget(budget)
    if not (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 1):
        raise InputError(f"seconds must be at least 1, got {seconds!r}")
    recipe, reporter = recipe or Recipe(), reporter or ConsoleReporter()
    start = find_start(recipe.weights)
    folder = _Folder.read(Path(data), recipe)
    reporter.note(
        f"{folder.train + folder.held_out} pictures of {len(folder.class_names)} classes; measuring for about "
        f"{seconds:.0f} s"
    )
    began = time.perf_counter()
    model, preprocessing, _ = build_model(start, recipe, folder.class_names)
    from greffon.training.measured import SAMPLE, measure
    from greffon.training.segments import Anatomy

    loading = time.perf_counter() - began
    anatomy = Anatomy.of(model)
    resize: ResizeRule = preprocessing.resize if recipe.resize == "auto" else recipe.resize
    counts = (folder.train, folder.held_out)
    times = measure(
        anatomy, recipe, folder.sample(SAMPLE), rule=resize, pictures=counts, seconds=seconds, start=loading,
        with_folds=folder.is_folded(),
    )  # fmt: skip
    rows, left_out = _rows(anatomy, recipe, folder, times)
    choice, why = choose(rows, folder.train + folder.held_out, limit)
    pictures = {"train": folder.train, "val": folder.held_out}
    return Plan(pictures, tuple(rows), limit, choice, why, tuple(left_out), times)


def parse_budget(budget: str | float) -> float:
    """Seconds of `10m`, `1h30m`, `90s` or a number of seconds.

    Raises:
        InputError: none of these, or not above 0.

    Example:
        >>> from greffon.training.plan import parse_budget
        >>> parse_budget("1h30m"), parse_budget("90s"), parse_budget(60)
        (5400.0, 90.0, 60.0)
    """
    seconds = 0.0
    if isinstance(budget, str):
        found = _DURATION.fullmatch(budget.strip().lower())
        if found:
            seconds = sum(float(found[unit] or 0) * each for unit, each in (("h", 3600), ("m", 60), ("s", 1)))
    elif not isinstance(budget, bool):
        seconds = float(budget)
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"budget must be a time above 0 such as 10m, 1h30m or 90s, got {budget!r}")
    return seconds


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
            f"nothing fits into {duration(budget)}; nearest is {_called(nearest)} with {duration(nearest.first)}"
            + (f" ({nearest.note})" if nearest.note else "")
        )
    best = max(in_budget, key=_preference)
    if pictures < FEW and in_budget[0].depth == 0 < best.depth:
        head = max((row for row in in_budget if row.depth == 0), key=_preference)
        return head, (
            f"within {duration(budget)}: {_called(head)}; with {pictures} pictures, under about {FEW}, a trained head "
            f"is usually as good as unfreezing more. {_called(best)} fits too ({duration(best.first)}): worth a try "
            "where classes differ in fine detail"
        )
    late = f"; up to {duration(best.slowest)} if the machine is busy otherwise" if best.slowest > budget else ""
    return best, f"within {duration(budget)}: {_called(best)}, the deepest that fits, in {duration(best.first)}{late}"


def _preference(row: PlanRow) -> tuple[int, bool, int]:
    return row.depth, row.precision == "fp32", -row.views


def _called(row: PlanRow) -> str:
    words = [
        row.name,
        *(["int8"] if row.precision == "int8" else []),
        *([f"{row.views} views"] if row.views > 1 else []),
    ]
    return " ".join(words)


# --- the pictures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    """What can be said of a folder without reading its pictures."""

    class_names: tuple[str, ...]
    files: list[Path]
    train: int
    held_out: int
    has_test: bool = False

    @classmethod
    def read(cls, root: Path, recipe: Recipe) -> _Folder:
        layout = read_layout(root)
        entries = [entry for entry in layout.entries if not entry.ignored and entry.split in ("", "train", "val")]
        names = tuple(layout.classes.get("train") or layout.classes.get("") or next(iter(layout.classes.values()), []))
        if len(names) < 2 or len(entries) < 2:
            raise DataError(
                f"expected pictures of at least two classes in {root}, each in a folder of its own; got "
                f"{len(entries)} pictures of {len(names)} classes"
            )
        held_out = sum(entry.split == "val" for entry in entries)
        if not held_out:
            held_out = min(max(round(len(entries) * recipe.validation), len(names)), len(entries) - 1)
        has_test = any(entry.split == "test" and not entry.ignored for entry in layout.entries)
        return cls(names, [entry.file for entry in entries], len(entries) - held_out, held_out, has_test)

    def is_folded(self) -> bool:
        """Whether a training takes repeated folds in the end."""
        from greffon.training.first_pass import MOST_FOLDED

        return not self.has_test and self.train + self.held_out <= MOST_FOLDED

    def sample(self, count: int) -> list[Path]:
        """Some of the files, from all over the folder."""
        step = max(1, len(self.files) // count)
        return self.files[::step][:count]


# --- the rows -------------------------------------------------------------------------------------------------------


def _rows(anatomy: Anatomy, recipe: Recipe, folder: _Folder, times: Measured) -> tuple[list[PlanRow], list[str]]:
    """Every plan in every precision and number of views that make sense for it."""
    rows = []
    for name, rule, facts in _plans(anatomy, recipe):
        for precision in ("fp32", "int8"):
            if precision == "int8" and (times.int8 is None or not facts[-1].has_trunk):
                continue
            for views in _views(recipe, facts):
                rows.append(_row(name, rule, facts, recipe, folder, times, precision=precision, views=views))
    left_out = [f"int8 is left out: {times.why_no_int8}"] if times.int8 is None else []
    return rows, left_out


def _plans(anatomy: Anatomy, recipe: Recipe) -> Iterator[tuple[str, Unfreeze, list[StageFacts]]]:
    from greffon.training.segments import with_last_stage

    seen = []
    for segment in reversed(SEGMENTS):
        rule = anatomy.rule(segment)
        facts = anatomy.facts(with_last_stage(recipe, rule))
        seen.append(facts[-1].tail)
        yield _NAMES[segment], rule, facts
    own = anatomy.facts(recipe)
    if own[-1].tail not in seen:
        yield "recipe", recipe.stages[-1].unfreeze, own


def _views(recipe: Recipe, facts: Sequence[StageFacts]) -> tuple[int, ...]:
    if not facts[-1].has_trunk:
        return (1,)  # decoded and computed anew in every epoch, whatever the view
    if recipe.views > 1:
        return (1, recipe.views)
    return (1, 2 if recipe.augment == "flip" else _MORE_VIEWS)


def _row(
    name: str, rule: Unfreeze, facts: Sequence[StageFacts], recipe: Recipe, folder: _Folder, times: Measured, *,
    precision: str, views: int,
) -> PlanRow:  # fmt: skip
    from greffon.frozen.activations import fits_memory

    work = Workload(
        folder.train, folder.held_out, views, 3 * recipe.image_size**2, fits_memory,
        pools=tuple(times.solve), copies=recipe.near_copies == "together", folds=folder.is_folded(),
    )  # fmt: skip
    costs = estimate(facts, work, times, int8=precision == "int8")
    return PlanRow(
        name=name,
        precision=precision,
        views=views,
        first=costs.first,
        slowest=costs.slowest,
        rerun=costs.rerun,
        memory=costs.memory,
        disk=costs.disk,
        flags=_flags(rule, recipe, precision, views),
        measured=costs.measured,
        parts=dict(costs.parts),
        note="" if costs.disk <= _free() else "its activations do not fit on the disk",
    )


def _flags(rule: Unfreeze, recipe: Recipe, precision: str, views: int) -> str:
    rules = rule if isinstance(rule, tuple) else (rule,)
    flags = [] if rule == recipe.stages[-1].unfreeze else [f"--unfreeze {','.join(map(str, rules))}"]
    flags += [] if precision == recipe.precision else [f"--precision {precision}"]
    flags += [] if views == recipe.views else [f"--views {views}"]
    return " ".join(flags)


def _free() -> int:
    place = cache_dir()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
