"""Getting weight files: nothing is fetched unless asked, and whoever is offline learns what to do."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from greffon.errors import InputError, WeightFileError
from greffon.weights.cache import (
    Digests,
    Located,
    cache_dir,
    difference,
    find_cached,
    make_folder,
    record_sha256,
    recorded_sha256,
    weights_dir,
)
from greffon.weights.download import DownloadError, Progress, download, without_password
from greffon.weights.progress import progress_bar
from greffon.weights.sets import WeightFile, WeightSet, known_sets, weight_set

__all__ = [
    "Fetched",
    "cache_dir",
    "copy_file",
    "fetch",
    "fetch_set",
    "obtain",
    "recognise",
    "require_cached",
]


@dataclass(frozen=True)
class Fetched:
    """A weight file that is here now.

    Attributes:
        path: where it is.
        size: in bytes.
        sha256: 64 hex digits, as computed from the file.
        notes: what the user should know, one sentence each.
    """

    path: Path
    size: int
    sha256: str
    notes: tuple[str, ...] = ()


def fetch(file: WeightFile, *, folder: str | Path | None = None, progress: Progress | None = None) -> Path:
    """A weight file's place on this machine, after downloading it if it is not there.

    Args:
        file: the record, from a weight set.
        folder: where to put it; None: the cache, where a file that is already there is used.
        progress: called with the bytes so far and in all.

    Returns:
        The path of the verified file.

    Raises:
        InputError: it cannot be had; the message says which file, its size and hash, where to put it by hand,
            and what works without it.
    """
    return _fetched(file, folder, progress).path


def fetch_set(
    name: str,
    out_dir: str | Path | None = None,
    *,
    include_top: bool = False,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch a weight set's file, into the cache or, for another machine, into a folder.

    Args:
        name: of the weight set.
        out_dir: the folder; None: the cache.
        include_top: the file with the classifier instead of the one without.
        progress: called with the bytes so far and in all.

    Raises:
        InputError: there is no such set or file, or it cannot be had.
    """
    record = weight_set(name)
    if not record.files:
        raise InputError(f"the weight set {name!r} has no file: {record.source}")
    return _fetched(record.file(include_top=include_top), out_dir, progress)


def obtain(record: WeightSet, *, include_top: bool = False) -> Fetched:
    """The file of a weight set for a network with or without the classifier, downloaded if it is not here.

    Without the classifier, the file with it will do where that is the one that is here. A download shows its
    progress on the terminal or in the notebook.

    Raises:
        InputError: it cannot be had.
    """
    here = _find(record, include_top=include_top)
    if here is not None:
        return Fetched(here.path, here.digests.size, here.digests.sha256)
    file = record.file(include_top=include_top)
    with progress_bar(f"Fetching {file.filename}") as progress:
        return _fetched(file, None, progress)


def require_cached(name: str, *, include_top: bool = False) -> Path | None:
    """The file of a weight set, which must be on this machine already; None for a set without files.

    Raises:
        InputError: it is not here; the message shows how to get it and what works without it.
    """
    record = weight_set(name)
    if not record.files:
        return None
    here = _find(record, include_top=include_top)
    if here is not None:
        return here.path
    file = record.file(include_top=include_top)
    if file.added:
        raise InputError(_gone(file, weights_dir() / file.filename))
    raise InputError(
        f"the weights {name!r} are not on this machine yet ({_described(file)}). Ways on:\n"
        f"  greffon weights fetch {name}    downloads them once, into {weights_dir()}\n"
        f"  greffon weights add FILE    takes them from a package that was fetched on another machine\n"
        f"  --weights thin    takes the smaller network that comes with Greffon"
    )


def recognise(found: Digests) -> tuple[WeightSet, WeightFile] | None:
    """The weight set that a file is of, told by its hash: as published, or as pinned when it was fetched.

    Args:
        found: the file's digests.

    Returns:
        The set and its file; None for an unknown file.
    """
    for record in known_sets().values():
        for file in record.files:
            pinned = recorded_sha256(weights_dir() / file.filename) if file.sha256 is None else None
            if difference(file, found) is None or pinned == found.sha256:
                return record, file
    return None


def _find(record: WeightSet, *, include_top: bool) -> Located | None:
    file = record.file(include_top=include_top)
    here = find_cached(file)
    if here is None and not file.include_top:
        with_top = [other for other in record.files if other.include_top]
        here = find_cached(with_top[0]) if with_top else None
    return here


def _fetched(file: WeightFile, folder: str | Path | None, progress: Progress | None) -> Fetched:
    name = Path(file.filename).name  # what the user added lies in a folder of its own
    target = make_folder(Path(folder)) / name if folder is not None else weights_dir() / file.filename
    make_folder(target.parent)
    notes: list[str] = []
    try:
        here = find_cached(file)
    except WeightFileError as error:
        here = None
        notes.append(f"{error}. It was replaced.")
    try:
        if here is None:
            found = download(file, _address(file), target, progress)
            if file.sha256 is None:
                record_sha256(target, found.sha256)
                notes.append(_pinned_note(file, found))
            return Fetched(target, found.size, found.sha256, tuple(notes))
        path, found = here
        if folder is not None and path != target:
            copy_file(path, target)
            path = target
        return Fetched(path, found.size, found.sha256, (f"{path} is here, and its hash is right.",))
    except DownloadError as error:
        told = _gone(file, target) if file.added else _offline(file, str(error), target)
        raise InputError(told) from None
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from None


def _pinned_note(file: WeightFile, found: Digests) -> str:
    if file.published_hash == "unverified":
        return (
            f"unverified: nobody published a hash of {file.filename}. Its SHA-256, {found.sha256}, was written down "
            "beside it, and every later copy must have it."
        )
    return (
        f"No SHA-256 was published for {file.filename} ({file.published_hash} was, and agrees); {found.sha256} was "
        "written down beside it."
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; the target is there whole or as it was.

    Raises:
        OSError: it cannot be written.
    """
    temporary = target.with_name(target.name + ".copy")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _address(file: WeightFile) -> str:
    """Where to download: as published, or `GREFFON_MIRROR` in place of everything before the file's name."""
    if file.added:
        raise DownloadError("it was added on this machine and is published nowhere")
    mirror = os.environ.get("GREFFON_MIRROR")
    if not mirror:
        return str(file.url)
    if urlsplit(mirror).scheme not in {"http", "https"}:
        raise InputError(
            "GREFFON_MIRROR must be an address such as https://mirror.example.org/weights, got "
            f"{without_password(mirror)!r}"
        )
    return f"{mirror.rstrip('/')}/{file.filename}"


def _gone(file: WeightFile, target: Path) -> str:
    return (
        f"the weights {target} were added on this machine and are gone; they are published nowhere. Add them again: "
        f"greffon weights add FILE. The file: {_described(file)}"
    )


def _offline(file: WeightFile, reason: str, target: Path) -> str:
    address = without_password(_address(file))
    return (
        f"{file.filename} could not be downloaded from {address}: {reason}.\n"
        f"The file: {_described(file)}.\n"
        f"By hand: download it on another machine and put it under that name into {target.parent}; its hash is "
        "checked, then it is used. Or make a package there with greffon weights fetch NAME -o DIR, and install it here "
        "with greffon weights add DIR. GREFFON_MIRROR names another server.\n"
        'Without it: weights="thin" (--weights thin) comes with Greffon and needs no network.'
    )


def _described(file: WeightFile) -> str:
    size = f"{file.size:,} bytes ({file.size / 1e6:.0f} MB)" if file.size is not None else "size unknown"
    published = (("MD5", file.md5), ("SHA-256", file.sha256), ("SHA-256 begins with", file.sha256_prefix))
    hashes = [f"{what} {value}" for what, value in published if value]
    return ", ".join([file.filename, size, *(hashes or ["no hash published"])])
