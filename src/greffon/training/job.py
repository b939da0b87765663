"""One training: from pictures to stages that can run. What is made of them is for a `Purpose` to say."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic

from greffon.bundle.commands import resume_command
from greffon.bundle.flattery import LEARNED_BEFORE
from greffon.bundle.write import check_model
from greffon.errors import GreffonError
from greffon.pictures.quality import crop_note
from greffon.pictures.skipped import Skipped
from greffon.pictures.split import apply_split, split
from greffon.training.checkpoint import CheckpointError
from greffon.training.elapsed import Elapsed
from greffon.training.interrupts import Interrupts
from greffon.training.pooling import choose_head
from greffon.training.purpose import Ready, Result
from greffon.training.reading import read_pictures
from greffon.training.samples import GoneBadError, samples_of, without
from greffon.training.solved_before import SolvedBefore
from greffon.training.solver import Solver
from greffon.training.start import graft_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import polars as pl

    from greffon.pictures.catalog import Catalog
    from greffon.pictures.resize import ResizeRule
    from greffon.pictures.sources.columns import Columns
    from greffon.recipe import Head, Recipe
    from greffon.training.choices import Choices
    from greffon.training.first_pass import FirstPass
    from greffon.training.near_copies import NearCopies
    from greffon.training.partial import Partial
    from greffon.training.progress import Reporter
    from greffon.training.purpose import Purpose
    from greffon.training.samples import Samples
    from greffon.training.start import Start
    from greffon.weights.sets import Preprocessing


class Job(Generic[Result]):
    """One training.

    Args:
        recipe: every option.
        start: the weights.
        reporter: told what happens.
        purpose: what it is for; gives network and store, and makes the result of the stages.
        sides: a written split, as `read_split` gives it; None: the pictures are split anew.
        partial: where checkpoints go, and where an interrupted training left them; None: there are none.
        choices: what an earlier training chose by timing.

    Attributes:
        recipe: with what follows from the pictures.
        notes: what the user should know, for the record.
        chosen: what was chosen on the way, for the record.
        elapsed: how long it has taken, in earlier processes too.
    """

    def __init__(
        self, recipe: Recipe, start: Start, reporter: Reporter, purpose: Purpose[Result], *,
        sides: pl.DataFrame | None = None, partial: Partial | None = None, choices: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.start, self.reporter, self.purpose = recipe, start, reporter, purpose
        self.partial = partial
        self.interrupts = Interrupts()
        self.notes: list[str] = []
        self.chosen: dict[str, Any] = {}
        self.elapsed = Elapsed(None if partial is None else partial.read_json("times"))
        self._network: tuple[Any, Preprocessing, list[str]] | None = None
        self._sides, self._known_choices = sides, choices
        if partial is not None:
            partial.warn = self.note
            partial.times = self.elapsed.state

    @property
    def several_labels(self) -> bool:
        """Whether a picture may have several."""
        return self.recipe.head.output == "sigmoid"

    def note(self, text: str) -> None:
        """Something that the user should know, now and of the run."""
        self.notes.append(text)
        self.reporter.warn(text)

    def network(self) -> tuple[Any, Preprocessing, list[str]]:
        """The backbone with its weights, the record of its preprocessing, and notes; built once."""
        import keras

        if self._network is None:
            keras.utils.set_random_seed(self.recipe.seed)
            self._network = self.purpose.backbone(self.start, self.recipe)
        return self._network

    # --- the pictures ---

    def read(self, data: Any, columns: Columns | None, findings: pl.DataFrame | None) -> Catalog:
        """The pictures, without those that cannot be used or that a manifest, as it was loaded, leaves out.

        What the recipe and the weights alone make impossible is refused before.
        """
        from greffon.training.ahead import refuse_early
        from greffon.training.kept_pictures import is_gone

        if not is_gone(data):  # which is said at once
            backbone, *_ = self.network()
            refuse_early(backbone, self.recipe)
        found, used = read_pictures(data, columns, findings, reporter=self.reporter, note=self.note)
        if used.several_labels and not self.several_labels:
            self.note("pictures may have several labels: the head has a sigmoid for each class, not one softmax")
        if self.partial is not None:
            from greffon.training.kept_pictures import keep_catalog

            keep_catalog(self.partial, found, used, self.notes)
            if self._sides is not None:
                self.partial.write_frame("split", self._sides)
        return self.prepared(used)

    def prepared(self, catalog: Catalog) -> Catalog:
        """What there is to do before the training with pictures that were read, now or earlier."""
        if catalog.several_labels and not self.several_labels:
            self.recipe = self.recipe.replace(head=self.recipe.head.replace(output="sigmoid"))
        self._side(catalog, ())  # too few pictures are found out before the trunk runs
        return catalog

    def _side(self, catalog: Catalog, together: Sequence[Sequence[str]]) -> Catalog:
        """Every picture on its side: as it was written, or split anew."""
        if self._sides is not None:
            return apply_split(catalog, self._sides)
        return split(
            catalog, validation=self.recipe.validation, seed=self.recipe.seed, together=together,
            known=self.start.earlier.sides,
        )  # fmt: skip

    def _split(self, catalog: Catalog, near: NearCopies | None) -> Catalog:
        catalog = self._side(catalog, near.together if near else ())
        sides = dict(catalog.ok.select("hash", "split").iter_rows())
        for note in (*catalog.notes, *(near.notes(sides) if near else ())):
            self.note(note)
        counts = {side: len(catalog.side(side)) for side in ("train", "val", "test")}
        test = f"; {counts['test']} in test/ are not touched" if counts["test"] else ""
        self.reporter.note(
            f"{sum(counts.values())} pictures of {len(catalog.class_names)} classes: {counts['train']} to learn from, "
            f"{counts['val']} held out for validation{test}"
        )
        self._tell_of_earlier(catalog)
        return catalog

    def _tell_of_earlier(self, catalog: Catalog) -> None:
        """What the weights know of the pictures already."""
        earlier = self.start.earlier
        if self._sides is None and (kept := earlier.note(catalog)):
            self.reporter.note(kept)
        if warning := earlier.warning(catalog):
            self.note(warning)
        self.chosen.pop(LEARNED_BEFORE, None)  # of pictures before some went bad
        if found := earlier.to_record(catalog):
            self.chosen[LEARNED_BEFORE] = found

    # --- the training ---

    @contextmanager
    def may_be_interrupted(self, out: Path) -> Iterator[None]:
        """Around the training: whatever ends it, what there is to go on from stays, and nothing else."""
        try:
            with self.interrupts.watched():
                yield
        except GreffonError as error:
            if self.partial is not None and not isinstance(error, CheckpointError):
                self.partial.discard()  # it would end there again
            raise
        except KeyboardInterrupt:
            if self.partial is not None:
                self.partial.keep_times()
                self.reporter.warn(f"interrupted; go on with {resume_command(out)} (greffon.resume)")
            raise
        finally:
            if self.partial is not None:
                self.partial.release()
        if self.partial is not None:
            self.partial.discard()

    def run(self, catalog: Catalog) -> Result:
        """Train; again without them where pictures go bad meanwhile, which costs little: the rest is stored."""
        skipped = Skipped(len(catalog.ok))
        before = list(self.notes)
        while True:
            try:
                return self.purpose.result(self, self._ready(catalog))
            except GoneBadError as bad:
                catalog = without(catalog, bad, skipped)
                self.notes = list(before)
                self.purpose.went_bad(catalog)
                if self.partial is not None:  # what was kept of the stages is of other pictures
                    self.partial.forget()
                    self.partial.write_frame("catalog", catalog.frame)
                self.note(skipped.note())

    def _ready(self, catalog: Catalog) -> Ready:
        """Network, split, chosen head and samples: stages that can run."""
        import keras

        backbone, preprocessing, notes = self.network()
        keras.utils.set_random_seed(self.recipe.seed)  # from here on, whenever the network was built
        model = self._grafted(backbone, preprocessing, catalog, notes)
        recipe = self.recipe  # gradual stages are those of this network
        resize = preprocessing.resize if recipe.resize == "auto" else recipe.resize
        if resize == "crop" and (lost := crop_note(catalog.ok.select("path", "width", "height").iter_rows())):
            self.note(lost)
        store, choices = self.purpose.store(), self._choices()
        solver = Solver(before=SolvedBefore(store))
        with self.elapsed.looking():
            first = self.purpose.first_pass(
                model, recipe, catalog, resize, store, reporter=self.reporter, notes=self.notes, choices=choices
            )
        catalog = self._split(catalog, first.near if first else None)
        together = first.near.together if first and first.near else []
        head = self._head(first, catalog, together, solver)
        if head is not None:
            recipe = recipe.replace(head=head)
            model, _ = graft_head(backbone, preprocessing, self.start, head, catalog.class_names)
        samples = self._samples(model, catalog, recipe, resize, together)
        stages = self._stages(model, recipe, samples, store, first, choices, solver)
        return Ready(model, catalog, recipe, resize, stages, first, together, solver)

    def _grafted(self, backbone: Any, preprocessing: Preprocessing, catalog: Catalog, notes: Sequence[str]) -> Any:
        from greffon.training.gradual import gradual_stages

        model, more = graft_head(backbone, preprocessing, self.start, self.recipe.head, catalog.class_names)
        check_model(model)  # before the training: a head that cannot be saved would cost all of it
        self.recipe = gradual_stages(self.recipe, model)
        for note in (*notes, *more):
            self.notes.append(note)
            self.reporter.note(note)
        return model

    def _head(
        self, first: FirstPass | None, catalog: Catalog, together: Sequence[Sequence[str]], solver: Solver
    ) -> Head | None:
        """The head with what suits best, where the recipe leaves something open and it is not the average."""
        found = None if first is None else choose_head(first.features, catalog, together, self.recipe, solver)
        if found is None:
            return None
        self.reporter.note(found.said)
        self.chosen["pool"] = found.record
        return found.head

    def _samples(
        self, model: Any, catalog: Catalog, recipe: Recipe, resize: ResizeRule, together: Sequence[Sequence[str]]
    ) -> Samples:
        from greffon.backbone.guard import flatten_warning, folded_norms_warning

        samples = samples_of(
            catalog, recipe.image_size, resize, views=recipe.views, augment=recipe.augment, together=together
        )
        if warning := flatten_warning(model, len(samples.train)):
            self.note(warning)
        renewed = any(stage.batch_norm == "train" and not recipe.solves(stage) for stage in recipe.stages)
        if renewed and (warning := folded_norms_warning(model)):
            self.note(warning)
        if recipe.norm_statistics == "adapted":
            self._adapt_norms(model, samples)
        return samples

    def _adapt_norms(self, model: Any, samples: Samples) -> None:
        from greffon.training.adapt_norms import adapt_norms

        with self.reporter.bar("statistics of BatchNorm", total=None):
            count = adapt_norms(model, samples, seed=self.recipe.seed)
        self.notes.append(f"BatchNorm has the statistics of {count} pictures to learn from; the baselines have not")
        self.reporter.note(self.notes[-1])

    def _stages(
        self, model: Any, recipe: Recipe, samples: Samples, store: Any, first: FirstPass | None, choices: Choices,
        solver: Solver,
    ) -> Any:  # fmt: skip
        from greffon.training.stage_memory import Memory
        from greffon.training.stages import Stages

        memory = Memory(model, self.partial, self.interrupts)
        if self.partial is not None and self.partial.is_reopened:
            self.reporter.note(memory.where(recipe.stages))
        stages = Stages(
            model, recipe, samples, store, self.reporter, notes=self.notes, earlier=first.planned if first else None,
            choices=choices, memory=memory, solver=solver,
        )  # fmt: skip
        self.elapsed.work = stages.work
        if self.partial is not None:
            self.partial.keep_times()
        return stages

    def _choices(self) -> Choices:
        from greffon.training.choices import Choices

        if self.partial is None:
            return Choices(self._known_choices)
        kept = self.partial
        return Choices(kept.read_json("choices"), lambda chosen: kept.write_json("choices", chosen))
