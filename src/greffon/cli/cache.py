"""`greffon cache`: what Greffon keeps on disk."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from greffon.cli.output import Json, plain_table, print_json, show, size
from greffon.errors import GreffonError, InputError

if TYPE_CHECKING:
    from rich.console import Group

cache = App(name="cache", help="Show or clear what Greffon keeps on disk.")

Part = Literal["activations", "weights", "pictures", "all"]

_MOST_PARTS = 6  # of a trunk's label
# Folder of the cache -> what lies there: copies of pictures that are no files on this machine.
_PICTURES = {"pictures": "from arrays, tables and datasets", "remote": "fetched from addresses"}


@cache.command
def info(*, json: Json = False) -> None:
    """Show where the cache is, how large it is and what for.

    GREFFON_CACHE names another folder.
    """
    found = _contents()
    if json:
        print_json(found)
    else:
        show(_tables(found))


@cache.command
def clear(
    part: Annotated[
        Part,
        Parameter(
            help="activations can be computed again; weights, and pictures that are no files here, have to be fetched "
            "again"
        ),
    ] = "activations",
    /,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative=(), show_default=False, help="do not ask")] = False,
    json: Json = False,
) -> None:
    """Delete activations, fetched weight files, copies of pictures, or all of it.

    Nothing that was trained is lost: the next training computes the frozen part once more.
    """
    if not yes and not _agreed(part):
        show("nothing deleted")
        return
    freed = 0
    if part in ("activations", "all"):
        from greffon.frozen.store import ActivationStore

        freed += ActivationStore.erase(_folder() / "activations")
    if part in ("weights", "all"):
        freed += _delete_files(_folder() / "weights")
    if part in ("pictures", "all"):
        freed += sum(_delete_tree(_folder() / name) for name in _PICTURES)
    if json:
        print_json({"freed_bytes": freed})
    else:
        show(f"{size(freed)} freed")


def _folder() -> Path:
    from greffon.weights.cache import cache_dir

    return cache_dir()


def _agreed(part: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError("cache clear asks before it deletes, and nobody is there to answer: give --yes")
    from rich.prompt import Confirm

    what = {
        "activations": "all activations",
        "weights": "all fetched weight files",
        "pictures": "all copies of pictures that are no files here",
        "all": "everything",
    }[part]
    return Confirm.ask(f"Delete {what} in {_folder()}?", default=False)


def _contents() -> dict[str, Any]:
    folder = _folder()
    weights = sorted(file for file in (folder / "weights").glob("*") if file.is_file() and file.suffix != ".lock")
    return {
        "folder": folder,
        "activations": _activations(folder / "activations"),
        "weights": [{"file": file.name, "bytes": file.stat().st_size} for file in weights],
        "pictures": {name: _tree_size(folder / name) for name in _PICTURES},
    }


def _activations(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes": 0, "limit_bytes": None, "problem": None, "trunks": []}
    if not (folder / "data.mdb").exists():
        return found
    from greffon.frozen.store import ActivationStore

    try:
        with ActivationStore(folder, readonly=True) as store:
            return {
                "bytes": store.file_bytes,
                "limit_bytes": store.limit_bytes,
                "problem": store.problem,
                "trunks": [
                    {
                        "digest": trunk.digest.hex(),
                        "label": trunk.label,
                        "activations": trunk.entries,
                        "bytes": trunk.size_bytes,
                        "last_used": trunk.last_used.isoformat(timespec="seconds"),
                    }
                    for trunk in store.info()
                ],
            }
    except GreffonError as error:  # damaged: `cache clear` is the way out, so `cache info` must not fail
        return found | {"bytes": (folder / "data.mdb").stat().st_size, "problem": str(error)}


def _tables(found: dict[str, Any]) -> "Group":
    from rich.console import Group
    from rich.text import Text

    kept = found["activations"]
    limit = f" of at most {size(kept['limit_bytes'])}" if kept["limit_bytes"] is not None else ""
    activations = plain_table("trunk", title=f"activations: {size(kept['bytes'])}{limit}")
    activations.add_column("records", justify="right", no_wrap=True)
    activations.add_column("size", justify="right", no_wrap=True)
    activations.add_column("last used (UTC)", no_wrap=True)
    for trunk in _with_heads_together(kept["trunks"]):
        last_used = trunk["last_used"][:16].replace("T", " ")
        name = _shortened(trunk["label"]) or trunk["digest"]
        activations.add_row(Text(name), f"{trunk['activations']:,}", size(trunk["bytes"]), last_used)
    total = sum(file["bytes"] for file in found["weights"])
    weights = plain_table("file", title=f"weights: {size(total)}")
    weights.add_column("size", justify="right", no_wrap=True)
    for file in found["weights"]:
        weights.add_row(Text(file["file"]), size(file["bytes"]))
    parts: list[Any] = [Text(f"cache folder: {found['folder']}")]
    parts += [Text(f"warning: {kept['problem']}", style="yellow")] if kept["problem"] else []
    parts.append(activations if kept["trunks"] else Text(f"activations: {size(kept['bytes'])}"))
    parts.append(weights if found["weights"] else Text("weights: none fetched"))
    for name, what in _PICTURES.items():
        if found["pictures"][name]:
            parts.append(Text(f"pictures {what}: {size(found['pictures'][name])}"))
    return Group(*parts)


def _with_heads_together(trunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Solved heads as one row each for searches and solutions: every problem is a trunk of its own."""
    rows: dict[str, dict[str, Any]] = {}
    for trunk in trunks:
        label, problem, _ = trunk["label"].partition(": ") if trunk["label"].startswith("heads ") else ("", "", "")
        row = rows.setdefault(label if problem else trunk["digest"], dict(trunk))
        if problem:
            row["label"] = label
        if row["digest"] != trunk["digest"]:  # a later one of the same kind; the first was used last
            row["activations"] += trunk["activations"]
            row["bytes"] += trunk["bytes"]
    return list(rows.values())


def _shortened(label: str) -> str:
    """A trunk's label with the first of its cuts alone, where they are many: features of all blocks."""
    parts = label.split(", ")
    if len(parts) <= _MOST_PARTS:
        return label
    return ", ".join([*parts[:3], f"{len(parts) - 4} more", parts[-1]])


def _tree_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _delete_tree(folder: Path) -> int:
    freed = _tree_size(folder)
    if folder.exists():
        shutil.rmtree(folder)
    return freed


def _delete_files(folder: Path) -> int:
    freed = 0
    for file in folder.glob("*"):
        if file.is_file():
            freed += file.stat().st_size
            file.unlink()
    return freed
