"""Folders on other machines, with one folder of pictures per class: by the rules of `layout`, as far as they apply."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, InputError
from greffon.pictures.layout import PICTURE_SUFFIXES, SPLIT_FOLDERS, natural_order
from greffon.pictures.sources.found import Found, Row
from greffon.pictures.sources.remote import filesystem_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def found_in_remote_folder(address: str) -> Found:
    """The pictures in the class folders of a folder elsewhere, or in those of train/, val/ and test/ in it.

    Raises:
        InputError: there is no such folder, it cannot be listed, or a package for it is missing.
        DataError: it has no class folders.
    """
    system, top = filesystem_of(address)
    names = files_below(system, top, address)
    parts = [PurePosixPath(name).parts for name in names]
    if not any(len(part) > 1 for part in parts):
        raise DataError(
            f"expected one folder of pictures per class in {address} (cats/, dogs/, ...), or train/ and val/ that hold "
            f"such folders; got {len(names)} files and no folders"
        )
    folders = {part[0] for part in parts if len(part) > 1}
    inside = {part[0] for part in parts if len(part) > 2}
    sides = {name: SPLIT_FOLDERS[name.lower()] for name in folders if name.lower() in SPLIT_FOLDERS and name in inside}
    if len(sides) < 2 and set(sides) != folders:
        sides = {}
    prefix = address.rstrip("/") + "/"
    rows = [_row(prefix + name, part, sides) for name, part in zip(names, parts, strict=True)]
    return Found(rows, Path(), address)


def files_below(system: Any, top: str, address: str) -> list[str]:
    """Paths of all files below a folder of a file system, relative to it, in natural order.

    Raises:
        InputError: there is no such folder, or it cannot be listed.
    """
    try:
        found = system.find(top)
    except FileNotFoundError:
        found = []
    except Exception as error:  # whatever the file system's package raises
        raise InputError(f"{address} cannot be listed: {error}") from error
    if not found:
        raise InputError(f"expected a folder of pictures at {address}: there is nothing")
    start = top.rstrip("/") + "/"
    return natural_order(name.removeprefix(start).lstrip("/") for name in found)


def _row(path: str, parts: Sequence[str], sides: dict[str, str]) -> Row:
    side = sides.get(parts[0], "")
    deep = 2 if side else 1
    ignored = ""
    if any(part.startswith(".") for part in parts):
        ignored = "hidden"
    elif PurePosixPath(parts[-1]).suffix.lower() not in PICTURE_SUFFIXES:
        ignored = f"not a picture by its name ({PurePosixPath(parts[-1]).suffix.lower() or 'no extension'})"
    elif sides and not side:
        ignored = "beside train/, not one of its kind"
    elif len(parts) <= deep:
        ignored = "beside the folders, not in one of a class"
    label = unicodedata.normalize("NFC", parts[deep - 1]) if len(parts) > deep else ""
    return Row(path, (label,) if label else (), split=side, ignored=ignored)
