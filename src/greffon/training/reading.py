"""The pictures of a training, read: without those that cannot be used or that the user decided to leave out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from greffon.pictures.quarantine import obey
from greffon.say import are, counted

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from greffon.pictures.catalog import Catalog
    from greffon.pictures.sources.columns import Columns
    from greffon.training.progress import Reporter

# Pictures named one by one before the rest is only counted.
_SHOWN = 10


def read_pictures(
    data: Any, columns: Columns | None, findings: pl.DataFrame | None, *, reporter: Reporter,
    note: Callable[[str], None],
) -> tuple[Catalog, Catalog]:  # fmt: skip
    """Scan the pictures.

    Args:
        data: what `greffon.train` takes.
        columns: which columns of a table say what; None: those with usual names.
        findings: a manifest with the user's decisions; None: there is none.
        reporter: told how far it is.
        note: called with what the user should know.

    Returns:
        What was found, and what of it is used.

    Raises:
        DataError: nothing can be learned from them.
    """
    from greffon.pictures.sources.choose import catalog_of

    with reporter.bar("reading pictures", total=None) as advance:
        found = catalog = catalog_of(data, columns=columns, advance=advance)
    if findings is not None:
        frame, notes = obey(catalog.frame, findings)
        catalog = _decided(catalog, frame)
        for each in notes:
            note(each)
    for what, frame in (("left out (cannot be used)", catalog.quarantined), ("ignored", catalog.ignored)):
        if len(frame):
            note(f"{counted(len(frame), 'file')} {are(len(frame))} {what}:{_listed(frame)}")
    if oddities := _oddities(catalog):
        note(f"pictures worth a look (greffon check shows them): {oddities}")
    return found, catalog


def _decided(catalog: Catalog, frame: pl.DataFrame) -> Catalog:
    """The catalog with another table; what was said of copies is said again of those that are left."""
    from greffon.pictures.catalog import notes_on_copies

    before = notes_on_copies(catalog)
    decided = replace(catalog, frame=frame)
    return replace(decided, notes=(*(it for it in catalog.notes if it not in before), *notes_on_copies(decided)))


def _oddities(catalog: Catalog) -> str:
    """What the scan found odd, counted; `greffon check` shows the pictures."""
    usable = set(catalog.ok["path"])
    kinds = Counter(
        finding.kind for path, found in catalog.scanned.items() if path in usable for finding in found.findings(path)
    )
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def _listed(frame: pl.DataFrame) -> str:
    lines = [f"\n  {path}: {reason}" for path, reason in frame.select("path", "reason").head(_SHOWN).iter_rows()]
    rest = len(frame) - len(lines)
    return "".join(lines) + (f"\n  and {rest} more" if rest else "")
