"""The default recipe, from files to a finished run, against the tutorial's recipe with `model.fit`.

Both have 60 and 200 pictures of each of ten classes, a fifth of them held out, weights `thin`, 224 pixels. The other
side has its pictures decoded already and runs over the smaller set, in full; on the larger one it is taken to need as
many times more as there are more pictures. Ours begins with files and nothing stored, and ends with a
bundle that is written, judged and calibrated. What both are worth is in docs/recipes.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import recipes
from fit import SIDE, Case, Comparison, compiled, fresh_cache
from made_up import write_folder
from rows import Row

SMALL, LARGE, CLASSES = 60, 200, 10
PROBE_TARGET, DEFAULT_TARGET = 10, 2


def measure(options):
    """Probe and default recipe; half as many rounds as elsewhere, it is long."""
    small, large = (4, 8) if options.smoke else (SMALL, LARGE)
    with tempfile.TemporaryDirectory(prefix="greffon-bench-") as place:
        folders = {count: _pictures(Path(place), count, options) for count in (small, large)}
        other, seconds = [], {case: [] for case in ((small, "default"), (large, "default"), (large, "probe"))}
        for number in range(max(1, options.rounds // 2)):
            other.append(_tutorial(folders[small], small, options))
            for (count, name), measured in seconds.items():
                out = Path(place) / f"{name}-{count}-{number}"
                measured.append(_ours(folders[count], out, name, options))
    return [
        _row(name, count, [each * count / small for each in other], measured, small)
        for (count, name), measured in seconds.items()
    ]


def _row(name, count, other, ours, timed):
    said = "the default recipe" if name == "default" else "the default's probe alone"
    extended = "in full" if count == timed else f"from the {timed} pictures a class that it was timed with"
    return Row(
        name=f"whole/{name}-{count}",
        what=f"{said}, {count} pictures a class, from files to a finished run",
        other=f"{statistics.median(other):.0f} s, the tutorial's `model.fit`, {extended}",
        ours=f"{statistics.median(ours):.1f} s",
        ratios=[theirs / mine for theirs, mine in zip(other, ours, strict=True)],
        target=DEFAULT_TARGET if name == "default" else PROBE_TARGET,
    )


def _pictures(place, count, options):
    """A folder of Fashion-MNIST where this machine has it, else of generated pictures; or the folder that is given."""
    if options.data is not None:
        return options.data
    if recipes.FASHION.exists() and not options.smoke:
        return recipes.drawn(f"fashion{count}", 0, place, photos=None, fashion=recipes.FASHION).folder
    return write_folder(place / f"made-{count}", count * CLASSES, 64, classes=CLASSES)


def _tutorial(folder, count, options):
    """Seconds of ten epochs of `model.fit` on decoded pictures, a fifth of them held out."""
    pictures = count * CLASSES
    case = Case("whole", "the tutorial", _tutorial_model, pictures=(pictures - pictures // 5, pictures // 5))
    _, seconds, _ = Comparison(case, dataclasses.replace(options, data=folder)).other(whole=True)
    return seconds


def _tutorial_model(options, classes, side):
    import greffon
    from greffon.recipe import RECIPES

    made = RECIPES["tutorial"]
    (stage,) = made.stages
    model = greffon.graft(greffon.resnet50("thin", input_shape=(side, side, 3)), classes, made.head)
    greffon.freeze(model, stage.unfreeze, batch_norm=stage.batch_norm)
    return compiled(model)


def _ours(folder, out, name, options):
    """Seconds of a whole training with nothing stored."""
    import greffon
    from greffon.training.progress import Reporter

    recipe = greffon.Recipe(weights="thin", image_size=64 if options.smoke else SIDE)
    if name == "probe":
        recipe = recipe.replace(stages=recipe.stages[:1])
    with fresh_cache():
        start = time.perf_counter()
        greffon.train(folder, out=out, recipe=recipe, reporter=Reporter())
        return time.perf_counter() - start
