"""Going on with a training that was interrupted, so that it ends as if it never had been."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.bundle.write import check_out, is_run
from greffon.errors import InputError
from greffon.pictures.quarantine import load_manifest
from greffon.pictures.split import read_split
from greffon.recipe import Recipe
from greffon.training.job import Job
from greffon.training.kept_pictures import (
    check_same_data,
    check_same_files,
    columns_from_json,
    recall_catalog,
)
from greffon.training.partial import Partial
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.run import Run
from greffon.training.start import find_start
from greffon.training.whole_run import WholeRun

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.pictures.catalog import Catalog


def resume(run: str | Path, *, recipe: Recipe | None = None, reporter: Reporter | None = None) -> Run:
    """Go on with a training that was interrupted: by Ctrl-C, a signal, `kill -9`, or a power cut.

    It ends with the same weights, bit for bit on one machine, as one that was never interrupted: weights, optimizer,
    random states, position in the epoch, the best epoch so far and everything that was chosen are taken from
    `OUT.partial`; what is cheap is computed again. Neither the data nor the recipe has to be given.

    Args:
        run: the folder that the training was to leave.
        recipe: only where the head was a layer given in Python, which no file holds: the same recipe again.
        reporter: told what happens; by default the console. Epochs of before are told again.

    Returns:
        The run, as `greffon.train` gives it.

    Raises:
        InputError: no interrupted training is there, it is running, or another version wrote it.
        DataError: the pictures are not those that it began with.

    Example:
        >>> import greffon, tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.progress import Reporter
        >>> folder = tempfile.mkdtemp()
        >>> class Impatient(Reporter):
        ...     def epoch(self, stage, epoch, epochs, logs, best):
        ...         raise KeyboardInterrupt
        >>> recipe = greffon.Recipe(weights="thin", image_size=32, stages=[greffon.Stage(epochs=1)])
        >>> try:
        ...     greffon.train(demo_pictures(folder), out=folder + "/run", recipe=recipe, reporter=Impatient())
        ... except KeyboardInterrupt:
        ...     run = greffon.resume(folder + "/run", reporter=Reporter())
        >>> run.path.name
        'run'
    """
    partial = Partial.reopen(run)
    try:
        return _go_on(partial, recipe, reporter or ConsoleReporter())
    finally:
        partial.release()


def _go_on(partial: Partial, given: Recipe | None, reporter: Reporter) -> Run:
    asked, out = partial.job, partial.out
    done = _done(partial)
    if done is not None:
        partial.discard()
        reporter.note(f"the training of {out} had ended, and its run is whole")
        return done
    recipe = _recipe(asked, given)
    overwrite = bool(asked["overwrite"])
    place = check_out(out, overwrite=overwrite)
    written = partial.frame("split") or asked["split"]
    sides = None if written is None else read_split(written)
    purpose = WholeRun(place, asked=asked, overwrite=overwrite)
    job = Job(recipe, find_start(recipe.weights), reporter, purpose, sides=sides, partial=partial)
    kept = recall_catalog(partial)
    if kept is not None:
        # Before anything is touched: whoever puts the pictures back can go on.
        _check_pictures(kept[0], asked, reporter)
    asked["resumed"] = asked.get("resumed", 0) + 1
    partial.write_json("job", asked)
    with job.may_be_interrupted(place):
        if kept is None:
            return job.run(_read(job, asked))
        _, catalog, notes = kept
        for note in notes:
            job.note(note)
        return job.run(job.prepared(catalog))


def _recipe(asked: dict[str, Any], given: Recipe | None) -> Recipe:
    recipe = Recipe(**asked["recipe"])
    if given is None:
        if asked["own_layer"]:
            raise InputError(
                "the head was a layer given in Python, which no file holds: greffon.resume(run, recipe=...) with the "
                "same recipe goes on"
            )
        return recipe
    if asked["own_layer"] and given.head.layer is None:
        raise InputError(
            "the head was a layer given in Python, and the recipe= that was given has none: give the recipe that the "
            "training began with, with its Head(layer=...)"
        )
    now, then = given.model_dump(mode="json"), asked["recipe"]
    other = [name for name in now if now[name] != then.get(name)]
    if given.head.layer is not None and not asked["own_layer"]:
        other.append("head.layer")
    if not other:
        return given
    kept = "" if asked["own_layer"] else "; it is kept beside the checkpoint, so recipe= can be left out"
    differ = "differs" if len(other) == 1 else "differ"
    raise InputError(f"recipe= is not the recipe that the training began with: {', '.join(other)} {differ}{kept}")


def _read(job: Job[Run], asked: dict[str, Any]) -> Catalog:
    """The training was interrupted before it had read all pictures."""
    if asked["data"] is None:
        raise InputError(
            "the training was interrupted before it had read its data, which was an object in Python: call "
            "greffon.train again"
        )
    findings = None if asked["manifest"] is None else load_manifest(asked["manifest"])
    return job.read(asked["data"], columns_from_json(asked["columns"]), findings)


def _check_pictures(found: Catalog, asked: dict[str, Any], reporter: Reporter) -> None:
    from greffon.pictures.sources.choose import catalog_of

    what = "the interrupted training"
    with reporter.bar("looking at the pictures again", total=None) as advance:
        if asked["data"] is None:
            check_same_files(found, what, advance)
        else:
            now = catalog_of(asked["data"], columns=columns_from_json(asked["columns"]), advance=advance)
            check_same_data(found, now, what)


def _done(partial: Partial) -> Run | None:
    """The run, where the process was killed between writing it and taking the folder away."""
    if not is_run(partial.out):
        return None
    from greffon.bundle.read import read_bundle
    from greffon.evaluation.measures import measure

    bundle = read_bundle(partial.out)
    if bundle.record.get("training", {}).get("id") != partial.job["id"]:
        return None
    return Run(bundle.path, measure(bundle.table), dict(bundle.record))
