"""The final check: what the search found against what it started from, on pictures that it has not seen."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError
from greffon.pictures.split import write_split
from greffon.searching.held_out import split_again
from greffon.training.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from greffon.evaluation.measures import Measures
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.sources.columns import Columns
    from greffon.recipe import Recipe

    Array = np.ndarray[Any, Any]

SURE = 0.95
"""Confidence of the intervals of differences."""

_RESAMPLES = 2000


@dataclass(frozen=True)
class FinalCheck:
    """Both recipes, trained anew on all pictures but the unseen ones, and measured on these.

    Attributes:
        pictures: unseen ones that were named.
        best: what the search's best recipe came to.
        default: what the recipe came to that the search started from; None where the search found none better.
        loss_change: mean of log loss of the best minus the default's, picture by picture; below 0 is better.
        loss_interval: 95 % bootstrap interval of it.
        accuracy_change: likewise of accuracy; above 0 is better.
        accuracy_interval: likewise.
        verdict: `better`, `worse`, `not shown` or `same recipe`.
    """

    pictures: int
    best: Measures
    default: Measures | None
    loss_change: float | None
    loss_interval: tuple[float, float] | None
    accuracy_change: float | None
    accuracy_interval: tuple[float, float] | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "pictures": self.pictures,
            "verdict": self.verdict,
            "best": _short(self.best),
            "default": _short(self.default) if self.default else None,
            "loss_change": self.loss_change,
            "loss_interval": self.loss_interval,
            "accuracy_change": self.accuracy_change,
            "accuracy_interval": self.accuracy_interval,
        }

    def sentence(self) -> str:
        """What to make of it."""
        if self.verdict == "same recipe":
            return (
                "No trial did better on the validation pictures than the recipe that the search started from: take "
                "that one."
            )
        if self.loss_interval is None or self.accuracy_interval is None:
            return ""
        low, high = self.accuracy_interval
        numbers = (
            f"log loss {self.loss_change:+.4f} ({self.loss_interval[0]:+.4f} to {self.loss_interval[1]:+.4f}), "
            f"accuracy {self.accuracy_change:+.3f} ({low:+.3f} to {high:+.3f}), "
            f"on {self.pictures:,} pictures that the search has not seen"
        )
        return {
            "better": f"The search beat the recipe that it started from: {numbers}.",
            "worse": "The search did NOT beat the recipe that it started from; on unseen pictures its best is worse: "
            f"{numbers}. Take the recipe that it started from.",
            "not shown": "It is not shown that the search beat the recipe that it started from: the interval of the "
            f"difference holds 0. Its best against that recipe: {numbers}.",
        }[self.verdict]


@dataclass(frozen=True)
class Trainable:
    """What the final check trains on: the data as the user gave it, its three sides, what the weights know of it."""

    data: Any
    columns: Columns | None
    catalog: Catalog
    together: list[list[str]]
    validation: float
    seed: int
    given_validation: bool
    known: Mapping[str, str] = field(default_factory=dict)


def final_check(
    best: Recipe, default: Recipe, trainable: Trainable, *, folder: Path, reporter: Reporter
) -> tuple[FinalCheck, pl.DataFrame]:
    """Train both, the best one into `folder/run`, and measure both on the unseen pictures.

    Both learn from what was on the sides train and val of the search, of which a new share is held out to stop by; a
    val/ that the user gave stays as it is.

    Args:
        best: of the search.
        default: what it started from; equal to `best` where nothing was better.
        trainable: the pictures.
        folder: of the study; the split is written there, too.
        reporter: told what happens.

    Returns:
        The check, and a table of the answers: path, hash, label, and both probabilities for each class.
    """
    catalog = trainable.catalog
    if not trainable.given_validation:
        catalog = split_again(
            catalog, validation=trainable.validation, seed=trainable.seed + 1, together=trainable.together,
            known=trainable.known,
        )  # fmt: skip
    write_split(catalog, folder / "run-split.parquet")
    tables = {"best": _trained(best, trainable, catalog, folder / "run", folder, reporter)}
    if best != default:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".default-") as place:
            tables["default"] = _trained(default, trainable, catalog, Path(place) / "run", folder, reporter)
    return _compared(tables, seed=trainable.seed), _beside(tables)


def _trained(
    recipe: Recipe, trainable: Trainable, catalog: Catalog, out: Path, folder: Path, reporter: Reporter
) -> pl.DataFrame:
    """Train one, and let it name the unseen pictures: a table of predictions."""
    from greffon.bundle.predict import load
    from greffon.evaluation.answers import name_pictures
    from greffon.evaluation.table import prediction_table
    from greffon.training.train import train

    train(
        trainable.data, out=out, recipe=recipe, columns=trainable.columns, split=folder / "run-split.parquet",
        reporter=_Bars(reporter), overwrite=True, checkpoint_every=None,
    )  # fmt: skip
    rows = catalog.side("test")
    predictor = load(out)
    named = name_pictures(predictor, catalog.locators(rows))
    good = np.array([error is None for error in named.errors])
    if not good.any():
        raise DataError("none of the unseen pictures can be read any more")
    import polars as pl

    rows = rows.filter(pl.Series(good))
    several = predictor.bundle.several_labels
    labels: list[Any] = catalog.labels_of(rows) if several else rows["label"].to_list()
    return prediction_table(
        rows["path"].to_list(), rows["hash"].to_list(), labels, named.probabilities[good], predictor.class_names,
        several_labels=several,
    )  # fmt: skip


class _Bars(Reporter):
    """Shows how the frozen part goes on, and nothing else."""

    def __init__(self, outer: Reporter) -> None:
        self._outer = outer

    def bar(self, name: str, *, total: int | None, unit: str = "pictures") -> Any:
        """Of the frozen part alone."""
        return self._outer.bar(name, total=total, unit=unit) if total else super().bar(name, total=total, unit=unit)


def _compared(tables: dict[str, pl.DataFrame], *, seed: int) -> FinalCheck:
    from greffon.evaluation.intervals import percentile_interval, resampled_counts
    from greffon.evaluation.measures import answers_of, measure

    best = measure(tables["best"])
    if "default" not in tables:
        return FinalCheck(best.count, best, None, None, None, None, None, "same recipe")
    mine, theirs = answers_of(tables["best"]), answers_of(tables["default"])
    losses = np.asarray(mine.losses) - np.asarray(theirs.losses)
    right = np.asarray(mine.correct, float) - np.asarray(theirs.correct, float)
    count = len(losses)
    means: list[Array] = []
    for drawn in resampled_counts(count, _RESAMPLES, seed):
        means.append(drawn @ np.stack([losses, right], axis=1) / count)
    resampled = np.concatenate(means)
    intervals = [percentile_interval(resampled[:, column], level=SURE) or (-np.inf, np.inf) for column in (0, 1)]
    verdict = "better" if intervals[0][1] < 0 else "worse" if intervals[0][0] > 0 else "not shown"
    return FinalCheck(
        count, best, measure(tables["default"]), float(losses.mean()), intervals[0], float(right.mean()), intervals[1],
        verdict,
    )  # fmt: skip


def _beside(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row per unseen picture, with the probabilities of both."""
    import polars as pl

    parts = [
        table.with_columns(pl.lit(which).alias("recipe")).select("recipe", pl.exclude("recipe"))
        for which, table in tables.items()
    ]
    return pl.concat(parts)


def _short(measures: Measures) -> dict[str, Any]:
    return {
        "accuracy": measures.accuracy,
        "accuracy_interval": list(measures.accuracy_interval),
        "log_loss": measures.log_loss,
        "log_loss_interval": measures.intervals.get("log_loss"),
        "balanced_accuracy": measures.balanced_accuracy,
    }


def clear(folder: Path) -> None:
    """Take a winner's run of an earlier call away, which is to be replaced."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    for left in folder.glob(".default-*"):
        shutil.rmtree(left, ignore_errors=True)
