"""How good a run is on labelled pictures, and whether that says anything: pictures that it knows already do not."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import polars as pl

from greffon.bundle.flattery import chosen_by_validation
from greffon.errors import DataError, InputError
from greffon.evaluation.abstain import risk_coverage, selected
from greffon.evaluation.answers import calibration_of, name_pictures, wanted_confidence
from greffon.evaluation.beside import MOST_UNASKED, Pictures, baselines_beside, folds_beside, has_learned_features
from greffon.evaluation.calibration import reliability
from greffon.evaluation.evaluated import Evaluation
from greffon.evaluation.measures import answers_of, measure
from greffon.evaluation.probe import FOLDS
from greffon.evaluation.table import prediction_table, write_table
from greffon.say import are, counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np

    from greffon.bundle.predict import Predictor
    from greffon.evaluation.abstain import Selected
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.sources.columns import Columns

__all__ = ["KNOWN", "Bars", "Evaluation", "Side", "evaluate"]

Side = Literal["auto", "train", "val", "test", "all"]

KNOWN = ("train", "val")
"""Sides of a run's own split from which it knows pictures."""

_LISTED = 10
_POINTS = 20  # of the risk-coverage curve


class Bars(Protocol):
    """Something that shows progress, such as a training's reporter."""

    def bar(self, name: str, *, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """Count work that takes a while; gives a function to call with how many more are done."""


def evaluate(  # noqa: PLR0913  # all but two are options, by keyword only
    run: str | Path | Predictor,
    data: Any,
    *,
    columns: Columns | None = None,
    out: str | Path | None = None,
    side: Side = "auto",
    allow_missing: bool = False,
    folds: int | None = None,
    baselines: bool | None = None,
    min_confidence: float | None = None,
    max_error: float | None = None,
    progress: Bars | None = None,
) -> Evaluation:
    """Let a run name labelled pictures, and measure its answers.

    Classes are matched by the names of their folders, whatever their order. Pictures that cannot be read are listed
    and left out. Pictures whose content the run was trained on, or chose its best epoch by, are measured apart; where
    there are no others, the latter give the measures, and it is said that this is no test.
    Probabilities are those that `predict` gives: calibrated, where the run holds a calibration.

    Args:
        run: a run's folder, or what `greffon.load` gave.
        data: a folder with one folder of pictures per class, or with train/, val/ and test/ that hold such folders;
            or anything else that `greffon.train` takes.
        columns: which columns of a table say what; by default those with usual names.
        out: a .parquet file to write the table into; None: it is not written.
        side: which of train/, val/ and test/; `auto`: test/ if it is there, else val/, else all pictures.
        allow_missing: whether classes of the model may have no folder.
        folds: at least 2: deal all pictures into so many folds, three times over, and measure a head that is solved on
            the features of the run's network; None: five where the run knows all pictures, they are up to 1,000
            and only its head has learned from them, as there is no better number then, else none.
        baselines: None: the largest class always, nearest neighbour and solved head where up to 1,000 pictures that
            the run was trained on are among those evaluated; True: also where they are on another side of the data, or
            more; False: none.
        min_confidence: measure what answering only from this confidence on means, 0..1.
        max_error: or from the confidence on that keeps the share of wrong answers below this, as the run's validation
            pictures show.
        progress: shows how far it is.

    Returns:
        Measures, table and notes; prints as a small table.

    Raises:
        InputError: it is no run, there is no such folder or side, the file cannot be written, an option is out of its
            range, or the validation pictures are too few to promise `max_error`.
        DataError: the folders are not the model's classes, no picture can be read, or a class has too few for folds.

    Example:
        >>> from greffon.evaluation.evaluate import evaluate
        >>> found = evaluate("runs/first", "photos/")  # doctest: +SKIP
        >>> found.measures.accuracy, found.is_test  # doctest: +SKIP
        (0.925, True)
    """
    target = None if out is None else _checked_out(Path(out))
    if folds is not None and folds < 2:
        raise InputError(f"folds must be at least 2, got {folds}")
    predictor = _opened(run)
    sure = wanted_confidence(predictor.bundle, min_confidence=min_confidence, max_error=max_error)
    catalog, rows, chosen = _labelled(predictor, data, columns, side, allow_missing=allow_missing, progress=progress)
    known = _known(predictor, rows["hash"])
    unasked = folds is None and not known.is_null().any() and 0 < len(rows) <= MOST_UNASKED
    unasked = unasked and not has_learned_features(predictor.bundle)
    features = folds is not None or unasked or baselines is True or (baselines is None and _can_compare(known))
    pictures, probabilities, unreadable = _named(predictor, catalog, rows, features, progress)
    notes = [*predictor.notes, *_notes(catalog, chosen)]
    beside: dict[str, Any] = {}
    if baselines is not False:
        learned = _learned(predictor, catalog, rows, progress) if baselines else None
        beside["baselines"], more = baselines_beside(predictor.bundle, pictures, learned, asked=bool(baselines))
        notes += more
    if unasked and pictures.features is not None and _can_deal(pictures):
        folds = FOLDS
    if folds is not None:
        if pictures.features is None:
            raise InputError("folds need a run whose network pools its features to one row per picture; this has none")
        with _bar(progress, "folds", None) as advance:
            found = folds_beside(predictor.bundle, pictures, folds, advance=advance)
        beside |= {"folds": found[0], "about_folds": found[1]}
        notes += found[2]
    table = _table(predictor, catalog, pictures, probabilities)
    if target is not None:
        write_table(table, target)
    calibration = calibration_of(predictor.bundle)
    if calibration.temperature != 1.0:
        notes.append(f"Probabilities are calibrated: {calibration}")
    by = chosen_by_validation(predictor.bundle.recipe)
    return _evaluation(table, chosen, unreadable, notes, chosen_by=by, sure=sure, beside=beside)


def _opened(run: str | Path | Predictor) -> Predictor:
    from greffon.bundle.predict import load

    return load(run) if isinstance(run, str | Path) else run


def _checked_out(out: Path) -> Path:
    if out.suffix != ".parquet" or not out.parent.is_dir() or out.is_dir():
        raise InputError(f"out must be a .parquet file in a folder that is there, got {str(out)!r}")
    return out


def _bar(progress: Bars | None, name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda more: None) if progress is None else progress.bar(name, total=total)


def _labelled(
    predictor: Predictor,
    data: Any,
    columns: Columns | None,
    side: Side,
    *,
    allow_missing: bool,
    progress: Bars | None,
) -> tuple[Catalog, pl.DataFrame, str]:
    """The catalog, with the model's classes, the rows to be named, and which side of the folder that is."""
    from greffon.pictures.catalog import match_classes
    from greffon.pictures.sources.choose import catalog_of

    with _bar(progress, "reading pictures", None) as advance:
        # Folders are matched by `match_classes`, which says more where a class is none of the model's.
        is_folder = isinstance(data, str | Path) and Path(data).is_dir()
        class_names = None if is_folder else predictor.class_names
        catalog = catalog_of(data, to="evaluate", columns=columns, class_names=class_names, advance=advance)
    catalog = match_classes(catalog, predictor.class_names, allow_missing=allow_missing)
    given = [name for name in ("test", "val", "train") if len(catalog.side(name))]
    chosen = side if side != "auto" else next((name for name in given if name != "train"), "all")
    rows = catalog.ok if chosen == "all" else catalog.side(chosen)
    if not len(rows):
        there = f"it has {', '.join(name + '/' for name in given)}" if given else "it has class folders only"
        raise InputError(f"side={side!r}: {catalog.root} has no such pictures; {there}")
    return catalog, rows, chosen


def _named(
    predictor: Predictor, catalog: Catalog, rows: pl.DataFrame, features: bool, progress: Bars | None
) -> tuple[Pictures, np.ndarray, tuple[tuple[str, str], ...]]:
    """Those that can be read with their probabilities, and the others: what the scan found, and what went bad since."""
    files = catalog.locators(rows)
    with _bar(progress, "evaluate", len(files)) as advance:
        named = name_pictures(predictor, files, features=features, advance=advance)
    readable = pl.Series([error is None for error in named.errors])
    sides = rows["split"].unique().to_list()
    unreadable = list(catalog.quarantined.filter(pl.col("split").is_in(sides)).select("path", "reason").iter_rows())
    unreadable += [(path, error) for path, error in zip(rows["path"], named.errors, strict=True) if error is not None]
    if not readable.any():
        raise DataError(f"none of {len(files)} pictures can be read any more: {named.errors[0]}")
    pictures = Pictures(rows, catalog.targets(rows), _known(predictor, rows["hash"]), named.features)
    return pictures.where(readable), named.probabilities[readable.to_numpy()], tuple(unreadable)


def _learned(predictor: Predictor, catalog: Catalog, rows: pl.DataFrame, progress: Bars | None) -> Pictures | None:
    """Pictures of the data that the run was trained on and that are not among those evaluated, with their features."""
    more = catalog.ok.filter(~pl.col("hash").is_in(rows["hash"].to_list())).unique("hash", maintain_order=True)
    more = more.filter(_known(predictor, more["hash"]) == "train")
    if not len(more):
        return None
    files = catalog.locators(more)
    with _bar(progress, "baselines", len(files)) as advance:
        named = name_pictures(predictor, files, features=True, advance=advance)
    pictures = Pictures(more, catalog.targets(more), _known(predictor, more["hash"]), named.features)
    return pictures.where(pl.Series([error is None for error in named.errors]))


def _can_deal(pictures: Pictures) -> bool:
    """Whether every class has pictures for two folds, copies counted once."""
    groups = pictures.groups
    several = bool((pictures.targets.sum(axis=1) != 1).any())
    present = pictures.targets[:, pictures.targets.any(axis=0)]
    return several or min(len(set(groups[column > 0])) for column in present.T) > 1


def _can_compare(known: pl.Series) -> bool:
    """Whether there are pictures that the run was trained on, not too many, and others."""
    learned = int((known == "train").sum())
    return 0 < learned < len(known) and learned <= MOST_UNASKED


def _table(predictor: Predictor, catalog: Catalog, pictures: Pictures, probabilities: np.ndarray) -> pl.DataFrame:
    rows, several = pictures.rows, predictor.bundle.several_labels
    labels: list[Any] = catalog.labels_of(rows) if several else rows["label"].to_list()
    paths, hashes = rows["path"].to_list(), rows["hash"].to_list()
    table = prediction_table(paths, hashes, labels, probabilities, predictor.class_names, several_labels=several)
    return table.with_columns(known=_known(predictor, table["hash"]))


def _known(predictor: Predictor, hashes: pl.Series) -> pl.Series:
    """The side that the run, or one that its weights come from, knows each picture from, or null."""
    sides = predictor.bundle.known
    return pl.Series("known", [sides.get(content) for content in hashes], pl.String)


def _evaluation(
    table: pl.DataFrame,
    side: str,
    unreadable: tuple[tuple[str, str], ...],
    notes: list[str],
    *,
    chosen_by: str,
    sure: Selected | None,
    beside: dict[str, Any],
) -> Evaluation:
    new = table.filter(pl.col("known").is_null())
    parts = {name: table.filter(pl.col("known") == name) for name in KNOWN}
    known = {name: measure(part) for name, part in parts.items() if len(part)}
    told = new if len(new) else parts["val"] if "val" in known else table
    measures = measure(told)
    apart = "" if told is table else ", measured apart"
    for name, part in known.items():
        if len(new) or name == "train":
            notes.append(
                f"{part.count:,} of the {len(table):,} pictures {'is one' if part.count == 1 else 'are ones'} that "
                f"{_known_as(name, chosen_by)}: {part.headline()}{apart}"
            )
    if unreadable:
        lines = [f"\n  {path}: {reason}" for path, reason in unreadable[:_LISTED]]
        more = f"\n  and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
        bad = f"{counted(len(unreadable), 'picture')} cannot be read and {are(len(unreadable))} left out"
        notes.append(f"{bad}:{''.join(lines)}{more}")
    if beside.get("baselines") is not None:
        name = "this run" if len(new) or "val" not in known else "this run (val)"
        beside["baselines"] = beside["baselines"].beside(name, measures)
    answers = answers_of(told)
    beside |= {"risk_coverage": tuple(risk_coverage(answers, _POINTS)), "reliability": reliability(answers)}
    if sure is not None:
        beside["selected"] = selected(answers, sure.min_confidence)
        notes.append(f"On the validation pictures, {sure}")
    beside["chosen_by"] = chosen_by
    return Evaluation(measures, len(new) > 0, known, table, side, unreadable, tuple(notes), **beside)


def _known_as(side: str, chosen_by: str) -> str:
    """What the run did with pictures on a side of its own split, and what that means for the numbers."""
    if side == "train":
        return "the run was trained on, which says nothing about new ones"
    return f"the run held out to choose {chosen_by}, which flatters it a little" if chosen_by else "the run held out"


def _notes(catalog: Catalog, side: str) -> list[str]:
    given = [name for name in ("train", "val", "test") if len(catalog.side(name))]
    notes = [f"Measured on {side}/ of {catalog.root}, which has {', '.join(n + '/' for n in given)}"] if given else []
    if given and side == "all":
        notes = [f"Measured on all of {', '.join(name + '/' for name in given)} of {catalog.root}"]
    empty = [name for name, count in catalog.counts(None if side == "all" else side).items() if not count]
    if empty:
        notes.append(f"There is no picture of {', '.join(map(repr, empty))}: nothing is said about these classes")
    return notes
