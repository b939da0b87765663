"""What a training is for: where it takes from what is outside of it, and what is made of it in the end.

`greffon.train` makes a run of it (`whole_run`); a search makes a trial of it (`searching.trial`), and shares pictures,
network and store among many; a range test wants the last stage's tail alone (`searching.learning_rate`). What they have
in common, from the pictures to stages that can run, is `Job`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from greffon.training.start import build_backbone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.frozen.store import ActivationStore
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.resize import ResizeRule
    from greffon.recipe import Recipe
    from greffon.training.choices import Choices
    from greffon.training.first_pass import FirstPass
    from greffon.training.job import Job
    from greffon.training.progress import Reporter
    from greffon.training.solver import Solver
    from greffon.training.stages import Stages
    from greffon.training.start import Start
    from greffon.weights.sets import Preprocessing

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ready:
    """A training whose stages can run.

    Attributes:
        model: grafted.
        catalog: its pictures, split.
        recipe: with the head that was chosen.
        resize: how a picture becomes square.
        stages: to be run.
        first: the pass over the pictures before they were split; None where nothing asked for it.
        together: content hashes of near-copies.
        solver: has solved heads on these features.
    """

    model: Any
    catalog: Catalog
    recipe: Recipe
    resize: ResizeRule
    stages: Stages
    first: FirstPass | None
    together: Sequence[Sequence[str]]
    solver: Solver


class Purpose(ABC, Generic[Result]):
    """What a training is for. Everything but `result` does what `greffon.train` does, unless it is overridden."""

    def backbone(self, start: Start, recipe: Recipe) -> tuple[Any, Preprocessing, list[str]]:
        """The network with its weights, the record of its preprocessing, notes; see `build_backbone`."""
        return build_backbone(start, recipe)

    def store(self) -> ActivationStore | None:
        """Where activations are kept; None: nowhere."""
        from greffon.frozen.store import ActivationStore

        return ActivationStore()

    def first_pass(
        self, model: Any, recipe: Recipe, catalog: Catalog, resize: ResizeRule, store: ActivationStore | None, *,
        reporter: Reporter, notes: list[str], choices: Choices,
    ) -> FirstPass | None:  # fmt: skip
        """One look at all pictures before they are split; see `look_first`."""
        from greffon.training.first_pass import look_first

        return look_first(model, recipe, catalog, resize, store, reporter=reporter, notes=notes, choices=choices)

    def went_bad(self, catalog: Catalog) -> None:
        """Pictures could not be read any more; the training begins anew with those of this catalog.

        Raises:
            DataError: it is of no use then.
        """
        return

    @abstractmethod
    def result(self, job: Job[Any], ready: Ready) -> Result:
        """Run the stages, and make of it what it is for.

        Args:
            job: the training: its recipe, notes, reporter.
            ready: its stages.
        """
