"""Pictures on other machines: HTTP by requests, everything else by whatever fsspec knows.

A file is fetched once and kept under its address and what its server tells of it (length, date, ETag), so that an
epoch costs no second download; one that has changed there is fetched again. Where nothing is told, it is fetched once
in each process.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

from greffon.errors import InputError, nearest
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_BYTES = 2**30
"""A picture file that is longer is not fetched; archives and tables may be."""

_CHUNK = 2**20
_SECONDS = (10, 60)  # to connect, and between two pieces
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Told:
    """What a server tells of a file.

    Attributes:
        size: in bytes.
        version: changes when the file does.
    """

    size: int
    version: str


_told: dict[str, Told | None] = {}
_fetched: set[str] = set()
_local = threading.local()


def read_address(address: str) -> bytes:
    """The bytes of a file elsewhere, from the kept copy where it is still the same.

    Raises:
        OSError: it cannot be fetched; `FileNotFoundError` where there is none.
        InputError: a package is missing, or such addresses are not known.
    """
    return local_copy(address, most=MAX_BYTES).read_bytes()


def local_copy(address: str, *, most: int | None = None) -> Path:
    """The kept copy of a file elsewhere, fetched if need be.

    Args:
        address: `scheme://...`.
        most: bytes that it may have; None for any number.

    Raises:
        OSError: it cannot be fetched, or is longer; `FileNotFoundError` where there is none.
        InputError: a package is missing, or such addresses are not known.
    """
    told = told_of(address)
    if told is not None and most is not None and told.size > most:
        raise OSError(f"is too long: {told.size:,} bytes, {most:,} at most")
    version = "" if told is None else told.version
    name = xxhash.xxh3_128_hexdigest(address.encode())
    folder = remote_dir() / name[:2]
    suffix = Path(address.partition("?")[0]).suffix[:9]
    file = folder / f"{name}-{xxhash.xxh3_64_hexdigest(version.encode())}{suffix}"
    if file.is_file() and (told is not None or address in _fetched):
        return file
    folder.mkdir(parents=True, exist_ok=True)
    older = set(folder.glob(f"{name}-*")) - {file}
    _fetch(address, file, most)
    _fetched.add(address)
    for stale in older:
        stale.unlink(missing_ok=True)
    return file


def remote_dir() -> Path:
    """The folder of the cache that holds what was fetched."""
    return cache_dir() / "remote"


def told_of(address: str, *, anew: bool = False) -> Told | None:
    """What the server tells of a file; None where that does not show whether it has changed.

    Args:
        address: `scheme://...`.
        anew: ask again, though it was asked before.

    Raises:
        OSError: there is no such file, or the server cannot be reached.
        InputError: a package is missing, or such addresses are not known.
    """
    if anew or address not in _told:
        _told[address] = _told_by_http(address) if _is_http(address) else _told_by_fsspec(address)
    return _told[address]


def filesystem_of(address: str) -> tuple[Any, str]:
    """The file system that fsspec has for an address, and the path in it.

    Raises:
        InputError: fsspec or the package for such addresses is missing, or they are not known.
    """
    try:
        import fsspec  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from fsspec.core import url_to_fs  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise InputError(f"{address} needs the package fsspec (pip install fsspec)") from None
    scheme = address.split(":", 1)[0].lower()
    try:
        system, path = url_to_fs(address)
    except ImportError as error:
        told = str(error).rstrip(".") or "it is missing"
        raise InputError(f"{scheme}:// needs another package: {told}. {_install(scheme)}") from error
    except ValueError as error:
        known = sorted({"http", "https", *fsspec.available_protocols()})
        if scheme in known:
            raise InputError(f"{address} is no address that fsspec opens: {error}") from error
        raise InputError(f"{scheme}:// is not known{nearest(scheme, known)} ({address})") from error
    return system, path


_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"} | {
    "hf": "huggingface_hub",
    "ssh": "paramiko",
    "sftp": "paramiko",
    "smb": "smbprotocol",
    "webhdfs": "requests",
    "dropbox": "dropboxdrivefs",
    "oci": "ocifs",
    "github": "requests",
}


def _install(scheme: str) -> str:
    package = _PACKAGES.get(scheme)
    return f"To install it: pip install {package}" if package else "The documentation of fsspec says which"


def _is_http(address: str) -> bool:
    return address.lower().startswith(("http://", "https://")) and "::" not in address.split("://", 1)[0]


def _told_by_fsspec(address: str) -> Told | None:
    system, path = filesystem_of(address)
    with _as_os_errors(address):
        info = system.info(path)
    if info.get("type") == "directory":
        raise IsADirectoryError(21, "is a folder", address)
    telling = {
        name: str(info[name])
        for name in ("ETag", "etag", "mtime", "LastModified", "last_modified", "md5Hash", "created", "generation")
        if info.get(name)
    }
    size = info.get("size")
    return Told(int(size), repr((size, telling))) if telling and size is not None else None


def _told_by_http(address: str) -> Told | None:
    with _as_os_errors(address):
        answer = _session().head(address, timeout=_SECONDS, allow_redirects=True)
    if answer.status_code in (404, 410):
        raise FileNotFoundError(2, "there is no such file", address)
    telling = {name: answer.headers[name] for name in ("ETag", "Last-Modified") if answer.headers.get(name)}
    size = answer.headers.get("Content-Length", "")
    # Some servers answer only to GET: then nothing is known, and the fetching will tell what is wrong.
    return Told(int(size), repr((size, telling))) if answer.ok and telling and size.isdecimal() else None


def _session() -> Any:
    """One for each thread, so that connections are used again."""
    if not hasattr(_local, "session"):
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        _local.session = requests.Session()
        _local.session.headers["Accept-Encoding"] = "identity"
        retries = Retry(
            _TRIES, connect=1, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
        )
        for scheme in ("http://", "https://"):
            _local.session.mount(scheme, HTTPAdapter(max_retries=retries))
    return _local.session


def _fetch(address: str, file: Path, most: int | None) -> None:
    """Write a file elsewhere into `file`, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as target, _as_os_errors(address):
            opened = _opened_by_http(address) if _is_http(address) else _opened_by_fsspec(address)
            with opened as read:
                _copy(read, target, most)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _copy(read: Callable[[], bytes], target: BinaryIO, most: int | None) -> None:
    written = 0
    while piece := read():
        written += len(piece)
        if most is not None and written > most:
            raise OSError(f"is too long: more than {most:,} bytes")
        target.write(piece)


@contextmanager
def _opened_by_fsspec(address: str) -> Iterator[Callable[[], bytes]]:
    system, path = filesystem_of(address)
    with system.open(path, "rb") as stream:
        yield lambda: stream.read(_CHUNK)


@contextmanager
def _opened_by_http(address: str) -> Iterator[Callable[[], bytes]]:
    with _session().get(address, timeout=_SECONDS, stream=True) as answer:
        if answer.status_code in (404, 410):
            raise FileNotFoundError(2, "there is no such file", address)
        if not answer.ok:
            raise OSError(f"{address}: the server answers {answer.status_code} {answer.reason}")
        pieces = answer.iter_content(_CHUNK)
        length = answer.headers.get("Content-Length", "")
        left = int(length) if length.isdecimal() else None

        def read() -> bytes:
            nonlocal left
            piece: bytes = next(pieces, b"")
            if left is not None:
                left -= len(piece)
                if not piece and left > 0:
                    raise OSError(f"{address}: the answer ends {left:,} bytes too early")
            return piece

        yield read


@contextmanager
def _as_os_errors(address: str) -> Iterator[None]:
    """Whatever a file system's package raises, as the `OSError` that callers know."""
    try:
        yield
    except (InputError, OSError) as error:
        if type(error).__module__ == "builtins" or isinstance(error, InputError):
            raise
        raise _plain(address, error) from error
    except Exception as error:
        raise _plain(address, error) from error


def _plain(address: str, error: Exception) -> OSError:
    text = " ".join(str(error).split())
    with suppress(Exception):  # requests keeps the cause in the middle of its own words
        text = str(error.args[0].reason).split(": ", 1)[-1]
    return OSError(f"{address} cannot be fetched: {text or type(error).__name__}")
