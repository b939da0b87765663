"""`greffon.train`: from labelled pictures to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.bundle.write import check_out
from greffon.pictures.quarantine import load_manifest
from greffon.pictures.split import read_split
from greffon.recipe import Recipe
from greffon.training.job import Job
from greffon.training.partial import EVERY, Partial
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.start import find_start
from greffon.training.whole_run import WholeRun

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.pictures.sources.columns import Columns
    from greffon.training.run import Run


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
    # Whatever can be wrong without looking at the pictures comes before them: that takes long.
    start = find_start(recipe.weights)
    sides = None if split is None else read_split(split)
    findings = None if manifest is None else load_manifest(manifest)
    asked = _asked(data, recipe, columns, split, manifest) | {"overwrite": overwrite, "pictures": pictures}
    partial = None
    if checkpoint_every is not None:
        partial = Partial.create(place, asked, overwrite=overwrite, every=checkpoint_every)
    purpose = WholeRun(place, asked=asked, overwrite=overwrite)
    job = Job(recipe, start, reporter or ConsoleReporter(), purpose, sides=sides, partial=partial)
    with job.may_be_interrupted(place):
        return job.run(job.read(data, columns, findings))


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
