"""`greffon weights`: weight sets and weight files."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import re
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from greffon.cli.output import Json, plain_table, print_json, reporter, show, size
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group
    from rich.table import Table

    from greffon.training.progress import Advance, Reporter
    from greffon.weights.download import Progress
    from greffon.weights.listing import SetRow

weights = App(name="weights", help="List, inspect, fetch, add and convert weights.")


@weights.command(name="list")
def list_sets(
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False, help="tell sizes and sources too")
    ] = False,
    json: Json = False,
) -> None:
    """List the weight sets that --weights takes by name, and whether they are on this machine.

    `top-1` is what its publisher measured on ImageNet, in percent, on pictures of that many pixels. `checked by` is
    what a download is checked against: `unverified` where nobody published a hash; the first fetch then pins one.
    """
    from greffon.weights.listing import list_sets as rows_of

    rows = rows_of()
    if json:
        print_json({"weight_sets": [asdict(row) for row in rows]})
    else:
        show(_sets_table(rows, every=every))
        for row in rows:
            if row.problem:
                show(f"{row.name}: {row.problem}")


@weights.command
def inspect(
    file: Annotated[
        str, Parameter(help="a weight file, whatever it is called, a folder of one, or the name of a weight set")
    ],
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False, help="list every array")] = False,
    with_hash: Annotated[
        bool, Parameter(name="--hash", negative=(), show_default=False, help="tell the SHA-256: reads the whole file")
    ] = False,
    json: Json = False,
) -> None:
    """Say what a weight file is and what it holds, without running anything in it.

    Only names, shapes and types are read.
    """
    path = _path_of(file)
    found = _contents(path, with_hash=with_hash)
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
        Parameter(name=["--out", "-o"], help="a folder for a weight package, for a machine without a network"),
    ] = None,
    include_top: Annotated[
        bool, Parameter(negative=(), show_default=False, help="the file with the classifier")
    ] = False,
    json: Json = False,
) -> None:
    """Download a weight set and check it: the only command that uses the network.

    Without -o it is put into the cache. With -o it becomes a package: the file, what it is, and its licence, which
    `greffon weights add` installs elsewhere. GREFFON_MIRROR names another place to download from, GREFFON_CACHE
    another cache folder.
    """
    from greffon.weights.fetch import fetch_set
    from greffon.weights.package import make_package

    with _download_bar(reporter(to_stderr=json), name) as progress:
        if out is None:
            found = fetch_set(name, include_top=include_top, progress=progress)
        else:
            found = make_package(name, out, include_top=include_top, progress=progress)
    if json:
        print_json({"weights": name} | asdict(found))
    else:
        for line in (f"{found.path}: {size(found.size)}, SHA-256 {found.sha256}", *found.notes):
            show(line)


@weights.command
def add(
    thing: Annotated[Path, Parameter(name="FILE", help="a weight package's folder, or a weight file")],
    /,
    *,
    name: Annotated[
        str | None, Parameter(help="what --weights shall call a file of your own; a known set's file needs none")
    ] = None,
    preprocessing: Annotated[
        str | None, Parameter(help="what a file of your own was trained with, where it does not tell")
    ] = None,
    variant: Annotated[str | None, Parameter(help="the network of a file of your own, where it does not tell")] = None,
    licence: Annotated[str, Parameter(help="of a file of your own")] = "unknown",
    source: Annotated[str, Parameter(help="of a file of your own: who trained it")] = "",
    json: Json = False,
) -> None:
    """Install weights that were fetched elsewhere, or weights of your own under a name; uses no network.

    Example: greffon weights add my_weights.h5 --name mine --preprocessing caffe
    """
    from greffon.weights.package import Described
    from greffon.weights.package import add as install

    given = {"--preprocessing": preprocessing, "--variant": variant, "--source": source}
    if name is None and any(given.values()):
        named = ", ".join(flag for flag, value in given.items() if value)
        raise InputError(f"{named} describes a file of your own: give it a name too, with --name")
    described = None if name is None else Described(name, variant, preprocessing, licence, source)
    found = install(thing, described)
    if json:
        print_json({"added": [asdict(it) for it in found]})
        return
    for it in found:
        for line in (f"{it.name}: {it.path}, {size(it.size)}, SHA-256 {it.sha256}", *it.notes):
            show(line)


@weights.command
def convert(
    file: Annotated[str, Parameter(help="a weight file, or the name of a weight set")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="the file to write")],
    to: Annotated[
        str | None,
        Parameter(help="safetensors, torch, weights-h5 or keras-h5; by default as the name of the file ends"),
    ] = None,
    include_top: Annotated[
        bool | None, Parameter(show_default=False, help="with the classifier; by default as the file has it")
    ] = None,
    variant: Annotated[str | None, Parameter(help="the network, where the file does not tell")] = None,
    force: Annotated[bool, Parameter(negative=(), show_default=False, help="overwrite the file that is there")] = False,
    json: Json = False,
) -> None:
    """Write weights in another format, every number compared with what was read.

    OUT.safetensors has Keras' names; with --to torch it has those of torchvision and timm (v1.5 only). OUT.weights.h5
    is what Keras 3 loads, and OUT.h5 what keras.applications.ResNet50(weights="OUT.h5") loads (v1 only).
    """
    from greffon.backbone.convert import convert as write

    found = write(file, out, to=to, include_top=include_top, variant=variant, force=force)
    if json:
        print_json(asdict(found))
        return
    top = "with" if found.include_top else "without"
    show(f"{found.path}: {found.format}, variant {found.variant} {top} its classifier, {size(found.size)}")
    for line in (f"{found.parameters:,} parameters, SHA-256 {found.sha256}", *found.notes):
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


def _sets_table(rows: "list[SetRow]", *, every: bool) -> "Table":
    more = ("size", "source") if every else ()
    table = plain_table("name", "network", "top-1", "preprocessing", "here", "checked by", "licence", *more)
    table.columns[0].no_wrap = True
    for row in rows:
        here = "damaged" if row.problem else "yes" if row.cached else "no"
        told = row.accuracy
        top1 = "" if told is None else f"{told['top1']:.1f} at {told['size']}"
        words = (row.name, f"{row.depth} {row.variant}", top1, row.preprocessing, here, row.verified or "", row.licence)
        length = "" if row.size is None else size(row.size)
        table.add_row(*words, *((length, row.source) if every else ()))
    return table


def _path_of(file: str) -> Path:
    """A file or folder, or where a weight set's file is on this machine."""
    from greffon.weights.fetch import require_cached
    from greffon.weights.sets import find_set, known_sets

    path = Path(file).expanduser()
    record = None if path.exists() else find_set(file)
    if record is None:
        if not path.exists():
            from greffon.recipe import nearest

            raise InputError(
                f"expected a weight file or the name of a weight set, and {file!r} is neither"
                f"{nearest(file, list(known_sets()))}"
            )
        return path
    found = require_cached(file)
    if found is None:
        raise InputError(f"the weight set {file!r} has no file: {record.source}")
    return found


def _contents(path: Path, *, with_hash: bool) -> dict[str, Any]:
    from greffon.weights.cache import digests
    from greffon.weights.identify import identify
    from greffon.weights.read import opened

    with opened(path) as contents:
        identity = identify(contents)
        arrays = [
            {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype}
            for name, tensor in contents.tensors.items()
        ]
        told = {
            "file": path,
            "format": contents.format,
            "bytes": sum(it.stat().st_size for it in (path.rglob("*") if path.is_dir() else [path]) if it.is_file()),
            "sentence": identity.sentence(),
            "parameters": contents.parameters,
            "layers": len({_LAYER_END.sub("", name) for name in contents.tensors}),
            "metadata": contents.metadata,
        }
        notes = [*contents.notes, *identity.notes, *identity.naming.notes]
    if with_hash and path.is_dir():
        raise InputError(f"--hash is for a file, and {path} is a folder")
    told["sha256"] = digests(path).sha256 if with_hash else None
    return told | identity.as_dict() | {"notes": notes, "arrays": arrays}


def _contents_table(found: dict[str, Any], *, every: bool) -> "Group":
    from rich.console import Group
    from rich.text import Text

    arrays = found["arrays"]
    lines = [
        f"{found['file']}: {found['format']}, {size(found['bytes'])}",
        f"{found['parameters']:,} parameters in {len(arrays)} arrays of {found['layers']} layers",
        found["sentence"],
        *([f"SHA-256 {found['sha256']}"] if found["sha256"] else []),
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


_LAYER_END = re.compile(r"[./][^./]*$")  # the weight's name behind its layer's
_ENDS = 6  # arrays shown at both ends of a long list
_MEGABYTE = 1_000_000
