"""A run's report: what was trained, how good and how sure it is, with pictures; one file to be read in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError
from greffon.reporting.page import render, require_report, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.bundle.predict import Predictor
    from greffon.bundle.read import Bundle
    from greffon.evaluation.evaluate import Bars
    from greffon.evaluation.measures import Measures
    from greffon.pictures.sources.columns import Columns
    from greffon.reporting.learning import Point
    from greffon.reporting.looked import Known, Look, Tile

NAME = "report.html"
"""The file's name in a run's folder, where no other is given."""

_MOST_CELLS = 30  # classes up to which the whole confusion matrix is shown
_LEFT_OUT = 50  # files
_CONFIDENCES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
_UNFLATTERED = "Nothing was chosen by them."
_TEST = "The training never saw them."


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: the file.
        pictures: how many of the run's pictures are shown.
        gone: how many should have been, but are gone or cannot be read.
        notes: what could not be done, one sentence each.
    """

    path: Path
    pictures: int
    gone: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return {"report": str(self.path), **{name: value for name, value in vars(self).items() if name != "path"}}

    def __str__(self) -> str:
        gone = f", {self.gone} are gone (say where they are with data, --data)" if self.gone else ""
        return "\n".join([*self.notes, f"report {self.path}: {self.pictures} pictures{gone}"])


@dataclass(frozen=True)
class _Side:
    """Numbers of one side of the split."""

    what: str
    means: str
    measures: Measures


def report(
    run: str | Path | Predictor,
    data: Any = None,
    *,
    out: str | Path | None = None,
    columns: Columns | None = None,
    most: int = 8,
    neighbours: int = 3,
    progress: Bars | None = None,
) -> Report:
    """Write what a run is and how good it is into one HTML file, which opens without a network.

    Where the run's test pictures are found, the numbers are theirs; the pictures that are shown are validation
    pictures always, since whoever learns from the mistakes of a test has no test any more.

    Args:
        run: a run's folder, or what `greffon.load` gave.
        data: where the pictures are now, whatever `greffon.train` takes; None: where they were when it was trained.
            They are known by their content; without them there are numbers and names alone.
        out: the .html file; None: `report.html` in the run's folder. One that is there is replaced.
        columns: which columns of a table say what.
        most: mistakes, and unsure answers, that are shown, 0 to 24 of each.
        neighbours: alike training pictures beside each, 0 to 8. With 0 the training pictures are not looked at, which
            takes most of the time, and there are no baselines.
        progress: shows how far it is.

    Returns:
        Where it is and what is missing in it.

    Raises:
        InputError: it is no run, the data or an option cannot be used, the file cannot be written, or Jinja2 or
            Matplotlib is not installed.
        DataError: the data holds no picture.

    Example:
        >>> from greffon.reporting import report
        >>> print(report("runs/first", "photos/"))  # doctest: +SKIP
        report runs/first/report.html: 16 pictures
    """
    require_report()
    for name, value, limit in (("most", most, 24), ("neighbours", neighbours, 8)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise InputError(f"{name} must be a whole number from 0 to {limit}, got {value!r}")
    from greffon.bundle.read import read_bundle

    bundle = read_bundle(run) if isinstance(run, str | Path) else run.bundle
    file = _checked_out(bundle.path / NAME if out is None else Path(out).expanduser())
    predictor, notes = _opened(bundle, run)
    made = _Making(bundle, predictor, notes)
    made.look(data, columns, most=most, neighbours=neighbours, progress=progress)
    write(render(made.facts(data)), file)
    shown = [tile for tiles in (made.mistakes, made.unsure) for tile in tiles]
    there = sum(bool(tile.image) for tile in shown)
    return Report(file, there, len(shown) - there, tuple(dict.fromkeys(made.notes)))


def _opened(bundle: Bundle, run: str | Path | Predictor) -> tuple[Predictor | None, list[str]]:
    """What predicts, or None and why not: the numbers can be told all the same."""
    from greffon.bundle.predict import load

    if not isinstance(run, str | Path):
        return run, list(run.notes)
    try:
        predictor = load(run)
        predictor.keras()  # opened now, so that what keeps it from being opened is known now
    except InputError as error:
        if "SHA-256" in str(error):  # somebody changed it: nothing it says can be trusted
            raise
        return None, [f"The model cannot be opened, so there are no freeze tables and no pictures: {error}"]
    return predictor, list(predictor.notes)


def _checked_out(file: Path) -> Path:
    if file.suffix.lower() not in (".html", ".htm") or not file.parent.is_dir() or file.is_dir():
        raise InputError(f"a report must be an .html file in a folder that is there, got {str(file)!r}")
    return file


class _Making:
    """Gathers what stands on the page."""

    def __init__(self, bundle: Bundle, predictor: Predictor | None, notes: list[str]) -> None:
        from greffon.bundle.flattery import flattery
        from greffon.evaluation.measures import measure
        from greffon.reporting.looked import calibrated

        self._bundle, self._predictor, self.notes = bundle, predictor, notes
        self.table = calibrated(bundle)
        flattered = "; ".join(flattery(bundle.recipe, bundle.record))
        told = f"{flattered[:1].upper()}{flattered[1:]}." if flattered else _UNFLATTERED
        self._sides = [_Side("validation", told, measure(self.table))]
        self._told = self.table
        self.baselines: Any = None
        self.points: tuple[Point, ...] = ()
        self.mistakes: list[Tile] = []
        self.unsure: list[Tile] = []

    def look(
        self, data: Any, columns: Columns | None, *, most: int, neighbours: int, progress: Bars | None
    ) -> None:  # fmt: skip
        """Find the pictures, and let the network look at them."""
        from greffon.reporting.cases import worth_a_look
        from greffon.reporting.found import Finder
        from greffon.reporting.looked import MOST_KNOWN, Look, Tile

        mistakes, unsure = worth_a_look(self.table, most=most)
        if self._predictor is None:
            self.mistakes = [Tile(case, gone="the model cannot be opened") for case in mistakes]
            self.unsure = [Tile(case, gone="the model cannot be opened") for case in unsure]
            return
        finder = Finder(self._bundle, data, columns=columns, progress=progress)
        look = Look(self._predictor, finder, progress, self.notes)
        train = look.known("train", most=MOST_KNOWN) if neighbours else None
        told = self._test(look)
        if told is None and train is not None:
            told = look.known("val", most=MOST_KNOWN)
        if train is not None and told is not None and len(train.rows) == self._count("train"):
            self._stand_beside(look, train, told)
        tiles = look.tiles([*mistakes, *unsure], train, neighbours=neighbours)
        self.mistakes, self.unsure = tiles[: len(mistakes)], tiles[len(mistakes) :]

    def facts(self, data: Any) -> dict[str, Any]:
        """Everything that the template asks for."""
        from greffon.reporting.causes import causes_of
        from greffon.reporting.facts import most_confused, reproducing, stages_of, times_of, versions_of

        bundle, told = self._bundle, self._sides[0]
        record, left_out = bundle.record, bundle.left_out
        model = None if self._predictor is None else self._predictor.keras()
        sides = {side: self._count(side) for side in ("train", "val", "test")}
        return {
            "name": bundle.path.resolve().name,
            "told": told,
            "measured": self._sides,
            "numbers": _numbers(self._sides),
            "classes": bundle.class_names,
            "several": bundle.several_labels,
            "sides": {side: count for side, count in sides.items() if count},
            "size": bundle.preprocessing.size,
            "resize": bundle.preprocessing.resize,
            "created": record.get("created"),
            "weights": bundle.recipe.weights,
            "head": _head(bundle),
            "stages": [{"facts": stage, "figures": _curves(stage)} for stage in stages_of(bundle, model)],
            "baselines": self.baselines,
            "points": self.points,
            "learning": self._learning(),
            "abstaining": self._abstaining(),
            "confusion": _confusion(told.measures),
            "confused": most_confused(told.measures),
            "calibration": self._calibration(),
            "reliability": self._reliability(),
            "causes": causes_of(bundle.path),
            "mistakes": self.mistakes,
            "unsure": self.unsure,
            "notes": list(dict.fromkeys([*bundle.notes, *self.notes])),
            "left_out": left_out.head(_LEFT_OUT).to_dicts(),
            "left_out_count": len(left_out),
            "times": times_of(record),
            "versions": versions_of(record),
            "commands": reproducing(bundle, data),
            "recipe": bundle.recipe.to_yaml(),
        }

    def _count(self, side: str) -> int:
        return int((self._bundle.split["split"] == side).sum())

    def _test(self, look: Look) -> Known | None:
        """The test pictures, if there are any to be found; then the numbers are theirs."""
        from greffon.bundle.flattery import learned_before
        from greffon.evaluation.measures import measure

        test = look.known("test") if self._count("test") else None
        table = None if test is None else look.table(test)
        labelled = None if table is None else table.filter(table["label"].is_not_null())
        if labelled is None or not len(labelled):
            return None
        before = learned_before(self._bundle.record, "test")
        told = f"{before[:1].upper()}{before[1:]}." if before else _TEST
        self._sides.insert(0, _Side("test", told, measure(labelled)))
        self._told = labelled
        return test

    def _stand_beside(self, look: Look, train: Known, told: Known) -> None:
        beside, points = look.compared(train, told)
        if len(told.rows) != self._sides[0].measures.count:
            return
        self.points = points
        if beside is not None:
            self.baselines = beside.beside("this run", self._sides[0].measures).rows

    def _learning(self) -> Any:
        import markupsafe

        from greffon.reporting.figures import learning_figure

        return markupsafe.Markup(learning_figure(self.points)) if len(self.points) > 1 else None

    def _abstaining(self) -> list[Any]:
        """What answering only where it is sure means, at a few confidences."""
        from greffon.evaluation.abstain import selected
        from greffon.evaluation.measures import answers_of

        answers = answers_of(self._told)
        return [selected(answers, confidence) for confidence in _CONFIDENCES]

    def _calibration(self) -> str:
        from greffon.evaluation.answers import calibration_of

        text = str(calibration_of(self._bundle))
        return f"{text[:1].upper()}{text[1:]}."

    def _reliability(self) -> Any:
        import markupsafe

        from greffon.evaluation.answers import calibration_of
        from greffon.evaluation.calibration import reliability
        from greffon.evaluation.measures import answers_of
        from greffon.reporting.figures import reliability_diagram

        given = reliability(answers_of(self._told))
        if calibration_of(self._bundle).temperature == 1.0:
            return markupsafe.Markup(reliability_diagram(given))  # holds numbers alone
        if self._told is self.table:
            return markupsafe.Markup(reliability_diagram(reliability(answers_of(self._bundle.table)), given))
        return markupsafe.Markup(reliability_diagram((), given))


def _numbers(sides: Sequence[_Side]) -> list[dict[str, Any]]:
    from greffon.reporting.facts import numbers_of

    columns = [{name: (value, interval) for name, value, interval in numbers_of(side.measures)} for side in sides]
    names = dict.fromkeys(name for column in columns for name in column)
    return [{"name": name, "sides": [column.get(name, (None, None)) for column in columns]} for name in names]


def _head(bundle: Bundle) -> str:
    head, chosen = bundle.recipe.head, bundle.record.get("pool")
    parts = [f"pooling {head.pool}"]
    if head.pool == "auto":  # where nothing was compared it is the average
        parts = [f"pooling {chosen['chosen'] if isinstance(chosen, dict) and 'chosen' in chosen else 'avg'}"]
    parts += [f"{head.hidden} hidden units"] if head.hidden else []
    parts += [f"dropout {head.dropout:g}"] if head.dropout else []
    return ", ".join([*parts, head.output])


def _curves(stage: Any) -> list[Any]:
    import markupsafe

    from greffon.reporting.figures import curves, rates_figure

    # Neither holds any text of the user's.
    drawn = [curves(lines, what=what, best=stage.best) for what, lines in stage.curves().items()]
    drawn += [rates_figure(stage.rates)] if len(stage.rates) > 1 else []
    return [markupsafe.Markup(figure) for figure in drawn]


def _confusion(measures: Measures) -> list[dict[str, Any]]:
    """Rows of the matrix with how strongly each cell is coloured, as a share of its row; none where it is too large."""
    if measures.confusion is None or len(measures.class_names) > _MOST_CELLS:
        return []
    rows = []
    for place, (label, counts) in enumerate(zip(measures.class_names, measures.confusion.tolist(), strict=True)):
        total = sum(counts)
        cells = [
            {"count": count, "right": column == place, "strength": 0.1 + 0.6 * count / total if total else 0.0}
            for column, count in enumerate(counts)
        ]
        rows.append({"label": label, "cells": cells})
    return rows
