"""Where weight files lie on this machine, and whether they are what they should be."""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from greffon.errors import InputError, WeightFileError
from greffon.weights.records import WeightFile, embedded_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK = 1 << 20
_HUB = "https://huggingface.co/"


class Digests(NamedTuple):
    """What identifies a file: length in bytes, MD5 and SHA-256 in hex."""

    size: int
    md5: str
    sha256: str


class Located(NamedTuple):
    """A weight file on this machine and what it is."""

    path: Path
    digests: Digests


def cache_dir() -> Path:
    """Greffon's cache folder: `GREFFON_CACHE`, or the platform's own. It need not exist yet.

    Weight files lie in its folder `weights`.

    Example:
        >>> from greffon.weights.cache import cache_dir
        >>> cache_dir().is_file()
        False
    """
    chosen = os.environ.get("GREFFON_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("greffon", appauthor=False)


def weights_dir() -> Path:
    """The folder of the cache that holds weight files."""
    return cache_dir() / "weights"


def digests(path: Path) -> Digests:
    """Length, MD5 and SHA-256 of a file, read once.

    Of a folder, or of the files whose names begin with a checkpoint's prefix, of their names and SHA-256.

    Raises:
        WeightFileError: it cannot be read.
    """
    if path.is_dir():
        return _digests_of(path, path.rglob("*"))
    if not path.exists() and path.with_name(f"{path.name}.index").is_file():
        return _digests_of(path.parent, path.parent.glob(f"{glob.escape(path.name)}.*"))
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                md5.update(chunk)
                sha256.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise WeightFileError(f"weight file {path} cannot be read: {error.strerror or error}") from None
    return Digests(size, md5.hexdigest(), sha256.hexdigest())


def _digests_of(folder: Path, files: Iterable[Path]) -> Digests:
    found = {it.relative_to(folder).as_posix(): digests(it) for it in sorted(files) if it.is_file()}
    lines = "".join(f"{it.sha256}  {name}\n" for name, it in found.items()).encode()
    md5 = hashlib.md5(lines, usedforsecurity=False).hexdigest()
    return Digests(sum(it.size for it in found.values()), md5, hashlib.sha256(lines).hexdigest())


def difference(file: WeightFile, found: Digests) -> str | None:
    """In what a file is not the one that was published, or None; where no hash was published, that cannot be told."""
    wrong = contradiction(file, found)
    if wrong is None and file.published_hash == "unverified":
        return "no hash of it was published"
    return wrong


def contradiction(file: WeightFile, found: Digests) -> str | None:
    """What speaks against a file being the one that was published, or None."""
    for what, expected, got in (
        ("size", file.size, found.size),
        ("MD5", file.md5, found.md5),
        ("SHA-256", file.sha256, found.sha256),
    ):
        if expected is not None and expected != got:
            return f"{what} is {got}, expected {expected}"
    if file.sha256_prefix is not None and not found.sha256.startswith(file.sha256_prefix):
        return f"SHA-256 is {found.sha256}, expected one that begins with {file.sha256_prefix}"
    return None


def find_cached(file: WeightFile) -> Located | None:
    """Where a weight file is on this machine, and its digests, which were checked; None where it is not.

    Looks among the files that come with Greffon, in the cache folder (where users may put files by hand), and where
    Keras, PyTorch and the Hugging Face hub leave what they fetch.

    Raises:
        WeightFileError: the file in Greffon's cache is not the one that was published.
    """
    if file.url is None and not file.added:
        return Located(path := embedded_path(file), digests(path))
    own = weights_dir() / file.filename
    if own.is_file():
        found = digests(own)
        wrong = contradiction(file, found) or _not_as_recorded(own, found)
        if wrong:
            was = "added: {}. Add it again" if file.added else "published: {}. Delete it, or fetch it again"
            raise WeightFileError(f"weight file {own} is not the one that was {was.format(wrong)}")
        return Located(own, found)
    for path in _of_others(file):
        if path.is_file():
            found = digests(path)
            if difference(file, found) is None:
                return Located(path, found)
    return None


def record_sha256(path: Path, sha256: str) -> Path:
    """Write down the SHA-256 of a file beside it, in the form that `sha256sum -c` reads."""
    record = _record(path)
    record.write_text(f"{sha256}  {path.name}\n", encoding="utf-8")
    return record


def recorded_sha256(path: Path) -> str | None:
    """The SHA-256 that was written down when the file was fetched, or None."""
    try:
        return _record(path).read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return None


def make_folder(folder: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made: {error.strerror or error}. GREFFON_CACHE names another one"
        ) from None
    return folder


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _not_as_recorded(path: Path, found: Digests) -> str | None:
    recorded = recorded_sha256(path)
    if recorded in {None, found.sha256}:
        return None
    return f"SHA-256 is {found.sha256}, {recorded} was written down when it was fetched"


def _of_others(file: WeightFile) -> Iterator[Path]:
    """Where others would have left the file."""
    if file.added:
        return
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    yield Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models" / file.filename
    torch = os.environ.get("TORCH_HOME") or f"{caches}/torch"
    yield Path(torch).expanduser() / "hub" / "checkpoints" / file.filename
    if file.sha256 and file.url and file.url.startswith(_HUB):
        owner, name = file.url.removeprefix(_HUB).split("/")[:2]
        hub = os.environ.get("HF_HOME") or f"{caches}/huggingface"
        yield Path(hub).expanduser() / "hub" / f"models--{owner}--{name}" / "blobs" / file.sha256
