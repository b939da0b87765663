"""`greffon.tune`: a search over recipes within a time, and an honest answer to whether it was worth it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, GreffonError, InputError
from greffon.recipe import Recipe
from greffon.say import counted
from greffon.searching.costs import Costs
from greffon.searching.final import FinalCheck, Trainable, clear, final_check
from greffon.searching.folder import JOURNAL, STUDY, Folder, digest
from greffon.searching.importance import importances
from greffon.searching.result import Study
from greffon.searching.space import Space, recipe_at, told
from greffon.searching.trials import AS_GIVEN, TrialBook, require_optuna
from greffon.training.plan import parse_budget
from greffon.training.progress import ConsoleReporter, Reporter, duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.pictures.catalog import Catalog
    from greffon.pictures.sources.columns import Columns
    from greffon.searching.ground import Ground

_WRITES = 8.0  # seconds that writing a run and naming the unseen pictures take, at first guess
_MOST_DRAWN = 30  # points in a row that are known or too long, before the search ends
_MOST_FAILED = 8


def tune(  # noqa: PLR0913  # all but the first are options, by keyword only
    data: Any,
    *,
    budget: str | float,
    out: str | Path,
    recipe: Recipe | None = None,
    columns: Columns | None = None,
    resume: bool = False,
    held_out: float = 0.2,
    trials: int | None = None,
    reporter: Reporter | None = None,
) -> Study:
    """Search over head, depth of unfreezing, learning rate, decay and views, within a time.

    The first trial is the recipe as it was given. Pictures for a final check are put aside before anything is looked
    at: test/ where the data has it, else a share. All trials learn from the same pictures and are compared by the
    validation loss, on activations that one pass of the trunk gave. In the end the best recipe and the one that the
    search started from are trained anew and compared on the pictures that were put aside.

    Args:
        data: what `greffon.train` takes.
        budget: time for all of it: `20m`, `1h30m`, `90s`, or seconds. The final check is always made.
        out: the folder of the study.
        recipe: what to start from; what is not searched over stays as it is there.
        columns: which columns of a table say what.
        resume: go on with the study that is in `out`, with a new budget.
        held_out: share of each class for the final check, where there is no test/.
        trials: the most trials, the first one counted; None: as many as there is time for.
        reporter: told what happens; by default the console.

    Returns:
        The study, which prints as what there is to know; its best recipe is in `out/recipe.yaml`, trained in `out/run`.

    Raises:
        InputError: an option, the folder or the recipe cannot be used, or Optuna is not installed.
        DataError: the pictures cannot be learned from, are too few for three sides, or are not those of the study.
        KeyboardInterrupt: Ctrl-C; what was found by then is in the folder, and `resume` goes on with it.

    Example:
        >>> import greffon
        >>> study = greffon.tune("photos/", budget="20m", out="study")  # doctest: +SKIP
        >>> study.check.verdict, study.best.stages[-1].unfreeze  # doctest: +SKIP
        ('not shown', 'conv5')
    """
    require_optuna()
    limit = parse_budget(budget)
    if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        raise InputError(f"trials must be a whole number of at least 1, got {trials!r}")
    if isinstance(held_out, bool) or not 0 < held_out < 1:
        raise InputError(f"held_out must be a share above 0 and under 1, got {held_out!r}")
    recipe = recipe or Recipe()
    if recipe.head.layer is not None:
        raise InputError("a head with its own layer has no options to search over")
    folder = Folder.open(Path(out), resume=resume)
    search = Search(data, recipe, columns, folder, limit, reporter or ConsoleReporter())
    try:
        search.prepare(resume=resume, held_out=held_out)
        return search.run(most=trials)
    except KeyboardInterrupt:
        search.say_what_is_kept()
        raise


class Search:
    """One call of `tune`."""

    def __init__(
        self, data: Any, recipe: Recipe, columns: Columns | None, folder: Folder, limit: float, reporter: Reporter
    ) -> None:
        self.began = time.monotonic()
        self.data, self.recipe, self.columns, self.folder = data, recipe, columns, folder
        self.limit, self.reporter = limit, reporter
        self.notes: list[str] = []
        self._spent = float(folder.about.get("seconds", 0.0))
        self._given_validation = False
        self._known: Mapping[str, str] = {}  # sides of pictures that the weights know
        self._writes = _WRITES
        self._failed = 0
        self.ground: Ground
        self.space: Space
        self.book: TrialBook
        self.costs: Costs

    # --- before the trials ---

    def prepare(self, *, resume: bool, held_out: float) -> None:
        """Read the pictures, run the trunk, split; open the book of trials."""
        from greffon.searching.ground import Ground
        from greffon.training.start import find_start

        start = find_start(self.recipe.weights)
        self._known = start.earlier.sides
        catalog = self._read()
        data = digest(catalog)
        if catalog.several_labels and self.recipe.head.output != "sigmoid":
            self.recipe = self.recipe.replace(head=self.recipe.head.replace(output="sigmoid"))
        if resume:
            self.folder.check(data, self.recipe)
            held_out = float(self.folder.about["held_out"])
        else:
            from greffon.searching.held_out import hold_out

            # Too few pictures are found out before the trunk runs.
            hold_out(
                catalog, share=held_out, validation=self.recipe.validation, seed=self.recipe.seed,
                known=self._known,
            )  # fmt: skip
        self._given_validation = bool(len(catalog.side("val")))
        written = self.folder.split() if resume else None
        self.ground = Ground.prepare(
            catalog, self.recipe, start, share=held_out, written=written, reporter=self.reporter
        )  # fmt: skip
        for note in self.ground.notes:
            self._note(note)
        sides = self.ground.shared.catalog
        counts = {side: len(sides.side(side)) for side in ("train", "val", "test")}
        self.reporter.note(
            f"{counts['train']} pictures to learn from, {counts['val']} to search by, {counts['test']} put aside for "
            "the final check"
        )
        if resume:
            self.space = Space.from_dict(self.folder.about["space"])
        else:
            self.space = Space.of(self.recipe, self.ground.pools)
            self.folder.begin(sides, data, self.recipe, self.space, held_out)
        self.book = TrialBook(self.folder.path / JOURNAL, seed=self.recipe.seed)
        self.costs = Costs(self.ground.tails, train=counts["train"], trunk=self.ground.trunk_seconds)

    def _read(self) -> Catalog:
        from greffon.pictures.sources.choose import catalog_of

        with self.reporter.bar("reading pictures", total=None) as advance:
            catalog = catalog_of(self.data, columns=self.columns, advance=advance)
        if len(catalog.quarantined):
            bad = counted(len(catalog.quarantined), "file")
            self._note(f"{bad} left out that cannot be read: greffon check shows which")
        return catalog

    # --- the trials ---

    def run(self, *, most: int | None) -> Study:
        """All trials that there is time for, then the final check."""
        before = len(self.book.all())
        try:
            if not any(it.user_attrs.get("given") for it in self.book.ended()):
                self._first()
            self._search(before, most)
            if self.book.best() is None:
                self._write()
                many = counted(len(self.book.all()), "trial")
                raise InputError(f"none of {many} could be done; the last: {self._last_reason()}")
            check = self._check()
        except KeyboardInterrupt:
            self._write()
            raise
        study = self._write(check)
        self.reporter.summary(study)
        return study

    def say_what_is_kept(self) -> None:
        """What an interrupted search leaves, and how to go on with it."""
        if not (self.folder.path / STUDY).is_file():
            self.reporter.warn(
                "interrupted before the study began: it has no folder yet; what the frozen part gave by then is "
                "stored, so that the same search is here sooner when it is begun again"
            )
            return
        ended = len(self.book.ended()) if hasattr(self, "book") else 0
        self.reporter.warn(
            f"interrupted; the study in {self.folder.path} is kept, with {counted(ended, 'trial')} that ended: "
            "--resume (resume=True) goes on with it, and ends with the final check"
        )

    def _first(self) -> None:
        """The recipe as it was given, whatever the time."""
        trial, _ = self.book.ask(None)
        self.book.note(trial, given=True)
        self._try(trial, self.recipe, deadline=None, what=f"{AS_GIVEN}: {told(self.recipe)}", prunes=False)

    def _search(self, before: int, most: int | None) -> None:
        drawn = 0
        while drawn < _MOST_DRAWN and self._failed < _MOST_FAILED:
            if most is not None and len(self.book.all()) - before >= most:
                return
            left = self._left()
            if left <= 0:
                break
            trial, point = self.book.ask(self.space)
            recipe = recipe_at(point, self.recipe)
            known = self.book.known().get(recipe.to_yaml())
            if known is not None and known.value is not None:
                drawn += 1  # what is known needs no training, but tells the sampler
                self.book.note(trial, not_begun=True, same_as=known.number)
                self.book.complete(trial, known.value)
            elif self.costs.of(recipe) > left:
                drawn += 1
                self.book.note(trial, not_begun=True)
                self.book.fail(trial, f"would take {duration(self.costs.of(recipe))}, and {duration(left)} are left")
            else:
                drawn = 0
                self._try(trial, recipe, deadline=time.monotonic() + left, what=told(recipe), prunes=True)
        if len(self.book.all()) - before <= 1 and not self._failed:
            self._note(
                f"the time of {duration(self.limit)} was not enough for a trial beside the recipe as it was given: "
                "give a longer --budget"
            )
        if self._failed >= _MOST_FAILED:
            self._note(f"{self._failed} trials in a row failed, so the search ended; the last: {self._last_reason()}")

    def _try(self, trial: Any, recipe: Recipe, *, deadline: float | None, what: str, prunes: bool) -> None:
        """One trial; whatever goes wrong in it is its own."""
        from greffon.searching.trial import OutOfTimeTrial, PrunedTrial, TrialReporter, run_trial

        def report(loss: float, tenth: int) -> bool:
            trial.report(loss, tenth)
            return bool(prunes and trial.should_prune())

        self.book.note(trial, recipe=recipe.to_yaml(), what=what)
        started = time.monotonic()
        reporter = TrialReporter(recipe, self.reporter, report=report, deadline=deadline)
        try:
            self.ground.fill(recipe.views, self.reporter)
            outcome = run_trial(recipe, self.ground.shared, reporter)
        except KeyboardInterrupt:
            self.book.fail(trial, "interrupted")
            raise
        except (PrunedTrial, OutOfTimeTrial) as ended:
            seconds = time.monotonic() - started
            self._failed = 0
            reason = "the time was over" if isinstance(ended, OutOfTimeTrial) else "others were better by then"
            self.book.note(trial, seconds=round(seconds, 2), reason=reason)
            self.book.prune(trial)
            self.reporter.note(f"trial {trial.number}: {reason}, after {duration(seconds)} ({what})")
            return
        except DataError:
            self.book.fail(trial, "the pictures changed")
            raise
        except Exception as error:  # out of memory, not a number, ...: of this trial alone
            self._failed += 1
            reason = _reason(error)
            self.book.note(trial, seconds=round(time.monotonic() - started, 2))
            self.book.fail(trial, reason)
            self.reporter.warn(f"trial {trial.number} failed: {reason} ({what})")
            return
        self._failed = 0
        self.costs.trunk = self.ground.trunk_seconds
        self.costs.learn(outcome, recipe)
        best = self.book.best()
        self.book.note(trial, accuracy=outcome.accuracy, seconds=round(outcome.seconds, 2), pool=outcome.pool)
        self.book.complete(trial, outcome.loss)
        mark = "" if best is not None and best.value is not None and best.value <= outcome.loss else ", best so far"
        self.reporter.note(
            f"trial {trial.number}: validation loss {outcome.loss:.4f}, accuracy {outcome.accuracy:.3f}{mark}, "
            f"in {duration(outcome.seconds)} ({what})"
        )

    def _left(self) -> float:
        """Seconds for trials: what is left of the budget when the final check has had its share."""
        given = next((it for it in self.book.ended() if it.user_attrs.get("given")), None)
        best = self.book.best()
        reserve = sum(float(it.user_attrs.get("seconds", 0.0)) + self._writes for it in (given, best) if it is not None)
        return self.limit - (time.monotonic() - self.began) - reserve

    def _last_reason(self) -> str:
        reasons = [str(it.user_attrs["reason"]) for it in self.book.all() if it.user_attrs.get("reason")]
        return reasons[-1] if reasons else "no reason is known"

    # --- afterwards ---

    def _best(self) -> Recipe:
        best = self.book.best()
        if best is None:
            return self.recipe
        return self.recipe if best.user_attrs.get("given") else recipe_at(best.params, self.recipe)

    def _check(self) -> FinalCheck:
        clear(self.folder.path)
        self.reporter.note("final check: the best recipe and the one as given, trained anew, on pictures not seen")
        trainable = Trainable(
            self.data, self.columns, self.ground.shared.catalog, self.ground.together, self.recipe.validation,
            self.recipe.seed, self._given_validation, self._known,
        )  # fmt: skip
        check, table = final_check(
            self._best(), self.recipe, trainable, folder=self.folder.path, reporter=self.reporter
        )  # fmt: skip
        table.write_parquet(self.folder.path / "unseen.parquet")
        return check

    def _write(self, check: FinalCheck | None = None) -> Study:
        """What was found, into the folder."""
        table = self.book.table()
        ended = [it for it in self.book.ended() if it.params]
        points = [dict(it.params) for it in ended]
        losses = [float(it.value) for it in ended if it.value is not None]
        mattered = importances(points, losses, ended, seed=self.recipe.seed) if check is not None else []
        best = self.book.best()
        seconds = self._spent + time.monotonic() - self.began
        study = Study(
            path=self.folder.path, best=self._best(), trial=None if best is None else best.number, trials=table,
            check=check, importances=tuple(mattered), seconds=seconds, notes=tuple(self.notes),
        )  # fmt: skip
        self.folder.write_table(table)
        if best is not None:
            self.folder.write_recipe(study.best)
        self.folder.save(seconds=round(seconds, 1), result=study.facts())
        return study

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.reporter.warn(text)


def _reason(error: Exception) -> str:
    """The first line of what went wrong."""
    first = (str(error).splitlines() or [""])[0][:300]
    return first if isinstance(error, GreffonError) else f"{type(error).__name__}: {first}"
