"""What the scan of the files says: what cannot be read, what is no picture, what looks odd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greffon.checking.findings import Finding
from greffon.pictures.scan import Scanned, scan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.pictures.catalog import Catalog
    from greffon.training.progress import Reporter


def scanned_pictures(catalog: Catalog, reporter: Reporter) -> Mapping[str, Scanned]:
    """What the scan found of each picture, by its path; read now where the catalog was a table that was loaded."""
    if catalog.scanned:
        return catalog.scanned
    frame = catalog.ok
    paths = frame["path"].to_list()
    with reporter.bar("reading pictures", total=len(paths)) as advance:
        found = scan(catalog.root, list(zip(paths, catalog.locators(frame), strict=True)), advance=advance)
    return dict(zip(paths, found, strict=True))


def of_the_scan(catalog: Catalog, scanned: Mapping[str, Scanned]) -> list[Finding]:
    """Files in quarantine, warnings about those that can be read, and what is ignored."""
    found = []
    for path, reason in catalog.quarantined.select("path", "reason").iter_rows():
        kind = scanned[path].fault if path in scanned else None
        found.append(Finding(f"unreadable: {kind or 'damaged'}", "wrong", reason, (path,), manifest="quarantine"))
    usable = set(catalog.ok["path"])
    for path, each in scanned.items():
        if path not in usable:
            continue
        found += [Finding(one.kind, "look", one.sentence, (path,)) for one in each.findings(path)]
    found += [
        Finding("ignored files", "note", reason, (path,), manifest="ignored")
        for path, reason in catalog.ignored.select("path", "reason").iter_rows()
    ]
    return found
