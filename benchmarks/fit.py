"""`greffon.fit` against `model.fit`: the same network, pictures, epochs, batch and precision, in turn in one process.

The frozen part is computed anew each time (a fresh cache folder), and compiling and tracing are counted. `model.fit`
is timed over one and two epochs and extended to all, since its epochs cost the same.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass

import numpy as np

TRAIN, HELD_OUT, SIDE, CLASSES, BATCH = 265, 66, 224, 10, 32


@dataclass(frozen=True)
class Row:
    """One comparison: what is unfrozen, for how many epochs."""

    name: str
    unfreeze: str | int
    epochs: int


ROWS = (
    Row("head-only", "none", 10),
    Row("head-only-30", "none", 30),
    Row("last-10", 10, 10),
    Row("conv5", "conv5", 10),
)


def pictures():
    """Coloured noise with a bright square whose place is the class: learnable, and no two alike."""
    random = np.random.default_rng(0)
    count = TRAIN + HELD_OUT
    labels = random.integers(0, CLASSES, count)
    x = random.integers(0, 160, (count, SIDE, SIDE, 3), dtype=np.uint8)
    for picture, label in zip(x, labels, strict=True):
        row, column = divmod(int(label), 4)
        picture[row * 70 : row * 70 + 50, column * 55 : column * 55 + 50] += 90
    y = np.eye(CLASSES, dtype="float32")[labels]
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def build(unfreeze):
    """A full-width ResNet-50 with random weights: what they are does not change the time."""
    import keras

    import greffon

    keras.utils.set_random_seed(0)
    model = greffon.graft(greffon.resnet50(weights=None), CLASSES, preprocessing="caffe")
    greffon.freeze(model, unfreeze)
    model.compile(keras.optimizers.Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return model


def seconds(train, row, epochs, data, validation):
    """Time one training from a compiled model to its history."""
    import keras

    model = build(row.unfreeze)
    keras.utils.set_random_seed(1)
    start = time.perf_counter()
    history = train(model, *data, epochs=epochs, batch_size=BATCH, validation_data=validation, verbose=0)
    return time.perf_counter() - start, history


def measure(row, rounds=2):
    """Ratios of the two sides, and what they took."""
    import greffon

    data, validation = pictures()
    ratios, keras_side, ours = [], [], []
    for _ in range(rounds):
        one, _ = seconds(lambda model, *a, **k: model.fit(*a, **k), row, 1, data, validation)
        two, _ = seconds(lambda model, *a, **k: model.fit(*a, **k), row, 2, data, validation)
        whole = one + (row.epochs - 1) * (two - one)
        with tempfile.TemporaryDirectory() as cache:
            os.environ["GREFFON_CACHE"] = cache
            greffon_side, history = seconds(greffon.fit, row, row.epochs, data, validation)
        if history.greffon.computed != TRAIN + HELD_OUT:
            raise RuntimeError(f"expected each picture to be computed once, got {history.greffon}")
        ratios.append(whole / greffon_side)
        keras_side.append(whole)
        ours.append(greffon_side)
    return (
        f"| {row.name}, {row.epochs} epochs | {statistics.median(ratios):.1f} | {min(ratios):.1f} to {max(ratios):.1f} "
        f"| {statistics.median(keras_side):.0f} s (extended from 2 epochs) | {statistics.median(ours):.1f} s |"
    )
