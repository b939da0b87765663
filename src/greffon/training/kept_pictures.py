"""The pictures of a training: kept for a resumed one, taken from a run, and compared with what the files are now."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from greffon.errors import DataError
from greffon.pictures.catalog import Catalog, listed
from greffon.pictures.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from greffon.bundle.read import Bundle
    from greffon.pictures.sources.columns import Columns
    from greffon.training.partial import Partial


def columns_to_json(columns: Columns | None) -> dict[str, Any] | None:
    """For `columns_from_json`."""
    return None if columns is None else asdict(columns)


def columns_from_json(values: Mapping[str, Any] | None) -> Columns | None:
    """The columns again."""
    from greffon.pictures.sources.columns import Columns

    if values is None:
        return None
    given: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in values.items()}
    return Columns(**given)


def place_of(data: Any) -> str | None:
    """Where data is, such that another process in another folder finds it; None for objects of this process."""
    from greffon.pictures.sources.locate import is_address

    if not isinstance(data, str | Path):
        return None
    if is_address(str(data)):
        return str(data)
    path = Path(data).expanduser()
    return str(path if path.is_absolute() else Path.cwd() / path)


def keep_catalog(partial: Partial, found: Catalog, used: Catalog, notes: Sequence[str]) -> None:
    """Keep what was found, and what of it is used."""
    partial.write_frame("found", found.frame)
    partial.write_frame("catalog", used.frame)
    about = {"classes": list(used.class_names), "root": str(used.root.resolve()), "notes": list(notes)}
    partial.write_json("catalog", about | {"of_catalog": list(used.notes)})


def recall_catalog(partial: Partial) -> tuple[Catalog, Catalog, list[str]] | None:
    """What was found, what of it is used, and the notes on that; None where the training did not get so far."""
    about, files = partial.read_json("catalog"), [partial.frame("found"), partial.frame("catalog")]
    if about is None or None in files:
        return None
    names, root = tuple(about["classes"]), Path(about["root"])
    found, used = (Catalog(pl.read_parquet(file), names, root) for file in files if file is not None)
    return found, replace(used, notes=tuple(about["of_catalog"])), list(about["notes"])


def catalog_of_run(bundle: Bundle) -> Catalog:
    """The pictures that a run was trained on, at the places where they were then."""
    frame = bundle.split.with_columns(state=pl.lit("ok"), reason=pl.lit(""))
    return Catalog(frame, tuple(bundle.class_names), Path(str(bundle.record.get("root", "."))))


def check_same_files(catalog: Catalog, what: str, advance: Callable[[int], None] | None = None) -> None:
    """Compare the files of the pictures to learn from and to validate on with what is known of them.

    Args:
        catalog: with hashes.
        what: whose pictures they are, for the message.
        advance: called with how many more were looked at.

    Raises:
        DataError: some are gone, or have another content.
    """
    paths = catalog.ok["path"].to_list()
    scanned = scan(catalog.root, list(zip(paths, catalog.locators(catalog.ok), strict=True)), advance=advance)
    gone: list[str] = []
    changed: list[str] = []
    for path, content, side, now in zip(paths, catalog.ok["hash"], catalog.ok["split"], scanned, strict=True):
        if side != "test" and now.hash != content:
            (changed if now.hash else gone).append(path)
    _refuse(what, {"gone": gone, "changed": changed}, str(catalog.root))


def check_same_data(before: Catalog, now: Catalog, what: str) -> None:
    """Compare a data source that was read again with what it was.

    Raises:
        DataError: pictures came, went, or have another content or label.
    """
    columns = ["hash", "labels" if before.several_labels else "label", "split"]
    then, there = (
        {row[0]: row[1:] for row in it.frame.filter(pl.col("state") != "ignored").select("path", *columns).iter_rows()}
        for it in (before, now)
    )
    found = {
        "gone": [path for path in then if path not in there],
        "changed": [path for path in then if path in there and there[path] != then[path]],
        "new": [path for path in there if path not in then],
    }
    _refuse(what, found, str(now.root))


_MENDS = {
    "gone": ("put it back", "put them back"),
    "changed": ("put back what it was", "put back what they were"),
    "new": ("take it away again", "take them away again"),
}


def _refuse(what: str, found: Mapping[str, Sequence[str]], root: str) -> None:
    if not any(found.values()):
        return
    given = {name: list(paths) for name, paths in found.items() if paths}
    lines = [
        f"  {len(paths)} {name}: {listed(paths)} ({_MENDS[name][len(paths) > 1]})" for name, paths in given.items()
    ]
    raise DataError("\n".join([f"the pictures in {root} are not those of {what}:", *lines, "Or train anew"]))


def is_gone(data: Any) -> bool:
    """Whether data is the name of a file or folder that is not there; an address or a pattern is looked into later."""
    from greffon.pictures.sources.locate import is_address

    place = place_of(data)
    return place is not None and not is_address(place) and not set("*?[") & set(place) and not Path(place).exists()
