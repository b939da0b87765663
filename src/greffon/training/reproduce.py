"""A run trained again from its record, and how far the two are apart."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.read import read_bundle
from greffon.bundle.write import check_out, versions, weights_digest
from greffon.errors import DataError, InputError
from greffon.pictures.split import read_split
from greffon.training.job import Job
from greffon.training.kept_pictures import catalog_of_run, check_same_files
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.start import find_start
from greffon.training.whole_run import WholeRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from greffon.bundle.read import Bundle

_MEASURES = ("accuracy", "balanced_accuracy", "log_loss")


@dataclass(frozen=True)
class Reproduction:
    """How far a run and its repetition are apart.

    Attributes:
        weights_equal: whether the weights are the same to the bit.
        weights_apart: the largest difference of a weight, and the name of that variable.
        probabilities_apart: the largest difference of a probability of a validation picture; 0.0 means to the bit.
        answers_apart: how many validation pictures get another label.
        measures: name -> (of the run, of the repetition).
        history_equal: whether the losses and metrics of all epochs are the same to the last digit.
        versions: what another version computed -> (then, now).
        path: the repetition; None where it was not to be kept.
    """

    weights_equal: bool
    weights_apart: tuple[float, str]
    probabilities_apart: float
    answers_apart: int
    measures: Mapping[str, tuple[float, float]]
    history_equal: bool
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    path: Path | None = None

    @property
    def same(self) -> bool:
        """Whether weights, probabilities and measures are the same to the bit."""
        return (
            self.weights_equal
            and self.probabilities_apart == 0
            and all(then == now for then, now in self.measures.values())
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "same": self.same,
            "weights_equal": self.weights_equal,
            "weights_apart": self.weights_apart[0],
            "weight_furthest_apart": self.weights_apart[1],
            "probabilities_apart": self.probabilities_apart,
            "answers_apart": self.answers_apart,
            "measures": {name: list(pair) for name, pair in self.measures.items()},
            "history_equal": self.history_equal,
            "versions": {name: list(pair) for name, pair in self.versions.items()},
            "run": None if self.path is None else str(self.path),
        }

    def __str__(self) -> str:
        if self.same:
            lines = ["the same to the bit: weights, probabilities of the validation pictures and measures"]
        else:
            far, name = self.weights_apart
            weights = "the same to the bit" if self.weights_equal else f"up to {far:.2g} apart ({name})"
            lines = [
                "not the same",
                f"  weights {weights}",
                f"  probabilities up to {self.probabilities_apart:.2g} apart; {self.answers_apart} validation pictures "
                "get another label",
                *(f"  {name} {then:.6g}, now {now:.6g}" for name, (then, now) in self.measures.items() if then != now),
            ]
        lines += [f"  {name}: {then}, now {now}" for name, (then, now) in self.versions.items()]
        return "\n".join(lines)

    def __rich__(self) -> str:
        from rich.markup import escape

        return escape(str(self))


def reproduce(run: str | Path, *, out: str | Path | None = None, reporter: Reporter | None = None) -> Reproduction:
    """Train a run again, from its record: the same pictures, sides, recipe, and choices that were made by timing.

    Args:
        run: the folder.
        out: a folder to keep the repetition in; by default it is only compared.
        reporter: told what happens; by default the console.

    Returns:
        How far the two are apart; `same` says whether they are not. It needs the same machine and versions to be so;
        other ones are warned of, and trained with.

    Raises:
        InputError: it is no run, or its head was a layer given in Python.
        DataError: pictures that it was trained on are gone or were changed.

    Example:
        >>> import greffon, tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.progress import Reporter
        >>> folder, quiet = tempfile.mkdtemp(), Reporter()
        >>> recipe = greffon.Recipe(weights="thin", image_size=32, stages=[greffon.Stage(epochs=1)])
        >>> run = greffon.train(demo_pictures(folder), out=folder + "/run", recipe=recipe, reporter=quiet)
        >>> greffon.reproduce(run.path, reporter=quiet).same
        True
    """
    reporter = reporter or ConsoleReporter()
    bundle = read_bundle(run)
    recipe, record = bundle.recipe, bundle.record
    if any("layer given in Python" in note for note in bundle.notes):
        raise InputError(f"run {run}: its head was a layer given in Python, which no file holds; train it anew")
    place = None if out is None else check_out(out)
    start = find_start(recipe.weights)
    catalog = catalog_of_run(bundle)
    if not catalog.root.is_dir():
        raise DataError(f"run {run}: the folder of its pictures, {catalog.root}, is gone")
    with reporter.bar("looking at the pictures again", total=len(catalog.ok)) as advance:
        check_same_files(catalog, f"run {run}", advance)
    other = _other_versions(record)
    for name, (then, now) in other.items():
        reporter.warn(f"{name} was {then} and is {now}: the numbers may differ in their last digits")
    asked = {name: record.get("training", {}).get(name) for name in ("data", "columns")}
    sides = read_split(bundle.file("split.parquet"))
    with tempfile.TemporaryDirectory(prefix="greffon-") as temporary:
        purpose = WholeRun(place or Path(temporary) / "run", asked=asked)
        job = Job(recipe, start, _Apart(reporter), purpose, sides=sides, choices=record.get("choices"))
        with job.may_be_interrupted(Path(temporary)):
            again = job.run(job.prepared(catalog))
        found = compare(bundle, read_bundle(again.path), other, path=again.path if place else None)
    reporter.summary(found)
    return found


def compare(
    run: Bundle, again: Bundle, other_versions: Mapping[str, tuple[str, str]] | None = None, *, path: Path | None = None
) -> Reproduction:
    """How far two runs on the same pictures are apart.

    Args:
        run: one.
        again: the other.
        other_versions: what to say of versions.
        path: where the other is kept.

    Raises:
        InputError: their networks or validation pictures are not the same.
    """
    equal = run.record["weights_sha256"] == again.record["weights_sha256"]
    then, now = _probabilities(run.table), _probabilities(again.table)
    if then.shape != now.shape or run.table["hash"].to_list() != again.table["hash"].to_list():
        raise InputError("the two runs were not validated on the same pictures, so they cannot be compared")
    return Reproduction(
        weights_equal=equal,
        weights_apart=(0.0, "") if equal else _weights_apart(run, again),
        probabilities_apart=float(np.abs(then - now).max(initial=0.0)),
        answers_apart=int((then.argmax(1) != now.argmax(1)).sum()),
        measures={name: (run.record[name], again.record[name]) for name in _MEASURES},
        history_equal=run.history.equals(again.history),
        versions=other_versions or {},
        path=path,
    )


def _probabilities(table: pl.DataFrame) -> np.ndarray[Any, Any]:
    from greffon.evaluation.table import probabilities_of

    return np.asarray(probabilities_of(table), dtype=np.float64)


def _weights_apart(run: Bundle, again: Bundle) -> tuple[float, str]:
    """The largest difference of a weight, and its name."""
    models = run.model(), again.model()
    if [tuple(it.shape) for it in models[0].weights] != [tuple(it.shape) for it in models[1].weights]:
        raise InputError("the two runs are of different networks, so their weights cannot be compared")
    if weights_digest(models[0]) == weights_digest(models[1]):
        return 0.0, ""
    pairs = zip(models[0].weights, models[1].weights, strict=True)
    far = [(float(np.abs(np.asarray(ours) - np.asarray(theirs)).max(initial=0.0)), ours.path) for ours, theirs in pairs]
    return max(far)


def _other_versions(record: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What was of another version or on another machine."""
    from greffon.training.choices import machine

    before = {**record.get("versions", {}), **record.get("choices", {}).get("machine", {})}
    now = {**versions(), **machine()}
    names = [name for name in before if name != "platform" and str(before[name]) != str(now.get(name, "missing"))]
    return {name: (str(before[name]), str(now.get(name, "missing"))) for name in names}


class _Apart(Reporter):
    """Passes everything on but the summary of the repetition, which is not the answer here."""

    def __init__(self, reporter: Reporter) -> None:
        for name in ("note", "warn", "show", "bar", "stage", "epoch"):
            setattr(self, name, getattr(reporter, name))
