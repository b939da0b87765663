"""The page of a check: one HTML file with the pictures in it, that asks nothing of any network.

Names of files and classes are a stranger's text: the template escapes all of it, and a content security policy lets
no script run but the page's own, which is named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, InputError
from greffon.pictures.decode import usual_workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from greffon.checking.findings import Finding
    from greffon.pictures.catalog import Catalog

MOST_PICTURES = 400
"""Pictures on a page; 5 kB each."""

MOST_OF_A_KIND = 60
"""Findings of one kind that are shown; the rest is counted, and is in the manifest."""

_SIDE = 144
_IN_ONE = 8  # pictures of one finding
_QUALITY = 72
INSTALL = 'pip install "greffon[check]"'


@dataclass(frozen=True)
class _Tile:
    """A picture on the page: `place` is its row in the list of decisions, -1 for none."""

    path: str
    label: str
    side: str
    image: str
    place: int


@dataclass(frozen=True)
class _Item:
    """A finding on the page."""

    sentence: str
    severity: str
    accepted: bool
    tiles: list[_Tile]
    more: int


@dataclass(frozen=True)
class _Section:
    """Findings of one kind."""

    kind: str
    severity: str
    count: int
    items: list[_Item]
    pictures: bool


def require_page() -> None:
    """Refuse where what writes the page is missing.

    Raises:
        InputError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise InputError(f"the page of a check needs Jinja2: {INSTALL}") from error


def write_page(
    catalog: Catalog, kinds: Mapping[str, list[Finding]], manifest: pl.DataFrame, notes: Sequence[str], file: Path
) -> None:
    """Write the page.

    Args:
        catalog: the pictures.
        kinds: findings by kind, in order.
        manifest: whose decisions the page begins with; its rows are what the page gives back.
        notes: what else there is to tell.
        file: where to write.

    Raises:
        InputError: Jinja2 is not installed, or the file cannot be written.
    """
    require_page()
    import jinja2
    import markupsafe

    folder = files("greffon.checking") / "templates"
    script = (folder / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        name=str(catalog.root),
        counts=catalog.counts(),
        pictures=len(catalog.ok),
        sections=_sections(catalog, kinds, manifest),
        wrong=sum(each.severity == "wrong" and not each.accepted for found in kinds.values() for each in found),
        look=sum(each.severity == "look" and not each.accepted for found in kinds.values() for each in found),
        notes=notes,
        columns=manifest.columns,
        rows=[list(row) for row in manifest.iter_rows()],
        style=markupsafe.Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    except OSError as error:
        raise InputError(f"the page {file} cannot be written: {error.strerror or error}") from error


def _sections(catalog: Catalog, kinds: Mapping[str, list[Finding]], manifest: pl.DataFrame) -> list[_Section]:
    chosen = {kind: _shown(found) for kind, found in kinds.items()}
    wanted = [path for found in _in_turn(chosen) for path in (found.paths or found.examples)[:_IN_ONE]]
    frame = catalog.frame
    about = {
        path: (", ".join(labels), side, state)
        for (path, side, state), labels in zip(
            frame.select("path", "split", "state").iter_rows(), catalog.labels_of(frame), strict=True
        )
    }
    wanted = [path for path in dict.fromkeys(wanted) if about.get(path, ("", "", ""))[2] == "ok"][:MOST_PICTURES]
    images = _thumbnails(catalog, wanted)
    places = {key: place for place, key in enumerate(manifest.select("path", "kind").iter_rows())}

    def tile(path: str, kind: str) -> _Tile:
        label, side, _ = about.get(path, ("", "", ""))
        return _Tile(path, label, side, images.get(path, ""), places.get((path, kind), -1))

    sections = []
    for kind, found in kinds.items():
        items = []
        for each in chosen[kind]:
            paths = each.paths or each.examples
            tiles = [tile(path, kind if each.paths else "") for path in paths[:_IN_ONE]]
            items.append(_Item(each.sentence, each.severity, each.accepted, tiles, len(paths) - len(tiles)))
        pictures = any(tile.image for item in items for tile in item.tiles)
        sections.append(_Section(kind, found[0].severity, len(found), items, pictures))
    return sections


def _shown(found: Sequence[Finding]) -> list[Finding]:
    return list(found[:MOST_OF_A_KIND])


def _in_turn(chosen: Mapping[str, list[Finding]]) -> Iterator[Finding]:
    """The first of each kind, then the second of each: where room ends, every kind has had some."""
    for number in range(MOST_OF_A_KIND):
        for found in chosen.values():
            if number < len(found):
                yield found[number]


def _thumbnails(catalog: Catalog, paths: Sequence[str]) -> dict[str, str]:
    """Small pictures as `data:` addresses; of what cannot be read any more, none."""
    frame = catalog.frame.filter(catalog.frame["path"].is_in(list(paths)) & (catalog.frame["state"] == "ok"))
    with ThreadPoolExecutor(usual_workers()) as pool:
        made = pool.map(_thumbnail, catalog.locators(frame))
        return {path: image for path, image in zip(frame["path"], made, strict=True) if image}


def _thumbnail(locator: Any) -> str:
    from PIL import Image

    from greffon.pictures.loaded import loaded
    from greffon.pictures.resize import turn

    try:
        with loaded(locator, _SIDE // 2, "pad") as picture:
            pixels = turn(picture.thumbnail(_SIDE), picture.orientation)
    except DataError:
        return ""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
