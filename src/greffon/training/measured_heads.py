"""Seconds of what is made of pooled features: solved heads, and the search for near-copies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.backbone.blocks import EACH_BLOCK, block_maps
from greffon.backbone.parts import split_parts
from greffon.errors import DataError
from greffon.evaluation.folds import REPEATS, folds
from greffon.evaluation.probe import solve
from greffon.pictures.decode import decode
from greffon.pictures.near import THUMBNAIL, near_duplicates
from greffon.training.estimate import SolveTimes
from greffon.training.pooling import compared_pools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import keras

    from greffon.recipe import Recipe
    from greffon.training.clock import Clock

    Array = np.ndarray[Any, Any]

# Pictures that a head is solved on at most; what more of them cost is scaled.
_MOST = 600


def measure_solving(
    model: keras.Model, recipe: Recipe, features: Array, pictures: tuple[int, int], clock: Clock, *,
    with_folds: bool = False,
) -> dict[str, SolveTimes]:  # fmt: skip
    """Solve a head on made-up pictures of the network's own features, once for each pooling.

    Args:
        model: grafted.
        recipe: of the training.
        features: of a few pictures, float32 (rows, d).
        pictures: how many there are to learn from and held out.
        clock: what it does not allow is scaled from the first.
        with_folds: whether repeated folds will be taken, too.
    """
    classes, several = int(model.output_shape[-1]), recipe.head.output == "sigmoid"
    count = min(max(pictures[0], 2 * classes), _MOST)
    found: dict[str, SolveTimes] = {}
    for pool in compared_pools(model, recipe, sum(pictures)):
        width = _width(pool, model)
        first = next(iter(found.values()), None)
        if first is None or clock.allows(2 * first.seconds):
            values, targets = _made_up(features, (count, width, classes))
            start = time.perf_counter()
            solve(values, targets, several_labels=several)
            seconds, folded = time.perf_counter() - start, 0.0
            if with_folds and (first is None or clock.allows(2 * seconds)):
                folded = _seconds_of_folds(values, targets, several=several)
            elif with_folds and first is not None:
                folded = first.folds * seconds / max(1e-9, first.seconds)
        else:
            larger = min(count, width) / min(count, first.features)
            seconds, folded = first.seconds * larger, first.folds * larger
        found[pool] = SolveTimes(count, width, seconds, folded)
    return found


def _width(pool: str, model: keras.Model) -> int:
    """How many numbers a pooling makes of a picture."""
    maps = block_maps(split_parts(model).backbone[-1].output) if pool in EACH_BLOCK else None
    channels = (
        sum(int(tensor.shape[-1]) for tensor in maps.values())
        if maps
        else int(split_parts(model).backbone[-1].output.shape[-1])
    )
    kind = EACH_BLOCK.get(pool, pool)
    return channels * (int(kind[-1]) ** 2 if kind.startswith("grid") else 1)


def _made_up(features: Array, sizes: tuple[int, int, int]) -> tuple[Array, Array]:
    """Pictures that lie about as far from their class's others as the pictures lie from one another; and targets."""
    pictures, count, classes = sizes
    random = np.random.default_rng(0)
    known = np.resize(features, (len(features), count)) if features.shape[1] != count else features
    labels = np.arange(pictures) % classes
    noise = random.normal(scale=known.std(axis=0) + 1e-6, size=(pictures, count))
    return (known[labels % len(known)] + noise).astype(np.float32), np.eye(classes)[labels]


def _seconds_of_folds(values: Array, targets: Array, *, several: bool) -> float:
    """Of all repeats: of the first one, with what is made once, and of one that takes as long as the second."""
    marks = [time.perf_counter()]
    folds(values, targets, repeats=2, several_labels=several, advance=lambda _: marks.append(time.perf_counter()))
    return marks[1] - marks[0] + (REPEATS - 1) * (marks[2] - marks[1])


def measure_copies(files: Sequence[Path], features: Array, clock: Clock) -> float:
    """Seconds per picture of the search for near-copies, on some of the pictures."""
    readable = [file for file in files if _thumbnail(file) is not None][: len(features)]
    if len(readable) < 2:
        return 0.0

    def search() -> None:
        near_duplicates(features[: len(readable)], lambda row: _grey(readable[row]))

    return clock.repeat(search, share=0.05, most=2) / len(readable)


def _grey(file: Path) -> Array:
    from PIL import Image

    return np.asarray(Image.fromarray(decode(file, THUMBNAIL, "stretch")).convert("L"))


def _thumbnail(file: Path) -> Array | None:
    try:
        return _grey(file)
    except DataError:
        return None
