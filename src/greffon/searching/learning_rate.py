"""`greffon.find_learning_rate`: an exponential range test of a recipe's stage, on the user's pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError
from greffon.recipe import Recipe, nearest
from greffon.training.job import Job
from greffon.training.purpose import Purpose
from greffon.training.rate import HIGHEST, LOWEST, STEPS, range_test
from greffon.training.rate_curve import RateCurve, rates_between

if TYPE_CHECKING:
    from greffon.pictures.sources.columns import Columns
    from greffon.recipe import Stage
    from greffon.training.progress import Reporter
    from greffon.training.purpose import Ready


@dataclass(frozen=True)
class LearningRate:
    """What a range test of a stage showed.

    Attributes:
        stage: name of the stage.
        curve: rates, losses, what is suggested and why; `curve.table` is a table, `curve.plot(file)` draws it.
        optimizer: of the stage: rates of one optimizer say nothing about another.
        batch_size: likewise.
    """

    stage: str
    curve: RateCurve = field(repr=False)
    optimizer: str
    batch_size: int

    @property
    def suggestion(self) -> float | None:
        """The learning rate to train with; None where the curve says nothing."""
        return self.curve.suggestion

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "stage": self.stage,
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            **self.curve.to_dict(),
        }

    def __str__(self) -> str:
        lines = [f"stage {self.stage!r}, {self.optimizer}, {self.batch_size} pictures a step", str(self.curve)]
        if self.suggestion is not None:
            lines.append(f"suggested: --learning-rate {self.suggestion:.1e}")
        return "\n".join(lines)


def find_learning_rate(
    data: Any,
    *,
    recipe: Recipe | None = None,
    stage: str | None = None,
    columns: Columns | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    reporter: Reporter | None = None,
) -> LearningRate:
    """Train a stage with a learning rate that grows from step to step, and say at which the loss falls (Smith 2017).

    The stages before it run first, so that it begins where it would in `greffon.train`; only the tail is trained, on
    stored activations. Nothing is written but what the store keeps.

    Args:
        data: what `greffon.train` takes.
        recipe: of the training that the rate is for.
        stage: name of the stage; None: the last one that is trained by steps.
        columns: which columns of a table say what.
        lowest: first learning rate.
        highest: last one, if the loss does not break away before.
        steps: how many batches.
        reporter: told what happens; by default the console.

    Raises:
        InputError: an option cannot be used, or the stage is not there or is solved, not trained.
        DataError: the pictures cannot be learned from.

    Example:
        >>> import greffon, tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.progress import Reporter
        >>> recipe = greffon.Recipe(weights="thin", image_size=32, near_copies="ignore",
        ...                         head=greffon.Head(hidden=16), stages=[greffon.Stage(name="head")])
        >>> folder = demo_pictures(tempfile.mkdtemp())
        >>> found = greffon.find_learning_rate(folder, recipe=recipe, steps=40, reporter=Reporter())
        >>> found.stage, found.curve.table.columns
        ('head', ['learning_rate', 'loss', 'smoothed'])
    """
    from greffon.training.progress import ConsoleReporter
    from greffon.training.start import find_start

    recipe = recipe or Recipe()
    rates_between(lowest, highest, steps)
    wanted = stage_to_test(recipe, stage)
    stages = recipe.stages[: [it.name for it in recipe.stages].index(wanted.name) + 1]
    purpose = RangeTest(lowest=lowest, highest=highest, steps=steps)
    job = Job(recipe.replace(stages=stages), find_start(recipe.weights), reporter or ConsoleReporter(), purpose)
    curve = job.run(job.read(data, columns, None))
    return LearningRate(wanted.name, curve, wanted.optimizer, wanted.batch_size)


def stage_to_test(recipe: Recipe, name: str | None) -> Stage:
    """The stage of that name, or the last one that is trained by steps.

    Raises:
        InputError: there is none, or it is solved.

    Example:
        >>> from greffon.recipe import Recipe
        >>> from greffon.searching.learning_rate import stage_to_test
        >>> stage_to_test(Recipe(), None).name
        'last-block'
    """
    trained = [stage for stage in recipe.stages if not recipe.solves(stage)]
    names = [stage.name for stage in trained]
    if name is None:
        if not trained:
            raise InputError("every stage of the recipe is solved, which needs no learning rate: give --unfreeze RULE")
        return trained[-1]
    for stage in recipe.stages:
        if stage.name == name and recipe.solves(stage):
            raise InputError(f"stage {name!r} is solved, not trained by steps, and needs no learning rate")
    if name not in names:
        raise InputError(f"stage must be one of {', '.join(names) or '(none)'}, got {name!r}{nearest(name, names)}")
    return trained[names.index(name)]


class RangeTest(Purpose[RateCurve]):
    """A training up to its last stage, and a range test in that one's place.

    Args:
        asked: `lowest`, `highest` and `steps` of `range_test`.
    """

    def __init__(self, **asked: Any) -> None:
        self._asked = asked

    def result(self, job: Job[Any], ready: Ready) -> RateCurve:
        """Run the stages before the last, and the test."""
        with ready.stages.at_last_stage() as begun:
            return range_test(begun.tail, begun.feeds["train"], seed=begun.seed, **self._asked)
