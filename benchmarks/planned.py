"""`greffon.plan` against real runs: what it says of head, last block and conv5, and of the default recipe, and what
they take.

The ratio is the planned time over the real one; it should be between 0.75 and 1.25. Where steps are of two kinds a plan
says a range: whether the real run lay in it is noted.
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
PLANS = ("head", "last-block", "conv5", "default")


def measure(options):
    """Plan, then train each of its rows with nothing stored; half as many rounds as elsewhere, it is long."""
    planned, real = {name: [] for name in PLANS}, {name: [] for name in PLANS}
    count = 40 if options.smoke else TRAIN + HELD_OUT
    with tempfile.TemporaryDirectory(prefix="greffon-bench-") as place:
        data = options.data or write_folder(Path(place) / "data", count, 256)
        for number in range(max(1, options.rounds // 2)):
            found = _plan(data, options)
            for name in PLANS:
                planned[name].append(found[name])
                real[name].append(_train(data, Path(place) / f"{name}{number}", options, name))
    return [_row(name, planned[name], real[name], count) for name in PLANS]


def _row(name, planned, real, count):
    ratios = [row.first / seconds for row, seconds in zip(planned, real, strict=True)]
    inside = sum(
        (1 - WITHIN) * row.first <= seconds <= (1 + WITHIN) * row.slowest
        for row, seconds in zip(planned, real, strict=True)
    )
    spans = "; ".join(row.lasts for row in planned)
    text = f"planned {spans}; real runs inside, 25% allowed at both ends: {inside} of {len(real)}"
    off = max(abs(ratio - 1.0) for ratio in ratios)
    return Row(
        name=f"plan/{name}",
        what=f"{name if name != 'default' else 'the default recipe: solved head, last block'}, {count} pictures",
        other=f"{statistics.median(real):.1f} s, the real run",
        ours=f"{statistics.median(row.first for row in planned):.1f} s, planned",
        ratios=ratios,
        note=f"off by {off:.0%} at most"
        + ("" if off <= WITHIN else f", more than the {WITHIN:.0%} that is promised")
        + f"; {text}",
        table="plan",
    )


def _plan(data, options):
    from greffon.training.plan import plan
    from greffon.training.progress import Reporter

    found = {}
    for made in (recipe(options), _default(options)):
        with fresh_cache():
            rows = plan(data, recipe=made, seconds=2 if options.smoke else 20, reporter=Reporter()).rows
        plain = {row.name: row for row in rows if (row.precision, row.views) == ("fp32", 1)}
        found = plain | found | {"default": plain["last-block"]}
    return found


def _default(options):
    """The default recipe on weights that need no download; its last stage always to its end, as a plan takes it."""
    import greffon

    made = recipe(options)
    stages = [stage.replace(patience=None) for stage in greffon.Recipe().stages]
    return greffon.Recipe(weights=made.weights, image_size=made.image_size, stages=stages)


def _train(data, out, options, name):
    import greffon
    from greffon.training.progress import Reporter

    if name == "default":
        made = _default(options)
    else:
        made = recipe(options, unfreeze={"head": "none", "last-block": "conv5_block3", "conv5": "conv5"}[name])
    with fresh_cache():
        start = time.perf_counter()
        greffon.train(data, out=out, recipe=made, reporter=Reporter())
        return time.perf_counter() - start
