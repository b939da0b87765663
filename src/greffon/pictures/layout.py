"""Which files of a folder are pictures, and what their folders say of them: class, and side of a given split.

Nothing is passed over in silence: a file or folder that is not taken is there with the reason.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from natsort import natsort_keygen

from greffon.errors import DataError, InputError
from greffon.pictures.sources.locate import is_local

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif"),
    )
)
"""A file is taken for a picture by its name; what it really holds is seen when it is read."""

SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Name of a folder, in small letters, and the side of the split that its pictures are on."""

_HIDDEN = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"))
_BEGINNINGS = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n", "PNG"), (b"GIF8", "GIF"))

natural = natsort_keygen()


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder that is not gone into.

    Attributes:
        path: relative to the root, with `/`; a folder ends in `/`.
        file: where it is.
        label: class that its folder names, or "".
        split: `train`, `val`, `test` or "", as its folder says.
        ignored: why it is not taken, or "".
    """

    path: str
    file: Path
    label: str = ""
    split: str = ""
    ignored: str = ""


@dataclass(frozen=True)
class Layout:
    """A folder of pictures.

    Attributes:
        entries: everything in it, class by class, in natural order.
        classes: for each side that is given (`train`, `val`, `test`, or "" where none is) its classes in natural
            order, empty ones included.
    """

    entries: list[Entry] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)


def natural_order(names: Iterable[str]) -> list[str]:
    """Names as people count: `class2` before `class10`; the same for the same names in any order.

    Example:
        >>> from greffon.pictures.layout import natural_order
        >>> natural_order(["class10", "class2", "class1"])
        ['class1', 'class2', 'class10']
    """
    return sorted(sorted(names), key=natural)


def read_layout(root: Path) -> Layout:
    """List a folder of class folders, or of train/, val/ and test/ with class folders inside.

    Folders inside of a class folder belong to the class. Links are followed, but not back into a folder that leads
    to them.

    Raises:
        InputError: there is no such folder, or it cannot be read.
        DataError: there are no class folders, or two folders are the same side of the split.
    """
    if not root.is_dir():
        what = "it is a file" if root.exists() else "there is no such folder"
        raise InputError(f"expected a folder with one folder of pictures per class, got {root}: {what}")
    try:
        return _read_layout(root)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror or error}") from error


def _read_layout(root: Path) -> Layout:
    top = _listed(root)
    layout = Layout()
    folders = [item for item in top if item.is_folder and not item.ignored]
    sides = _sides(folders)
    for item in top:
        if item not in folders:
            reason = item.ignored or ("beside the folders, not in one of a class" if item.is_picture else item.unfit())
            layout.entries.append(Entry(_path(root, item), item.file, ignored=reason))
        elif sides and item.name not in sides:
            layout.entries.append(Entry(_path(root, item), item.file, ignored="beside train/, not one of its kind"))
    parents = (_identity(root),)
    if sides:
        for name, side in sides.items():
            _add_classes(layout, root, root / name, side, (*parents, _identity(root / name)))
    else:
        _add_classes(layout, root, root, "", parents, listed=folders)
    if not any(layout.classes.values()):
        raise DataError(_no_classes(root, layout, top))
    return layout


@dataclass(frozen=True, slots=True)
class _Item:
    """What a folder's list has: a file or a folder."""

    name: str
    file: Path
    is_folder: bool
    ignored: str = ""

    @property
    def is_picture(self) -> bool:
        return self.file.suffix.lower() in PICTURE_SUFFIXES

    def unfit(self) -> str:
        """Why a file that is no picture by its name is not taken."""
        kind = self.file.suffix.lower() or "no extension"
        try:
            with self.file.open("rb") as stream:
                start = stream.read(16)
        except OSError:
            start = b""
        for beginning, name in _BEGINNINGS:
            if start.startswith(beginning):
                return f"not a picture by its name ({kind}), but it begins like a {name} file: rename it to use it"
        return f"not a picture by its name ({kind})"


def _listed(folder: Path) -> list[_Item]:
    items = []
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        file = Path(entry.path)
        hidden = entry.name.startswith(".") or entry.name.lower() in _HIDDEN
        try:
            entry.name.encode("utf-8")
            mode = entry.stat().st_mode
        except UnicodeEncodeError:
            items.append(_Item(entry.name, file, is_folder=False, ignored="its name is not valid UTF-8"))
            continue
        except OSError:
            items.append(_Item(entry.name, file, is_folder=False, ignored="hidden" if hidden else ""))
            continue
        ignored = "hidden" if hidden else ""
        if not is_local(entry.name):
            ignored = ignored or "its name would be taken for a member of an archive (.tar::): rename it"
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            ignored = ignored or "neither a file nor a folder"
        items.append(_Item(entry.name, file, stat.S_ISDIR(mode), ignored))
    return sorted(sorted(items, key=lambda item: item.name), key=lambda item: natural(item.name))


def _sides(folders: list[_Item]) -> dict[str, str]:
    """Name of each folder that is a side of a given split, and which; nothing where folders are classes.

    A class may be called "train": it is one where pictures lie in it directly, or where no other side is beside it.
    """
    known = {item.name: SPLIT_FOLDERS[item.name.lower()] for item in folders if item.name.lower() in SPLIT_FOLDERS}
    with_classes = [item for item in folders if item.name in known and _has_classes(item.file)]
    if not with_classes or (len(known) < len(folders) and len(with_classes) < 2):
        return {}
    sides: dict[str, str] = {}
    for name, side in known.items():
        if side in sides.values():
            twins = " and ".join(f"{name}/" for name, other in known.items() if other == side)
            raise DataError(f"expected one folder for each side of the split, got {twins}: join them or rename one")
        sides[name] = side
    return {name: side for wanted in ("train", "val", "test") for name, side in sides.items() if side == wanted}


def _has_classes(folder: Path) -> bool:
    try:
        items = [item for item in _listed(folder) if not item.ignored]
    except OSError:
        return False
    return any(item.is_folder for item in items) and not any(item.is_picture and not item.is_folder for item in items)


def _add_classes(
    layout: Layout,
    root: Path,
    folder: Path,
    side: str,
    parents: tuple[tuple[int, int], ...],
    *,
    listed: list[_Item] | None = None,
) -> None:
    names = layout.classes.setdefault(side, [])
    for item in listed if listed is not None else _listed(folder):
        if item.ignored or not item.is_folder:
            beside = f"in {folder.name}/, not in a folder of a class"
            reason = item.ignored or (beside if item.is_picture else item.unfit())
            layout.entries.append(Entry(_path(root, item), item.file, split=side, ignored=reason))
            continue
        label = unicodedata.normalize("NFC", item.name)
        names.append(label)
        layout.entries.extend(_files(root, item, label, side, parents))
    names[:] = natural_order(set(names))


def _files(root: Path, folder: _Item, label: str, side: str, parents: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """Every file under a class folder."""
    try:
        here = _identity(folder.file)
        if here in parents:
            yield Entry(_path(root, folder), folder.file, ignored="a link that leads back to a folder above it")
            return
        items = _listed(folder.file)
    except OSError as error:
        yield Entry(_path(root, folder), folder.file, ignored=f"cannot be read: {error.strerror or error}")
        return
    for item in items:
        if item.is_folder and not item.ignored:
            yield from _files(root, item, label, side, (*parents, here))
        else:
            reason = item.ignored or ("" if item.is_picture else item.unfit())
            yield Entry(_path(root, item), item.file, label, side, reason)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _path(root: Path, item: _Item) -> str:
    path = item.file.relative_to(root).as_posix() + ("/" if item.is_folder else "")
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _no_classes(root: Path, layout: Layout, top: list[_Item]) -> str:
    expected = (
        f"expected one folder of pictures per class in {root} (cats/, dogs/, ...), or train/ and val/ that hold such "
        "folders; "
    )
    pictures = sum(item.is_picture and not item.is_folder for item in top)
    if pictures:
        return f"{expected}got {pictures} pictures and no folders: sort them into folders, one per class"
    if layout.classes and "" not in layout.classes:
        return f"{expected}{', '.join(side + '/' for side in layout.classes)} hold no class folders"
    return f"{expected}got {len(top)} files and no folders" if top else f"{expected}it is empty"
