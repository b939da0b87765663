"""The tables of docs/recipes.md, from what benchmarks/recipes.py measured."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
PLAIN = ": plain"
BEGIN, END = "<!-- measured -->", "<!-- end measured -->"
NAMES = {
    "photos": "photographs of 4 kinds, about 140 to learn from",
    "fashion10": "Fashion-MNIST, 10 per class",
    "fashion60": "Fashion-MNIST, 60 per class",
    "fashion200": "Fashion-MNIST, 200 per class",
}
_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Half the width of a 95 % interval of a mean, in standard errors, by how many seeds it is of (Student's t)."""


def write_tables(results, page=PAGE):
    """Put the tables into the page, between its two marks."""
    by_set = defaultdict(lambda: defaultdict(dict))
    for key, values in results.items():
        name, side, seed = key.split("/")
        by_set[name][side][int(seed)] = values
    lines = []
    for name in NAMES:
        if name in by_set:
            lines += ["", f"### {NAMES[name][0].upper()}{NAMES[name][1:]}", "", *_table(by_set[name])]
    lines += ["", "### Against the others, on the same pictures", "", *_compared(by_set)]
    lines += ["", "### Good practice, each option alone", "", *_practice(by_set)]
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{chr(10).join(lines)}\n\n{END}{tail}", encoding="utf-8")


def _table(sides):
    """One line for each side: the mean over the seeds and half of its 95 % interval."""
    yield "| side | seeds | accuracy | to the default | log loss | ECE, uncalibrated | ECE |"
    yield "|---|---|---|---|---|---|---|"
    order = [side for side in ("default", "logistic", "tutorial", "probe") if side in sides]
    order += sorted(side for side in sides if side not in order and ": " not in side)
    for side in order:
        values = sides[side]
        points = _paired(values, sides.get("default", {}), "accuracy", 100)
        ece = _mean([each["before"]["ece"] for each in values.values() if "before" in each], 3)
        yield (
            f"| {side} | {len(values)} | {_mean(_all(values, 'accuracy'), 3)} | {points if side != 'default' else ''} "
            f"| {_mean(_all(values, 'log_loss'), 3)} | {ece} | {_mean(_all(values, 'ece'), 3)} |"
        )


def _compared(by_set):
    yield "| pictures | default less logistic, points | default less tutorial, points | log loss, calibrated less not |"
    yield "|---|---|---|---|"
    for name, said in NAMES.items():
        sides = by_set.get(name)
        if not sides or "default" not in sides:
            continue
        default = sides["default"]
        changes = [each["log_loss"] - each["before"]["log_loss"] for each in default.values()]
        yield (
            f"| {said} | {_paired(default, sides.get('logistic', {}), 'accuracy', 100)} "
            f"| {_paired(default, sides.get('tutorial', {}), 'accuracy', 100)} | {_mean(changes, 4)} |"
        )


def _practice(by_set):
    """What each option changes against the same stage without it: accuracy in points, and log loss."""
    sets = [name for name in NAMES if any(side.endswith(PLAIN) for side in by_set.get(name, {}))]
    yield "| unfrozen | option | " + " | ".join(f"{NAMES[name]}: accuracy, log loss" for name in sets) + " |"
    yield "|---|---|" + "---|" * len(sets)
    sides = dict.fromkeys(side for name in sets for side in by_set[name] if ": " in side)
    # The plain stage in front of its options.
    for side in sorted(sides, key=lambda side: (side.split(": ")[0], not side.endswith(PLAIN), side)):
        base, option = side.split(": ", 1)
        cells = [_practice_cell(by_set[name], base, side) for name in sets]
        if any(cells):
            yield f"| {base} | {'none' if side.endswith(PLAIN) else f'`{option}`'} | " + " | ".join(cells) + " |"


def _practice_cell(sides, base, side):
    values, plain = sides.get(side), sides.get(base + PLAIN)
    if not values or not plain:
        return ""
    if side == base + PLAIN:
        return f"{_mean(_all(values, 'accuracy'), 3)}, {_mean(_all(values, 'log_loss'), 3)}; {_seeds(len(values))}"
    seeds = len(set(values) & set(plain))
    if seeds < 2:
        return ""
    loss = _paired(values, plain, "log_loss", 1, digits=3)
    return f"{_paired(values, plain, 'accuracy', 100)}, {loss}; {_seeds(seeds)}"


def _seeds(count):
    return "1 seed" if count == 1 else f"{count} seeds"


def _all(values, name):
    return [values[seed][name] for seed in sorted(values)]


def _mean(numbers, digits):
    if not numbers:
        return ""
    mean = np.mean(numbers)
    if len(numbers) < 2:
        return f"{mean:.{digits}f}"
    half = _T.get(len(numbers), 2.0) * np.std(numbers, ddof=1) / np.sqrt(len(numbers))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def _paired(values, others, name, factor, digits=1):
    """The mean difference on the seeds that both have, and its standard error."""
    seeds = sorted(set(values) & set(others))
    if len(seeds) < 2:
        return ""
    change = factor * np.array([values[seed][name] - others[seed][name] for seed in seeds])
    return f"{change.mean():+.{digits}f} ± {change.std(ddof=1) / np.sqrt(len(change)):.{digits}f}"
