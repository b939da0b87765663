"""A folder that says of itself what it is: a list of its files with their hashes, and JSON that is always the same."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

import greffon
from greffon.bundle.commands import resume_command
from greffon.errors import InputError

MANIFEST = "manifest.json"
_KIND = "greffon run"
FORMAT_VERSION = 1
"""To be raised when an older Greffon would misread what this one writes."""

DERIVED = frozenset({"diagnosis.json", "report.html"})
"""Files that are made from a run and may lie in it."""

PARTIAL = ".partial"
"""What the name of a folder ends in that holds a training which has not ended; without it, the name of its run."""

LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that operating systems put into folders by themselves."""


@dataclass(frozen=True)
class Manifest:
    """What a folder is and holds.

    Attributes:
        format_version: of the folder's layout.
        greffon: version that wrote it.
        files: SHA-256 as 64 hex digits, by file name.
    """

    format_version: int
    greffon: str
    files: dict[str, str]


def write_manifest(folder: Path) -> None:
    """Write down what lies in a folder; to be called when everything else does."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(
        folder / MANIFEST,
        {"kind": _KIND, "format_version": FORMAT_VERSION, "greffon": greffon.__version__, "files": files},
    )


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        InputError: the folder is no run, or a newer Greffon wrote it.
    """
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = str(values["kind"])
        manifest = Manifest(
            int(values["format_version"]),
            str(values["greffon"]),
            {str(name): str(file["sha256"]) for name, file in values["files"].items()},
        )
    except (FileNotFoundError, NotADirectoryError):
        what = f"{folder} is no run of greffon: it has no {MANIFEST}{_instead(folder)}"
        raise InputError(not_ended(folder) or what) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / MANIFEST}: cannot be read: {error!r}") from None
    if found != _KIND:
        raise InputError(f"{folder} must be a run of greffon, got {found!r}")
    if manifest.format_version > FORMAT_VERSION:
        raise InputError(
            f"{folder} was written by greffon {manifest.greffon} (format {manifest.format_version}); greffon "
            f"{greffon.__version__} reads formats up to {FORMAT_VERSION}. Install a newer greffon"
        )
    return manifest


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, whichever version wrote it."""
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("kind") == _KIND


def strangers(folder: Path) -> list[str]:
    """Files in a folder that its manifest does not list, and that no operating system put there."""
    listed = {MANIFEST}
    try:
        listed |= set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        listed = set()
    paths = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in paths if path.name not in LITTER)
    return sorted(name for name in names if name not in listed | DERIVED)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(file: Path, values: Any) -> None:
    """Write JSON as UTF-8 with sorted keys: equal values give equal bytes."""
    file.write_text(to_json(values) + "\n", encoding="utf-8", newline="\n")


def to_json(values: Any) -> str:
    """JSON text, indented, with sorted keys; NumPy numbers, paths, times and dataclasses become plain values."""
    return json.dumps(plain(values), ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON can hold it; numbers that are not finite become None.

    Raises:
        InputError: a value is of a type that JSON has no place for.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Collection) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    for method in ("to_dict", "model_dump"):
        if callable(getattr(value, method, None)):
            return plain(getattr(value, method)())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise InputError(f"a record holds plain values, arrays and dataclasses, got {type(value).__name__}: {value!r}")


def _instead(folder: Path) -> str:
    """What there is in place of the folder, to be read after a colon-less sentence."""
    if not folder.exists():
        return " (there is no such folder)"
    if not folder.is_dir():
        return " (it is a file; give the folder that training wrote)"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    return f" (a folder in it has one: {folder / inside[0]})" if inside else ""


def not_ended(folder: Path) -> str:
    """What to say of the folder of a run whose training has not ended; "" of any other."""
    run = folder.with_name(folder.name.removesuffix(PARTIAL)) if folder.name else folder
    left = run.with_name(f"{run.name}{PARTIAL}") if run.name else run
    if not (left / "job.json").is_file() or (folder != left and folder.exists()):
        return ""
    return (
        f"{run} is no run yet: its training was interrupted, or runs just now, and what there is of it lies in {left}. "
        f"To go on with it: {resume_command(run)} (greffon.resume)"
    )
