"""`greffon.plan` against real runs: what it says of head, last block and conv5, and what they take.

The ratio is the planned time over the real one; it should be between 0.75 and 1.25.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from fit import HELD_OUT, TRAIN, fresh_cache
from made_up import write_folder
from rerun import recipe
from rows import Row

WITHIN = 0.25
PLANS = ("head", "last-block", "conv5")


def measure(options):
    """Plan, then train each of its rows with nothing stored; half as many rounds as elsewhere, it is long."""
    planned, real = {name: [] for name in PLANS}, {name: [] for name in PLANS}
    count = 40 if options.smoke else TRAIN + HELD_OUT
    with tempfile.TemporaryDirectory(prefix="greffon-bench-") as place:
        data = options.data or write_folder(Path(place) / "data", count, 256)
        for number in range(max(1, options.rounds // 2)):
            found = _plan(data, options)
            for name in PLANS:
                planned[name].append(found[name].first)
                real[name].append(_train(data, Path(place) / f"{name}{number}", options, name))
    return [_row(name, planned[name], real[name], count) for name in PLANS]


def _row(name, planned, real, count):
    ratios = [a / b for a, b in zip(planned, real, strict=True)]
    off = max(abs(ratio - 1.0) for ratio in ratios)
    return Row(
        name=f"plan/{name}",
        what=f"{name}, 10 epochs, {count} pictures",
        other=f"{statistics.median(real):.1f} s, the real run",
        ours=f"{statistics.median(planned):.1f} s, planned",
        ratios=ratios,
        note=f"off by {off:.0%} at most" + ("" if off <= WITHIN else f", more than the {WITHIN:.0%} that is promised"),
        table="plan",
    )


def _plan(data, options):
    from greffon.training.plan import plan
    from greffon.training.progress import Reporter

    with fresh_cache():
        found = plan(data, recipe=recipe(options), seconds=2 if options.smoke else 20, reporter=Reporter())
    return {row.name: row for row in found.rows if (row.precision, row.views) == ("fp32", 1)}


def _train(data, out, options, name):
    import greffon
    from greffon.training.progress import Reporter

    unfreeze = {"head": "none", "last-block": "conv5_block3", "conv5": "conv5"}[name]
    with fresh_cache():
        start = time.perf_counter()
        greffon.train(data, out=out, recipe=recipe(options, unfreeze=unfreeze), reporter=Reporter())
        return time.perf_counter() - start
