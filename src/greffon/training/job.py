"""`greffon.train`: from labelled pictures to a run."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from greffon.bundle.write import BundleContents, check_model, check_out, write_bundle
from greffon.errors import GreffonError
from greffon.pictures.quality import crop_note
from greffon.pictures.quarantine import load_manifest, obey
from greffon.pictures.skipped import Skipped
from greffon.pictures.split import apply_split, read_split, split
from greffon.recipe import Recipe
from greffon.training.checkpoint import CheckpointError
from greffon.training.interrupts import Interrupts
from greffon.training.partial import EVERY, Partial
from greffon.training.pooling import choose_head
from greffon.training.progress import ConsoleReporter, Reporter, duration
from greffon.training.samples import GoneBadError, without
from greffon.training.solver import Solver
from greffon.training.start import Start, build_backbone, find_start, graft_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import polars as pl

    from greffon.bundle.predict import Predictor
    from greffon.evaluation.baselines import Baselines
    from greffon.evaluation.folds import Folds
    from greffon.evaluation.measures import Measures
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.sources.columns import Columns
    from greffon.recipe import Head
    from greffon.training.choices import Choices
    from greffon.training.first_pass import FirstPass
    from greffon.training.near_copies import NearCopies
    from greffon.training.stages import StageResult, Stages
    from greffon.weights.sets import Preprocessing

    Array = np.ndarray[Any, Any]

# Pictures named one by one before the rest is only counted.
_SHOWN = 10


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: the folder that it left.
        measures: of the validation pictures.
        summary: the figures that `--json` prints.
        baselines: majority class, nearest neighbour and solved head on the same pictures; None where near-copies were
            not looked for, which gives the features.
        folds: repeated folds of the solved head, a number that nothing was chosen by; None where there is a test/ to be
            asked, where there are too many pictures, or without features.
        about_folds: what is to be said of them, or instead of them.
    """

    path: Path
    measures: Measures = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    baselines: Baselines | None = field(default=None, repr=False)
    folds: Folds | None = field(default=None, repr=False)
    about_folds: str = field(default="", repr=False)

    def load(self) -> Predictor:
        """What predicts with the run's model."""
        from greffon.bundle.predict import load

        return load(self.path)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __rich__(self) -> str:
        from rich.markup import escape

        return escape(str(self))

    def _lines(self) -> list[str]:
        saved = self.summary["seconds_saved"]
        lines = [] if self.folds is None else [str(self.folds) + (f" ({self.about_folds})" if self.about_folds else "")]
        if self.folds is None and self.about_folds:
            lines = [self.about_folds]
        above = len(lines) + 1
        lines += [
            f"validation {self.measures.headline()} (also used to choose the epoch, so a little flattering)",
            f"time {duration(self.summary['seconds'])}, "
            f"of which the frozen part {duration(self.summary['trunk_seconds'])}",
        ]
        if saved is not None and saved > 0:
            whole = duration(self.summary["trunk_seconds_every_epoch"])
            lines.append(
                f"running the frozen layers in every epoch would have cost about {whole}, at the speed last measured "
                f"here: {duration(saved)} saved"
            )
        if self.baselines is not None:
            lines[above:above] = str(self.baselines).splitlines()
        return [*lines, f"run {self.path}"]


def train(  # noqa: PLR0913 - all but the first are options, by keyword only
    data: Any,
    *,
    out: str | Path,
    recipe: Recipe | None = None,
    columns: Columns | None = None,
    split: str | Path | None = None,
    manifest: str | Path | None = None,
    reporter: Reporter | None = None,
    overwrite: bool = False,
    checkpoint_every: float | None = EVERY,
    pictures: bool = True,
) -> Run:
    """Train a classifier on labelled pictures.

    Args:
        data: a folder with one folder of pictures per class, or with train/ (and val/, test/) that hold such folders;
            a table (CSV, Parquet, JSON Lines, a DataFrame) of paths and labels; tar shards; arrays (pictures, labels);
            a `tf.data.Dataset`; a dataset of Hugging Face's library; an address of any of these; a catalog that was
            saved.
        out: the folder of the run; it appears when everything is written.
        recipe: every option; by default the head, then the last block, on ImageNet weights.
        columns: which columns of a table say what; by default those with usual names.
        split: a written split (`split.parquet` of a run, or JSON), to put every picture on the side where it was.
        manifest: a table of findings with the user's decisions, as `greffon check` writes it.
        reporter: told what happens; by default the console.
        overwrite: whether an earlier run there may be replaced, and an interrupted training given up.
        checkpoint_every: seconds between two checkpoints in `OUT.partial`, which `greffon.resume` goes on from,
            whatever ends this process; more where writing one takes long. None: no checkpoints.
        pictures: whether the run may hold small copies of some of the pictures: eight as probes, and up to 1,000
            thumbnails with what the network sees in them. False: its probes are rendered ones.

    Returns:
        The run. `run.load()` predicts with it; `model.keras` in its folder opens with plain Keras.

    Raises:
        InputError: an option, the weights or the output folder cannot be used.
        DataError: the pictures cannot be learned from as they are.
        CheckFailedError: something frozen moved.
        InterruptedTraining: Ctrl-C or SIGTERM; a checkpoint was written if the training had come so far.

    Example:
        >>> import greffon, tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.progress import Reporter
        >>> folder = tempfile.mkdtemp()
        >>> recipe = greffon.Recipe(weights="thin", image_size=32, stages=[greffon.Stage(epochs=1)])
        >>> run = greffon.train(demo_pictures(folder), out=folder + "/run", recipe=recipe, reporter=Reporter())
        >>> sorted(run.summary)[:2]
        ['accuracy', 'accuracy_interval']
    """
    place = check_out(out, overwrite=overwrite)
    recipe = recipe or Recipe()
    start = find_start(recipe.weights)
    asked = _asked(data, recipe, columns, split, manifest) | {"overwrite": overwrite, "pictures": pictures}
    partial = None
    if checkpoint_every is not None:
        partial = Partial.create(place, asked, overwrite=overwrite, every=checkpoint_every)
    job = Job(recipe, start, reporter or ConsoleReporter(), split, partial=partial)
    job.asked = asked
    with job.may_be_interrupted(place):
        return job.run(job.read(data, columns, manifest), place, overwrite=overwrite)


class Job:
    """One training.

    Args:
        recipe: every option.
        start: the weights.
        reporter: told what happens.
        written: a written split.
        partial: where checkpoints go, and where an interrupted training left them; None: there are none.
        choices: what an earlier training chose by timing.
    """

    def __init__(
        self, recipe: Recipe, start: Start, reporter: Reporter, written: str | Path | None, *,
        partial: Partial | None = None, choices: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.start, self.reporter, self.written = recipe, start, reporter, written
        self.partial, self.known_choices = partial, choices
        self.interrupts = Interrupts()
        self.asked: dict[str, Any] = {}
        self.notes: list[str] = []
        if partial is not None:
            partial.warn = self.note
        self._chosen: dict[str, Any] = {}
        self._beside: Callable[[Measures], Baselines] | None = None
        self._folds: Callable[[], tuple[Folds | None, str]] = lambda: (None, "")
        self._features: Callable[[Array], Array] | None = None
        self._began = time.perf_counter()

    def read(self, data: Any, columns: Columns | None, manifest: str | Path | None) -> Catalog:
        """The pictures, without those that cannot be used or that the manifest leaves out."""
        from greffon.pictures.sources.choose import catalog_of

        with self.reporter.bar("reading pictures", total=None) as advance:
            found = catalog = catalog_of(data, columns=columns, advance=advance)
        if manifest is not None:
            frame, notes = obey(catalog.frame, load_manifest(manifest))
            catalog = _decided(catalog, frame)
            for note in notes:
                self.note(note)
        for what, frame in (("cannot be used and are left out", catalog.quarantined), ("are ignored", catalog.ignored)):
            if len(frame):
                self.note(f"{len(frame)} files {what}:{_listed(frame)}")
        self._note_warnings(catalog)
        if catalog.several_labels and self.recipe.head.output != "sigmoid":
            self.note("pictures may have several labels: the head has a sigmoid for each class, not one softmax")
        self._keep(found, catalog)
        return self.prepared(catalog)

    def prepared(self, catalog: Catalog) -> Catalog:
        """What there is to do before the training with pictures that were read, now or earlier."""
        if catalog.several_labels and self.recipe.head.output != "sigmoid":
            self.recipe = self.recipe.replace(head=self.recipe.head.replace(output="sigmoid"))
        self._side(catalog, ())  # too few pictures are found out before the trunk runs
        return catalog

    def _keep(self, found: Catalog, used: Catalog) -> None:
        """Keep what a resumed training needs of the pictures."""
        if self.partial is None:
            return
        from greffon.training.kept_pictures import keep_catalog

        keep_catalog(self.partial, found, used, self.notes)
        if self.written is not None:
            self.partial.write_frame("split", read_split(self.written))

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
                self.reporter.warn(f"interrupted; go on with greffon train --resume {out} (greffon.resume)")
            raise
        finally:
            if self.partial is not None:
                self.partial.release()
        if self.partial is not None:
            self.partial.discard()

    def _note_warnings(self, catalog: Catalog) -> None:
        """What the scan found odd, counted; `greffon check` shows the pictures."""
        usable = set(catalog.ok["path"])
        kinds = Counter(
            finding.kind
            for path, found in catalog.scanned.items()
            if path in usable
            for finding in found.findings(path)
        )
        if kinds:
            counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
            self.note(f"pictures worth a look (greffon check shows them): {counts}")

    def run(self, catalog: Catalog, out: Path, *, overwrite: bool) -> Run:
        """Train; again without them where pictures go bad meanwhile, which costs little: the rest is stored."""
        skipped = Skipped(len(catalog.ok))
        before = list(self.notes)
        while True:
            try:
                return self._run(catalog, out, overwrite=overwrite)
            except GoneBadError as bad:
                catalog = without(catalog, bad, skipped)
                self.notes = list(before)
                self._begins_anew(catalog)
                self.note(skipped.note())

    def _begins_anew(self, catalog: Catalog) -> None:
        """With fewer pictures: what was kept of the stages is of others."""
        if self.partial is not None:
            self.partial.forget()
            self.partial.write_frame("catalog", catalog.frame)

    def _choices(self) -> Choices:
        from greffon.training.choices import Choices

        if self.partial is None:
            return Choices(self.known_choices)
        kept = self.partial
        return Choices(kept.read_json("choices"), lambda chosen: kept.write_json("choices", chosen))

    def _run(self, catalog: Catalog, out: Path, *, overwrite: bool) -> Run:
        import keras

        from greffon.training.first_pass import features_of_sides, folds_of, set_beside
        from greffon.training.gradual import gradual_stages
        from greffon.training.samples import samples_of
        from greffon.training.stage_memory import Memory

        recipe = self.recipe
        keras.utils.set_random_seed(recipe.seed)
        backbone, preprocessing, notes = self._backbone(recipe)
        model, more = graft_head(backbone, preprocessing, self.start, recipe.head, catalog.class_names)
        check_model(model)  # before the training: a head that cannot be saved would cost all of it
        recipe = self.recipe = gradual_stages(recipe, model)
        for note in notes + more:
            self.notes.append(note)
            self.reporter.note(note)
        resize = preprocessing.resize if recipe.resize == "auto" else recipe.resize
        if resize == "crop" and (lost := crop_note(catalog.ok.select("path", "width", "height").iter_rows())):
            self.note(lost)
        store, choices = self._store(), self._choices()
        first = self._look(
            model, recipe, catalog, resize, store, reporter=self.reporter, notes=self.notes, choices=choices
        )
        catalog = self._split(catalog, first.near if first else None)
        together = first.near.together if first and first.near else []
        solver = Solver()
        head = self._head(first, catalog, together, solver)
        if head is not None:
            recipe = recipe.replace(head=head)
            model, _ = graft_head(backbone, preprocessing, self.start, head, catalog.class_names)
        samples = samples_of(
            catalog, recipe.image_size, resize, views=recipe.views, augment=recipe.augment, together=together
        )
        self._warn_of_flatten(model, len(samples.train))
        if recipe.norm_statistics == "adapted":
            self._adapt_norms(model, samples)
        earlier = first.planned if first else None
        stages = self._make_stages(
            model, recipe, samples, store, self.reporter, notes=self.notes, earlier=earlier, choices=choices,
            memory=Memory(model, self.partial, self.interrupts), solver=solver,
        )  # fmt: skip
        results, probabilities = stages.run()
        self._features = features_of_sides(first, catalog) if first else None
        if first is not None:
            self._folds = lambda: folds_of(first, catalog, together, recipe)
        if first is not None and first.near is not None:
            self._beside = lambda measures: set_beside(
                first, catalog, together, recipe=recipe, measures=measures, solver=solver
            )
        return self._finish(out, overwrite, model, catalog, resize, results, probabilities, stages)

    def _adapt_norms(self, model: Any, samples: Any) -> None:
        from greffon.training.adapt_norms import adapt_norms

        with self.reporter.bar("statistics of BatchNorm", total=None):
            count = adapt_norms(model, samples, seed=self.recipe.seed)
        self.notes.append(f"BatchNorm has the statistics of {count} pictures to learn from; the baselines have not")
        self.reporter.note(self.notes[-1])

    @property
    def _several(self) -> bool:
        return self.recipe.head.output == "sigmoid"

    def _head(
        self, first: FirstPass | None, catalog: Catalog, together: Sequence[Sequence[str]], solver: Solver
    ) -> Head | None:
        """The head with what suits best, where the recipe leaves something open and it is not the average."""
        found = None if first is None else choose_head(first.features, catalog, together, self.recipe, solver)
        if found is None:
            return None
        self.reporter.note(found.said)
        self._chosen["pool"] = found.record
        return found.head

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
        return catalog

    def _side(self, catalog: Catalog, together: Sequence[Sequence[str]]) -> Catalog:
        """Every picture on its side: as it was written, or split anew."""
        if self.written is None:
            return split(catalog, validation=self.recipe.validation, seed=self.recipe.seed, together=together)
        return apply_split(catalog, read_split(self.written))

    def _backbone(self, recipe: Recipe) -> tuple[Any, Preprocessing, list[str]]:
        return build_backbone(self.start, recipe)

    def _look(self, *args: Any, **options: Any) -> FirstPass | None:
        from greffon.training.first_pass import look_first

        return look_first(*args, **options)

    def _make_stages(self, *args: Any, **options: Any) -> Stages:
        from greffon.training.stages import Stages

        return Stages(*args, **options)

    def _store(self) -> Any:
        from greffon.frozen.store import ActivationStore

        return ActivationStore()

    def _warn_of_flatten(self, model: Any, pictures: int) -> None:
        from greffon.backbone.guard import flatten_warning

        warning = flatten_warning(model, pictures)
        if warning:
            self.note(warning)

    def _finish(
        self, out: Path, overwrite: bool, model: Any, catalog: Catalog, resize: Any, results: Sequence[StageResult],
        probabilities: Array, stages: Stages,
    ) -> Run:  # fmt: skip
        import polars as pl

        from greffon.evaluation.calibration import calibrate
        from greffon.evaluation.measures import measure
        from greffon.evaluation.table import prediction_table

        held_out = catalog.side("val")
        several = self._several
        labels: list[Any] = catalog.labels_of(held_out) if several else held_out["label"].to_list()
        paths, hashes = held_out["path"].to_list(), held_out["hash"].to_list()
        table = prediction_table(paths, hashes, labels, probabilities, catalog.class_names, several_labels=several)
        measures = measure(table)
        targets = catalog.targets(held_out)
        calibration = calibrate(probabilities, targets, several_labels=several, out_of_fold=stages.out_of_fold)
        beside = self._beside(measures) if self._beside is not None else None
        self._chosen["calibration"] = {
            name: value for name, value in calibration.to_dict().items() if not name.startswith("bins")
        }
        self._chosen["baselines"] = beside.to_dict() if beside else None
        folds, about = self._folds()
        self._chosen["folds"] = folds.to_dict() if folds else None
        summary = self._summary(measures, catalog, results, stages)
        contents = BundleContents(
            model=model,
            class_names=catalog.class_names,
            image_size=self.recipe.image_size,
            resize=resize,
            recipe=self.recipe,
            split=catalog.frame,
            history=pl.DataFrame([row for result in results for row in result.history]),
            validation=table,
            record={
                **summary,
                "stages": [result.to_dict() for result in results],
                "choices": stages.choices.to_dict(),
                "training": self._origin(),
            },
            notes=self.notes,
            calibration=calibration,
            **self._kept(model, catalog, stages),
        )
        path = write_bundle(out, contents, overwrite=overwrite, if_taken="beside")
        run = Run(path, measures, summary, beside, folds, about)
        self.reporter.summary(run)
        return run

    def _kept(self, model: Any, catalog: Catalog, stages: Stages) -> dict[str, Any]:
        """What the run holds of the pictures themselves."""
        if not self.asked.get("pictures", True) or stages.end is None:
            return {}
        from greffon.training.neighbours import neighbours_of

        paths = catalog.side("train")["path"].to_list()
        near = neighbours_of(model, *stages.end, stages.samples, paths, before=self._features)
        return {"pictures": catalog.root, "neighbours": near}

    def _origin(self) -> dict[str, Any]:
        """For the record: where the pictures came from, and what happened to this training."""
        kept = self.partial
        more = {} if kept is None else {"id": kept.job["id"], "resumed": kept.job.get("resumed", 0)}
        cost = {} if kept is None else {"checkpoints": kept.writes, "checkpoint_seconds": round(kept.seconds, 3)}
        return {"data": self.asked.get("data"), "columns": self.asked.get("columns"), **more, **cost}

    def _summary(
        self, measures: Measures, catalog: Catalog, results: Sequence[StageResult], stages: Stages
    ) -> dict[str, Any]:
        work, agreement = stages.work, stages.agreement
        pictures = len(catalog.side("train")) + len(catalog.side("val"))
        seconds = time.perf_counter() - self._began
        passes = sum(result.trunk_macs * len(result.history) for result in results) * pictures
        every_epoch = passes / work.speed if work.speed else None
        return {
            "accuracy": measures.accuracy,
            "accuracy_interval": list(measures.accuracy_interval),
            "balanced_accuracy": measures.balanced_accuracy,
            "log_loss": measures.log_loss,
            "classes": list(catalog.class_names),
            "root": str(catalog.root.resolve()),
            "pictures": {side: len(catalog.side(side)) for side in ("train", "val", "test")},
            "left_out": {"unreadable": len(catalog.quarantined), "ignored": len(catalog.ignored)},
            "seconds": round(seconds, 2),
            "trunk_seconds": round(work.seconds, 2),
            "trunk_seconds_every_epoch": None if every_epoch is None else round(every_epoch, 2),
            "seconds_saved": None if every_epoch is None else round(every_epoch - work.seconds, 2),
            "trunk": work.to_dict(),
            "int8": agreement.to_dict() if agreement else None,
            **self._chosen,
            "notes": list(self.notes),
        }

    def note(self, text: str) -> None:
        """Something that the user should know, now and of the run."""
        self.notes.append(text)
        self.reporter.warn(text)


def _asked(
    data: Any, recipe: Recipe, columns: Columns | None, split: str | Path | None, manifest: str | Path | None
) -> dict[str, Any]:  # fmt: skip
    """What a training was asked for, as JSON takes it."""
    from greffon.training.kept_pictures import columns_to_json, place_of

    return {
        "data": place_of(data),
        "columns": columns_to_json(columns),
        "recipe": recipe.model_dump(mode="json"),
        "own_layer": recipe.head.layer is not None,
        "split": place_of(split),
        "manifest": place_of(manifest),
    }


def _decided(catalog: Catalog, frame: pl.DataFrame) -> Catalog:
    """The catalog with another table; what was said of copies is said again of those that are left."""
    from greffon.pictures.catalog import notes_on_copies

    before = notes_on_copies(catalog)
    decided = replace(catalog, frame=frame)
    return replace(decided, notes=(*(it for it in catalog.notes if it not in before), *notes_on_copies(decided)))


def _listed(frame: pl.DataFrame) -> str:
    lines = [f"\n  {path}: {reason}" for path, reason in frame.select("path", "reason").head(_SHOWN).iter_rows()]
    rest = len(frame) - len(lines)
    return "".join(lines) + (f"\n  and {rest} more" if rest else "")
