"""`greffon check`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from greffon.bundle.commands import command_line
from greffon.cli.data import ColumnNames, Data, column_words, columns_of
from greffon.cli.output import Json, print_json, reporter, show
from greffon.errors import CheckFailedError

if TYPE_CHECKING:
    from greffon.checking.report import Check


def check(  # noqa: PLR0913 - all but the first are options, by keyword only
    data: Data,
    /,
    *,
    weights: Annotated[
        str, Parameter(help="a weight set's name, a weight file or a run, by which pictures are alike; none: without")
    ] = "imagenet",
    image_size: Annotated[int, Parameter(help="side of the network's input, in pixels")] = 224,
    resize: Annotated[
        Literal["auto", "crop", "stretch", "pad"],
        Parameter(help="how a picture becomes square; auto: as the weight set's record says"),
    ] = "auto",
    out: Annotated[
        Path | None,
        Parameter(name=["--out", "-o"], help="a folder for check.html, manifest.csv and preview.png"),
    ] = None,
    html: Annotated[Path | None, Parameter(help="write the page to this file")] = None,
    preview: Annotated[
        Path | None, Parameter(help="write what the network will see to this file (PNG or JPEG)")
    ] = None,
    manifest: Annotated[
        Path | None, Parameter(help="an earlier manifest with your decisions; by default the one in --out")
    ] = None,
    strict: Annotated[
        bool, Parameter(negative=(), show_default=False, help="what is to be looked at counts as wrong too")
    ] = False,
    seed: Annotated[int, Parameter(help="of folds and shuffles")] = 0,
    columns: ColumnNames = (),
    json: Json = False,
) -> int:
    """Look at pictures before anything is learned from them.

    Wrong (exit code 4): files that cannot be read, copies on different sides of a given split or under different
    labels, groups torn apart, classes too small. To be looked at: likely label errors, outliers, classes hard to tell
    apart, imbalance, classes that size, colour or camera alone give away; with --strict these are exit code 4 too.

    Decide in the page or in the manifest, then run it again, or `greffon train DATA --manifest DIR/manifest.csv`.

    Example: greffon check photos --weights thin -o looked-at
    """
    named = columns_of(columns)
    from greffon.checking.check import check as run_check
    from greffon.checking.page import require_page

    if html is not None:
        require_page()
    found = run_check(
        data,
        weights=weights,
        image_size=image_size,
        resize=resize,
        columns=named,
        manifest=manifest,
        out=out,
        seed=seed,
        reporter=reporter(to_stderr=True),
    )
    if html is not None:
        found.save_page(html)
    if preview is not None:
        found.save_preview(preview)
    if json:
        print_json({"data": data, **found.to_dict()})
    else:
        show(found)
        flags = {"--weights": weights, "--image-size": image_size, "--resize": resize, "--seed": seed}
        again = [*column_words(columns), *(["--strict"] if strict else [])]
        for line in _going_on(found, data, flags | {"--manifest": manifest}, again):
            show(line)
    passed = found.spotless if strict else found.ok
    return 0 if passed else CheckFailedError.exit_code


# What `greffon train` has by the same names, with the same defaults.
_DEFAULTS = {"--weights": "imagenet", "--image-size": 224, "--resize": "auto", "--seed": 0}


def _going_on(found: "Check", data: str, flags: dict[str, Any], again: list[str]) -> list[str]:
    """The command to go on with: to see everything, or to train by the decisions."""
    count = len(found.findings)
    if count and "page" not in found.files:
        command = command_line("check", data, *_words(flags), *again, "-o", "checked")
        return [f"{'the finding' if count == 1 else f'all {count:,} findings'}, with pictures: {command}"]
    if "manifest" not in found.files:
        return []
    flags = flags | {"--manifest": found.files["manifest"]}
    if flags["--weights"] == "none":  # is how pictures can be looked at, and no way to train
        del flags["--weights"]
    words = [*_words(flags), *(word for word in again if word != "--strict")]
    return [f"greffon train obeys it: {command_line('train', data, '-o', 'RUN', *words)}"]


def _words(flags: dict[str, Any]) -> list[str]:
    given = {flag: value for flag, value in flags.items() if value is not None and value != _DEFAULTS.get(flag)}
    return [str(word) for pair in given.items() for word in pair]
