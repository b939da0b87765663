"""`greffon.plan`: what each way to train would take on this machine and these pictures, before any of it runs."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import DataError, InputError
from greffon.pictures.layout import read_layout
from greffon.recipe import Recipe
from greffon.training.estimate import SEGMENTS, Measured, Workload, estimate
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.start import build_model, find_start
from greffon.training.ways import Plan, PlanRow, choose
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from greffon.recipe import ResizeRule, Unfreeze
    from greffon.training.estimate import StageFacts
    from greffon.training.segments import Anatomy

MEASURING = 20.0
"""Seconds of measuring."""

_NAMES = {segment: "all" if segment == "early" else segment for segment in SEGMENTS}
_MORE_VIEWS = 4
_DURATION = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)\s*h(?:ours?)?)?\s*(?:(?P<m>\d+(?:\.\d+)?)\s*m(?:in(?:utes?)?)?)?\s*"
    r"(?:(?P<s>\d+(?:\.\d+)?)\s*s(?:ec(?:onds?)?)?)?"
)


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
    flags = [] if rule == recipe.stages[-1].unfreeze else [f"--unfreeze {shlex.quote(','.join(map(str, rules)))}"]
    flags += [] if precision == recipe.precision else [f"--precision {precision}"]
    flags += [] if views == recipe.views else [f"--views {views}"]
    return " ".join(flags)


def _free() -> int:
    place = cache_dir()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
