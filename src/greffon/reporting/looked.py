"""What the network makes of a run's pictures: answers for the test side, features, and the pictures to be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.errors import DataError, InputError
from greffon.evaluation.answers import calibration_of, name_pictures
from greffon.evaluation.table import prediction_table, probabilities_of
from greffon.pictures.contact_sheet import choose
from greffon.pictures.decode import decode_many
from greffon.reporting.figures import heat, small_picture
from greffon.reporting.found import bar
from greffon.reporting.neighbours import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.bundle.predict import Predictor
    from greffon.bundle.read import Bundle
    from greffon.evaluation.baselines import Baselines
    from greffon.evaluation.evaluate import Bars
    from greffon.reporting.cases import Case
    from greffon.reporting.found import Finder, Locator
    from greffon.reporting.learning import Point

    Array = np.ndarray[Any, Any]

MOST_KNOWN = 2000
"""Training pictures among which alike ones are looked for: of more, as many of each class as of any other."""

_NEAR_SIDE = 72


@dataclass(frozen=True)
class Near:
    """A training picture that looks alike to the network."""

    image: str
    path: str
    label: str
    cosine: float


@dataclass(frozen=True)
class Tile:
    """A picture on the page.

    Attributes:
        case: what it is and was called.
        image: as a `data:` address; "" where the picture is gone.
        heats: for each class that is asked for its name and the map to lay over the picture; "" where nothing speaks
            for the class.
        near: the most alike training pictures.
        gone: why there is no picture, or "".
    """

    case: Case
    image: str = ""
    heats: tuple[tuple[str, str], ...] = ()
    near: tuple[Near, ...] = ()
    gone: str = ""


@dataclass(frozen=True, eq=False)
class Known:
    """Pictures with what the network computes of them.

    Attributes:
        rows: of the run's split; those alone that were found and could be read.
        places: where they are.
        features: float32 (n, d).
        probabilities: float32 (n, classes), calibrated.
    """

    rows: pl.DataFrame
    places: list[Locator]
    features: Array | None
    probabilities: Array


@dataclass
class Look:
    """Looks at pictures with a run's network.

    Attributes:
        predictor: the run.
        finder: finds its pictures.
        progress: shows how far it is.
        notes: what could not be done, one sentence each.
    """

    predictor: Predictor
    finder: Finder
    progress: Bars | None = None
    notes: list[str] = field(default_factory=list)

    def known(self, side: str, *, most: int | None = None) -> Known | None:
        """The pictures of one side of the run's split, or as many of each class as of any other; None: there are none.

        Args:
            side: train, val or test.
            most: pictures.
        """
        rows = self._bundle.split.filter(pl.col("split") == side)
        whole = len(rows)
        if most is not None and whole > most:
            rows = rows[choose([label or "" for label in rows["label"].to_list()], most)]
            self.notes.append(f"Of {whole:,} {side} pictures {most:,} were looked at")
        found = self.finder.find(rows["path"].to_list(), rows["hash"].to_list())
        there = [place for place in found if place is not None]
        if len(there) < len(rows):
            self.notes.append(f"{len(rows) - len(there):,} of {len(rows):,} {side} pictures are gone or were changed")
        if not there:
            return None
        rows = rows.filter(pl.Series([place is not None for place in found], dtype=pl.Boolean))
        with bar(self.progress, f"{side} pictures", len(there)) as advance:
            named = name_pictures(self.predictor, there, features=True, advance=advance)
        read = np.array([error is None for error in named.errors])
        if not read.any():
            return None
        features = None if named.features is None else named.features[read]
        places = [place for place, good in zip(there, read, strict=True) if good]
        return Known(rows.filter(pl.Series(read)), places, features, named.probabilities[read])

    def table(self, known: Known) -> pl.DataFrame:
        """Predictions for pictures with their labels."""
        bundle, rows = self._bundle, known.rows
        return prediction_table(
            rows["path"].to_list(), rows["hash"].to_list(), _labels(bundle, rows), known.probabilities,
            bundle.class_names, several_labels=bundle.several_labels,
        )  # fmt: skip

    def compared(self, train: Known, told: Known) -> tuple[Baselines | None, tuple[Point, ...]]:
        """Weaker ideas on the same pictures, and the learning curve; nothing where the network pools no features."""
        from greffon.evaluation.baselines import baselines
        from greffon.evaluation.probe import solve
        from greffon.reporting.learning import learning_curve

        if train.features is None or told.features is None:
            return None, ()
        several = self._bundle.several_labels
        learned = train.features, _targets(self._bundle, train.rows)
        measured = told.features, _targets(self._bundle, told.rows)
        try:
            probe = solve(*learned, several_labels=several, seed=self._bundle.recipe.seed)
            beside = baselines(*learned, *measured, several_labels=several, probe=probe)
            return beside, learning_curve(learned, measured, strength=probe.strength, several_labels=several)
        except (DataError, InputError) as error:
            self.notes.append(f"No baselines and no learning curve: {error}")
            return None, ()

    def tiles(self, cases: Sequence[Case], train: Known | None, *, neighbours: int) -> list[Tile]:
        """Pictures with where the network looked at and what it thinks alike."""
        prepare = self._bundle.preprocessing
        found = self.finder.find([case.path for case in cases], [case.hash for case in cases])
        there = [row for row, place in enumerate(found) if place is not None]
        decoded = decode_many([found[row] for row in there], prepare.size, prepare.resize)  # type: ignore[misc]
        pixels = {there[number]: result for number, result in decoded}
        seen = {row: one for row, one in pixels.items() if not isinstance(one, DataError)}
        heats = self._heats([(cases[row], one) for row, one in seen.items()])
        near = self._near([found[row] for row in seen], train, neighbours)  # type: ignore[misc]
        tiles = [Tile(case, gone="the picture is gone or was changed") for case in cases]
        for number, (row, one) in enumerate(seen.items()):
            tiles[row] = Tile(cases[row], small_picture(one), heats[number], near[number])
        for row, bad in pixels.items():
            if isinstance(bad, DataError):
                tiles[row] = Tile(cases[row], gone="the picture cannot be read")
        return tiles

    @property
    def _bundle(self) -> Bundle:
        return self.predictor.bundle

    def _heats(self, pictures: list[tuple[Case, Array]]) -> list[tuple[tuple[str, str], ...]]:
        """For each picture the classes that are asked for, with the map of each."""
        from greffon.reporting.explain import Explainer

        names = self._bundle.class_names
        asked = [(row, number) for row, (case, _) in enumerate(pictures) for number in case.asked]
        found: list[list[tuple[str, str]]] = [[] for _ in pictures]
        if not asked:
            return [() for _ in pictures]
        try:
            explainer = Explainer(self.predictor.keras())
            features = explainer.features(np.stack([one for _, one in pictures]))
            maps = list(explainer.maps(features[[row for row, _ in asked]], [number for _, number in asked]))
        except InputError as error:
            self.notes.append(f"Where the network looks cannot be shown: {error}")
            maps = [np.zeros((1, 1))] * len(asked)
        for (row, number), places in zip(asked, maps, strict=True):
            found[row].append((names[number], heat(places) if places.max(initial=0) > 0 else ""))
        return [tuple(each) for each in found]

    def _near(self, places: list[Locator], train: Known | None, most: int) -> list[tuple[Near, ...]]:
        if not places or train is None or train.features is None or most < 1:
            return [() for _ in places]
        queries = name_pictures(self.predictor, places, features=True).features
        if queries is None:
            return [() for _ in places]
        alike, cosines = nearest(np.nan_to_num(queries), train.features, most=most)
        wanted = sorted({int(number) for row in alike for number in row})
        prepare = self._bundle.preprocessing
        pixels = decode_many([train.places[number] for number in wanted], prepare.size, prepare.resize)
        images = {
            wanted[n]: "" if isinstance(one, DataError) else small_picture(one, side=_NEAR_SIDE) for n, one in pixels
        }
        paths = train.rows["path"].to_list()
        labels = [", ".join(of_one) for of_one in _label_lists(self._bundle, train.rows)]
        return [
            tuple(
                Near(images[int(number)], paths[number], labels[number], float(cosine))
                for number, cosine in zip(numbers, similar, strict=True)
            )
            for numbers, similar in zip(alike, cosines, strict=True)
        ]


def calibrated(bundle: Bundle) -> pl.DataFrame:
    """The run's table of its validation pictures, with the probabilities that `predict` gives."""
    table, calibration = bundle.table, calibration_of(bundle)
    if calibration.temperature == 1.0:
        return table
    return prediction_table(
        table["path"].to_list(), table["hash"].to_list(), table["label"].to_list(),
        calibration.apply(probabilities_of(table)), bundle.class_names, several_labels=bundle.several_labels,
    )  # fmt: skip


def _label_lists(bundle: Bundle, rows: pl.DataFrame) -> list[list[str]]:
    known = set(bundle.class_names)
    if bundle.several_labels and "labels" in rows.columns:
        return [[label for label in labels or () if label in known] for labels in rows["labels"].to_list()]
    return [[label] if label in known else [] for label in rows["label"].to_list()]


def _labels(bundle: Bundle, rows: pl.DataFrame) -> list[Any]:
    lists = _label_lists(bundle, rows)
    return list(lists) if bundle.several_labels else [labels[0] if labels else None for labels in lists]


def _targets(bundle: Bundle, rows: pl.DataFrame) -> Array:
    lists = _label_lists(bundle, rows)
    return np.array([[name in labels for name in bundle.class_names] for labels in lists], np.float32)
