"""The default recipe, from files to a finished run, against the tutorial's recipe with `model.fit`.

Both have 60 and 200 pictures of each of ten classes, a fifth of them held out, weights `thin`, 224 pixels. The other
side has its pictures decoded already, and two of its ten epochs are timed over the smaller set and extended: its epochs
cost the same, and twice as much for twice the pictures. Ours begins with files and nothing stored, and ends with a
bundle that is written, judged and calibrated. What both are worth is in docs/recipes.md.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import recipes
from fit import fresh_cache
from made_up import write_folder
from rows import Row

SMALL, LARGE, CLASSES, EPOCHS = 60, 200, 10, 10
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
    extended = "" if count == timed else f" of {timed} pictures a class"
    return Row(
        name=f"whole/{name}-{count}",
        what=f"{said}, {count} pictures a class, from files to a finished run",
        other=f"{statistics.median(other):.0f} s, the tutorial's `model.fit`, extended from 2 epochs{extended}",
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


def _side(options):
    return 64 if options.smoke else 224


def _tutorial(folder, count, options):
    """Seconds of ten epochs of `model.fit` on decoded pictures, a fifth of them held out, extended from two."""
    import keras

    from greffon.pictures.decode import decode_many
    from greffon.recipe import RECIPES

    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = sorted({file.parent.name for file in files})
    order = np.random.default_rng(0).permutation(len(files))
    decoded = dict(decode_many([files[place] for place in order], _side(options), RECIPES["tutorial"].resize))
    x = np.stack([decoded[place] for place in range(len(files))])
    y = np.eye(len(names), dtype="float32")[[names.index(files[place].parent.name) for place in order]]
    model = _tutorial_model(len(names), options)
    held_out, ends = len(x) // 5, []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    start = time.perf_counter()
    model.fit(
        x[held_out:], y[held_out:], validation_data=(x[:held_out], y[:held_out]),
        epochs=2, batch_size=32, verbose=0, callbacks=[watch],
    )  # fmt: skip
    return ends[-1] - start + (EPOCHS - 2) * (ends[1] - ends[0])


def _tutorial_model(classes, options):
    import keras

    import greffon
    from greffon.recipe import RECIPES

    made = RECIPES["tutorial"]
    backbone = greffon.resnet50("thin", input_shape=(_side(options), _side(options), 3))
    model = greffon.graft(backbone, classes, made.head)
    stage = made.stages[0]
    greffon.freeze(model, stage.unfreeze, batch_norm=stage.batch_norm)
    model.compile(keras.optimizers.Adam(stage.learning_rate), "categorical_crossentropy", metrics=["accuracy"])
    return model


def _ours(folder, out, name, options):
    """Seconds of a whole training with nothing stored."""
    import greffon
    from greffon.training.progress import Reporter

    recipe = greffon.Recipe(weights="thin", image_size=_side(options))
    if name == "probe":
        recipe = recipe.replace(stages=recipe.stages[:1])
    with fresh_cache():
        start = time.perf_counter()
        greffon.train(folder, out=out, recipe=recipe, reporter=Reporter())
        return time.perf_counter() - start
