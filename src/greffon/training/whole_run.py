"""The purpose of `greffon.train`: a run, the folder that a training leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.bundle.commands import command_line, data_words
from greffon.bundle.flattery import flattery
from greffon.bundle.write import BundleContents, write_bundle
from greffon.training.purpose import Purpose
from greffon.training.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from greffon.evaluation.baselines import Baselines
    from greffon.evaluation.calibration import Calibration
    from greffon.evaluation.folds import Folds
    from greffon.evaluation.measures import Measures
    from greffon.training.job import Job
    from greffon.training.purpose import Ready
    from greffon.training.stage_result import StageResult

    Array = np.ndarray[Any, Any]


class WholeRun(Purpose[Run]):
    """Runs every stage, measures, calibrates, sets beside what needs no training, and writes it all.

    Args:
        out: the folder to write.
        asked: what the training was asked for: `data`, `columns`, and whether the run may hold `pictures`.
        overwrite: whether an earlier run there may be replaced.
    """

    def __init__(self, out: Path, *, asked: Mapping[str, Any], overwrite: bool = False) -> None:
        self._out, self._asked, self._overwrite = out, asked, overwrite

    def result(self, job: Job[Any], ready: Ready) -> Run:
        """Run the stages and write the run."""
        import polars as pl

        from greffon.evaluation.measures import measure
        from greffon.evaluation.table import prediction_table

        catalog, several = ready.catalog, job.several_labels
        results, probabilities = ready.stages.run()
        held_out = catalog.side("val")
        labels: list[Any] = catalog.labels_of(held_out) if several else held_out["label"].to_list()
        paths, hashes = held_out["path"].to_list(), held_out["hash"].to_list()
        table = prediction_table(paths, hashes, labels, probabilities, catalog.class_names, several_labels=several)
        measures = measure(table)
        calibration = self._calibrate(job, ready, probabilities)
        beside, (folds, about) = self._compare(job, ready, measures)
        summary = self._summary(job, ready, measures, results)
        contents = BundleContents(
            model=ready.model,
            class_names=catalog.class_names,
            image_size=job.recipe.image_size,
            resize=ready.resize,
            recipe=job.recipe,
            split=catalog.frame,
            history=pl.DataFrame([row for result in results for row in result.history]),
            validation=table,
            record={
                **summary,
                "stages": [result.to_dict() for result in results],
                "choices": ready.stages.choices.to_dict(),
                "training": self._origin(job),
            },
            notes=job.notes,
            calibration=calibration,
            earlier=job.start.earlier.to_frame(),
            **self._pictures(ready),
        )
        path = write_bundle(self._out, contents, overwrite=self._overwrite, if_taken="beside")
        flatters = tuple(flattery(job.recipe, summary))
        run = Run(path, measures, summary, beside, folds, about, flatters, tuple(_hints(results)))
        job.reporter.summary(run)
        return run

    def _calibrate(self, job: Job[Any], ready: Ready, probabilities: Array) -> Calibration:
        from greffon.evaluation.calibration import calibrate

        targets = ready.catalog.targets(ready.catalog.side("val"))
        found = calibrate(
            probabilities, targets, several_labels=job.several_labels, out_of_fold=ready.stages.out_of_fold
        )
        job.chosen["calibration"] = {
            name: value for name, value in found.to_dict().items() if not name.startswith("bins")
        }
        return found

    def _compare(
        self, job: Job[Any], ready: Ready, measures: Measures
    ) -> tuple[Baselines | None, tuple[Folds | None, str]]:
        """What needs no training on the same pictures, and repeated folds; where a first pass gave the features."""
        from greffon.training.first_pass import folds_of, set_beside

        first, beside = ready.first, None
        if first is not None and first.near is not None:
            beside = set_beside(
                first, ready.catalog, ready.together, recipe=ready.recipe, measures=measures, solver=ready.solver
            )
        job.chosen["baselines"] = beside.to_dict() if beside else None
        folds: tuple[Folds | None, str] = (None, "")
        if first is not None:
            data = data_words(self._asked.get("data"), self._asked.get("columns"))
            again = command_line("evaluate", self._out, *data, "--side", "all", "--folds", 5)
            folds = folds_of(first, ready.catalog, ready.together, ready.recipe, again=again)
        if folds[0] is not None and (known := job.start.earlier.known_to_features(ready.catalog)):
            flattered = f"flattered, as the network it begins with has learned from {known:,} of these pictures"
            folds = folds[0], "; ".join(filter(None, [flattered, folds[1]]))
        job.chosen["folds"] = folds[0].to_dict() if folds[0] else None
        return beside, folds

    def _pictures(self, ready: Ready) -> dict[str, Any]:
        """What the run holds of the pictures themselves."""
        stages, catalog = ready.stages, ready.catalog
        if not self._asked.get("pictures", True) or stages.end is None:
            return {}
        from greffon.training.choose_neighbours import choose_neighbours
        from greffon.training.first_pass import features_of_sides

        paths = catalog.side("train")["path"].to_list()
        before = features_of_sides(ready.first, catalog) if ready.first else None
        near = choose_neighbours(ready.model, *stages.end, stages.samples, paths, before=before, store=stages.store)
        return {"pictures": catalog.root, "neighbours": near}

    def _origin(self, job: Job[Any]) -> dict[str, Any]:
        """For the record: where the pictures came from, and what happened to this training."""
        kept = job.partial
        more = {} if kept is None else {"id": kept.job["id"], "resumed": kept.job.get("resumed", 0)}
        cost = {} if kept is None else {"checkpoints": kept.writes, "checkpoint_seconds": round(kept.seconds, 3)}
        return {"data": self._asked.get("data"), "columns": self._asked.get("columns"), **more, **cost}

    def _summary(
        self, job: Job[Any], ready: Ready, measures: Measures, results: Sequence[StageResult]
    ) -> dict[str, Any]:  # fmt: skip
        catalog, work, agreement = ready.catalog, ready.stages.work, ready.stages.agreement
        pictures = len(catalog.side("train")) + len(catalog.side("val"))
        seconds, trunk_seconds = job.elapsed.seconds, job.elapsed.trunk_seconds
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
            "trunk_seconds": round(trunk_seconds, 2),
            "trunk_seconds_every_epoch": None if every_epoch is None else round(every_epoch, 2),
            "seconds_saved": None if every_epoch is None else round(every_epoch - trunk_seconds, 2),
            "trunk": work.to_dict(),
            "int8": agreement.to_dict() if agreement else None,
            **job.chosen,
            "notes": list(job.notes),
        }


def _hints(results: Sequence[StageResult]) -> list[str]:
    """What to try next: once, for the last stage that was cut off while it still became better."""
    found = [result.stage for result in results if result.still_improves]
    if not found:
        return []
    return [
        f"stage {found[-1].name!r}: the last epoch was the best, so more epochs may help (--epochs "
        f"{2 * found[-1].epochs}, or epochs= of the stage)"
    ]
