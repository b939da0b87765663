"""`greffon demo`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from greffon.cli.output import Json, print_json, reporter, show
from greffon.errors import InputError

if TYPE_CHECKING:
    from greffon.evaluation.measures import Measures

EXPECTED = (0.75, 0.87)
"""Test accuracies that are usual, over seeds and machines."""
PROBE = 0.81
"""Test accuracy of a linear classifier on the same frozen features."""


def demo(
    *,
    out: Annotated[
        Path,
        Parameter(
            name=["--out", "-o"],
            help="a folder for the pictures and the run; a second demo replaces the run of the first",
        ),
    ] = Path("greffon-demo"),
    json: Json = False,
) -> None:
    """Train on the pictures that come with Greffon: two to three minutes on two cores, nothing to download.

    600 small pictures of clothes (Fashion-MNIST) to learn from and 400 to be tested on, on the weight set `thin`
    with the default recipe.
    """
    from greffon.evaluation.evaluate import evaluate
    from greffon.pictures.demo import demo_pictures
    from greffon.recipe import Recipe
    from greffon.training.train import train

    progress = reporter(to_stderr=json)
    if _is_there(out):
        progress.note(f"replacing the run of an earlier demo in {out}")
    data = demo_pictures(out)
    run = train(data, out=out / "run", recipe=Recipe(weights="thin"), reporter=progress, overwrite=True)
    test = evaluate(run.path, data, side="test", progress=progress).measures
    if not EXPECTED[0] <= test.accuracy <= EXPECTED[1]:
        progress.warn("the accuracy is outside the range that is to be expected: something is wrong on this machine")
    if json:
        print_json({"run": run.path, "test": test.to_dict(), "expected_accuracy": EXPECTED, "training": run.summary})
    else:
        show("\n".join(_closing(test, run.summary)))


def _is_there(out: Path) -> bool:
    """Whether a folder holds the run of an earlier demo.

    Raises:
        InputError: it is another folder, which is not to be mixed with a demo.
    """
    from greffon.pictures.demo import FOLDER

    names = {entry.name for entry in out.iterdir() if not entry.name.startswith(".")} if out.is_dir() else set()
    run = out / "run"
    if names and (FOLDER not in names or (run.exists() and not _is_of_the_demo(run, FOLDER))):
        raise InputError(f"{out} is there already and is no folder of an earlier demo: give another one with -o")
    return run.exists()


def _is_of_the_demo(run: Path, pictures: str) -> bool:
    import json

    try:
        root = json.loads((run / "run.json").read_text(encoding="utf-8"))["root"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(root, str) and Path(root).name == pictures


def _closing(test: "Measures", training: dict[str, Any]) -> list[str]:
    """What came out, what was to be expected, and how to go on."""
    low, high = EXPECTED
    return [
        "",
        f"test {test.headline()}",
        f"to be expected: {low} to {high}; a linear classifier on the same frozen features gives {PROBE}",
        *_times(training),
        "",
        "Now your own pictures, one folder per class:",
        "  greffon train PICTURES -o runs/first --weights thin",
        "  greffon predict runs/first PICTURE.jpg",
        "The full ResNet-50 is better and slower: greffon weights fetch imagenet, once; then without --weights thin.",
    ]


def _times(training: dict[str, Any]) -> list[str]:
    from greffon.training.progress import duration

    saved = training["seconds_saved"]
    told = (
        ""
        if not saved or saved < 0
        else f"; running the frozen layers in every epoch would have cost {duration(saved)} more"
    )
    return [f"training took {duration(training['seconds'])}{told}"]
