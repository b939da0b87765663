"""What a second run costs: another head on the same pictures, and 5 % more pictures, each against its own first run.

`greffon train` on 2,000 JPEG files, head only, in one process that has imported TensorFlow; beside it the second run
as a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fit import fresh_cache
from made_up import write_folder
from rows import Row

PICTURES, MORE, SIDE = 2000, 100, 224


def measure(options):
    """First run, second run with another head, run on more pictures; each round with nothing stored."""
    rounds = [_one_round(options) for _ in range(options.rounds)]
    first, second, more, process = zip(*rounds, strict=True)
    count, added = (40, 2) if options.smoke else (PICTURES, MORE)
    weights = "thin, 64 pixels" if options.smoke else "full width, 224 pixels"
    return [
        Row(
            name="rerun/other-head",
            what=f"second run, other head, {count} pictures ({weights})",
            other=f"{statistics.median(first):.1f} s, its own first run",
            ours=f"{statistics.median(second):.1f} s",
            ratios=[a / b for a, b in zip(first, second, strict=True)],
            target=8,
            note=f"as a process of its own, imports included: {statistics.median(process):.1f} s",
            table="reuse",
        ),
        Row(
            name="rerun/more-pictures",
            what=f"{added} more pictures, on {count}",
            other=f"{statistics.median(first):.1f} s, its own first run",
            ours=f"{statistics.median(more):.1f} s",
            ratios=[a / b for a, b in zip(first, more, strict=True)],
            target=7,
            table="reuse",
        ),
    ]


def _one_round(options):
    count, added = (40, 2) if options.smoke else (PICTURES, MORE)
    with tempfile.TemporaryDirectory(prefix="greffon-bench-") as place, fresh_cache():
        data = write_folder(Path(place) / "data", count, 256)
        first = _train(data, Path(place) / "first", options)
        second = _train(data, Path(place) / "second", options, hidden=64)
        process = _as_process(data, Path(place) / "third", options)
        write_folder(data, added, 256, first=count)
        return first, second, _train(data, Path(place) / "more", options), process


def recipe(options, *, hidden=0, epochs=10, unfreeze="none"):
    """Head only on a network whose weights need no download; what they are does not change the time."""
    import greffon

    stage = greffon.Stage(epochs=2 if options.smoke else epochs, patience=None, unfreeze=unfreeze)
    size = {"weights": "thin", "image_size": 64} if options.smoke else {"weights": "none", "image_size": SIDE}
    return greffon.Recipe(**size, stages=(stage,), head=greffon.Head(hidden=hidden))


def _train(data, out, options, **changes):
    import greffon
    from greffon.training.progress import Reporter

    start = time.perf_counter()
    greffon.train(data, out=out, recipe=recipe(options, **changes), reporter=Reporter())
    return time.perf_counter() - start


def _as_process(data, out, options):
    file = Path(out.parent) / "recipe.yaml"
    file.write_text(recipe(options, hidden=32).to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "greffon", "train", str(data), "-o", str(out), "--recipe", str(file)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start
