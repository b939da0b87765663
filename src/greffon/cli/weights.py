"""`greffon weights`: weight sets and weight files."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from greffon.cli.output import Json, plain_table, print_json, reporter, show, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group
    from rich.table import Table

    from greffon.training.progress import Advance, Reporter
    from greffon.weights.download import Progress
    from greffon.weights.fetch import SetRow
    from greffon.weights.read import WeightArrays

weights = App(name="weights", help="List, inspect and fetch weight sets.")


@weights.command(name="list")
def list_sets(*, json: Json = False) -> None:
    """List the weight sets that --weights takes by name, and whether they are on this machine."""
    from greffon.weights.fetch import list_sets as rows_of

    rows = rows_of()
    if json:
        print_json({"weight_sets": [asdict(row) for row in rows]})
    else:
        show(_sets_table(rows))


@weights.command
def inspect(
    file: Annotated[Path, Parameter(help="a weight file; what it is called does not matter")],
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False, help="list every array")] = False,
    json: Json = False,
) -> None:
    """Say what a weight file is and what it holds, without running anything in it."""
    from greffon.weights.read import read

    found = _contents(file, read(file))
    if json:
        print_json(found)
    else:
        show(_contents_table(found, every=every))


@weights.command
def fetch(
    name: Annotated[str, Parameter(help="a weight set's name")],
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(name=["--out", "-o"], help="a folder, for a machine without a network; else the cache"),
    ] = None,
    include_top: Annotated[
        bool, Parameter(negative=(), show_default=False, help="the file with the classifier")
    ] = False,
    json: Json = False,
) -> None:
    """Download a weight set and check it: the only command that uses the network.

    GREFFON_MIRROR names another place to download from, GREFFON_CACHE another cache folder.
    """
    from greffon.weights.fetch import fetch_set

    with _download_bar(reporter(to_stderr=json), name) as progress:
        found = fetch_set(name, out, include_top=include_top, progress=progress)
    if json:
        print_json({"weights": name} | asdict(found))
    else:
        for line in (f"{found.path}: {size(found.size)}, SHA-256 {found.sha256}", *found.notes):
            show(line)


@contextmanager
def _download_bar(progress: "Reporter", name: str) -> "Iterator[Progress]":
    """A bar that appears with the first byte: what is here already needs none."""
    with ExitStack() as stack:
        bars: list[Advance] = []
        shown = 0

        def tell(so_far: int, total: int | None) -> None:
            nonlocal shown
            if not bars:
                megabytes = None if total is None else total // _MEGABYTE
                bars.append(stack.enter_context(progress.bar(name, total=megabytes, unit="MB")))
            bars[0](so_far // _MEGABYTE - shown)
            shown = so_far // _MEGABYTE

        yield tell


def _sets_table(rows: "list[SetRow]") -> "Table":
    table = plain_table("name", "variant", "here", "size", "licence", "source")
    for row in rows:
        here = "damaged" if row.problem else "yes" if row.cached else "no"
        length = "" if row.size is None else size(row.size)
        table.add_row(row.name, row.variant, here, length, row.licence, row.source)
    return table


def _contents(file: Path, found: "WeightArrays") -> dict[str, Any]:
    from greffon.weights.identify import variant_of

    sure, variant = variant_of(found)
    arrays = [
        {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)} for name, array in found.arrays.items()
    ]
    return {
        "file": file,
        "format": found.format,
        "bytes": file.stat().st_size,
        "variant": variant,
        "variant_is_sure": sure,
        "parameters": sum(int(array.size) for array in found.arrays.values()),
        "layers": len({name.rpartition("/")[0] for name in found.arrays}),
        "notes": found.notes,
        "metadata": found.metadata,
        "arrays": arrays,
    }


def _contents_table(found: dict[str, Any], *, every: bool) -> "Group":
    from rich.console import Group
    from rich.text import Text

    arrays = found["arrays"]
    because = "as the file says" if found["variant_is_sure"] else "to judge by its shapes"
    lines = [
        f"{found['file']}: {found['format']}, {size(found['bytes'])}",
        f"{found['parameters']:,} parameters in {len(arrays)} arrays of {found['layers']} layers",
        f"if it is a ResNet, variant {found['variant']}, {because}",
        *(f"note: {note}" for note in found["notes"]),
        *(f"{name}: {value}" for name, value in found["metadata"].items()),
    ]
    table = plain_table("array", "shape", "dtype")
    hidden = 0 if every else max(len(arrays) - 2 * _ENDS, 0)
    for place, array in enumerate(arrays):
        if hidden and place == _ENDS:
            table.add_row(f"... {hidden} more (--all)", "", "")
        if not hidden or not _ENDS <= place < len(arrays) - _ENDS:
            table.add_row(Text(array["name"]), "x".join(map(str, array["shape"])) or "scalar", array["dtype"])
    return Group(*(Text(line) for line in lines), table)


_ENDS = 6  # arrays shown at both ends of a long list
_MEGABYTE = 1_000_000
