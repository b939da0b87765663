"""One file over HTTP: resumed where it stopped, and handed over only when its hash is right."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

from greffon.weights.cache import Digests, contradiction, digests, recorded_sha256

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from greffon.weights.sets import WeightFile

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be (None where unknown)."""

_CHUNK = 1 << 16  # bytes
_ATTEMPTS = 8
_PAUSE = 1.0  # seconds before the second attempt, twice as many before each further one, to 8 at most
_TIMEOUT = (10.0, 30.0)  # seconds: to connect, and without a byte
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED = "the server, or a firewall or proxy in front of it, refuses this file to this machine"
# What an answer most often means, and what to do.
_ADVICE = {
    401: "it wants a name and a password: a mirror may be given as https://NAME:PASSWORD@HOST/...",
    403: f"{_REFUSED}. Ask whoever runs the network to allow it, or fetch it elsewhere",
    404: "the file is not there, or no longer",
    407: "the proxy wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT",
    451: _REFUSED,
}
_BUSY_POLL = 0.2  # seconds


class DownloadError(Exception):
    """Why a download failed; `fetch` says what that means for the user."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def download(file: WeightFile, url: str, target: Path, progress: Progress | None = None) -> Digests:
    """Download a file to `target`, or raise and leave `target` as it was.

    What has arrived lies in `target` + ".part" until all is there, and a later call goes on from it. A second
    process that wants the same file waits for the first.

    Returns:
        The digests of the file.

    Raises:
        DownloadError: it could not be had, or was not what was published.
        OSError: it could not be written.
    """
    with _alone(target.with_name(target.name + ".lock")):
        if target.is_file() and _is_it(file, found := digests(target), target):
            return found  # the process that was waited for has fetched it
        part = _Part(target)
        _make_room(file, part)
        found = _insist(file, url, part, progress)
        part.hand_over(target)
        return found


class _Part:
    """What has arrived of a file, and by which mark the server knows that it is still the same file."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._mark = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def mark(self, url: str) -> str | None:
        """The server's mark for what is here, if it came from `url`."""
        try:
            saved = json.loads(self._mark.read_text(encoding="utf-8"))
            return saved["mark"] if saved["url"] == without_password(url) and isinstance(saved["mark"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def restart(self, url: str, mark: str | None) -> None:
        self.drop()
        self._mark.write_text(json.dumps({"url": without_password(url), "mark": mark}), encoding="utf-8")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    def hand_over(self, target: Path) -> None:
        self.path.replace(target)
        self._mark.unlink(missing_ok=True)


def _insist(file: WeightFile, url: str, part: _Part, progress: Progress | None) -> Digests:
    """Ask until all is there, or until asking again is no use."""
    attempt = 1
    while True:
        try:
            return _attempt(file, url, part, progress)
        except DownloadError as error:
            if not error.again or attempt == _ATTEMPTS:
                raise
        time.sleep(_PAUSE * min(2 ** (attempt - 1), 8))
        attempt += 1


def _attempt(file: WeightFile, url: str, part: _Part, progress: Progress | None) -> Digests:
    """Ask once for what is not here yet; give the digests if that completed the file."""
    start, mark = part.size, part.mark(url)
    if mark is None and file.published_hash == "unverified":
        start = 0  # neither the server nor a hash would tell whether the halves belong together
    with _explained(again=False):
        answer = _ask(url, start, mark)
    # From here on the server is there and answers, so that a break is worth another attempt.
    with _explained(again=True), answer:
        expected = _receive(file, answer, url, part, start, progress)
    return _verified(file, part, expected, resumed=start > 0)


@contextmanager
def _explained(*, again: bool) -> Iterator[None]:
    """Errors of the HTTP library in the user's words."""
    from requests import exceptions

    try:
        yield
    except exceptions.SSLError as error:
        raise DownloadError(f"the server's certificate was not accepted ({error})") from None
    except exceptions.ProxyError:
        raise DownloadError("the proxy that HTTPS_PROXY or HTTP_PROXY names refuses or cannot be reached") from None
    except exceptions.Timeout:
        raise DownloadError("the server did not answer in time", again=again) from None
    except exceptions.TooManyRedirects:
        raise DownloadError("the server only redirects") from None
    except (exceptions.ConnectionError, exceptions.ChunkedEncodingError):
        raise DownloadError("the connection broke" if again else "the server cannot be reached", again=again) from None
    except exceptions.RequestException as error:
        raise DownloadError(str(error)) from None


def _ask(url: str, start: int, mark: str | None) -> requests.Response:
    import requests

    headers = {"Accept-Encoding": "identity", "User-Agent": "greffon"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": mark} if mark else {})
    answer = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    if url.startswith("https://") and not answer.url.startswith("https://"):
        answer.close()
        raise DownloadError(f"the server redirects to an address without encryption: {without_password(answer.url)}")
    return answer


def without_password(url: str) -> str:
    """An address as it may be shown and written down."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _is_it(file: WeightFile, found: Digests, target: Path) -> bool:
    """Whether the file at `target` is the one that is wanted, and not one that a hash must tell from it."""
    if file.published_hash == "unverified" and recorded_sha256(target) != found.sha256:
        return False
    return contradiction(file, found) is None


def _receive(
    file: WeightFile, answer: requests.Response, url: str, part: _Part, start: int, progress: Progress | None
) -> int | None:
    """Write the answer's body behind what is here; give the length that the whole file should have."""
    status = answer.status_code
    if status == 416:  # nothing beyond what is here: all of it is, or it is another file's
        return file.size if file.size is not None else start
    if status not in {200, 206}:
        advice = _ADVICE.get(status)
        what = f"the server answered {status} {answer.reason}" + (f": {advice}" if advice else "")
        raise DownloadError(what, again=status in _RETRIED)
    length = answer.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else None
    if status == 200 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        if status == 206:
            part.drop()
            raise DownloadError("the server sent another range than was asked for", again=True)
        start = 0
        part.restart(url, _mark_of(answer))
    total = file.size if file.size is not None else (start + announced if announced is not None else None)
    if announced is not None and file.size is not None and start + announced != file.size:
        part.drop()
        raise DownloadError(f"the server has a file of {start + announced:,} bytes, expected {file.size:,}")
    with part.path.open("ab") as out:
        _copy(answer, out, start, total, progress)
    return total


def _copy(answer: requests.Response, out: BinaryIO, start: int, total: int | None, progress: Progress | None) -> None:
    here = start
    if progress:
        progress(here, total)
    for chunk in answer.iter_content(_CHUNK):
        out.write(chunk)
        out.flush()
        here += len(chunk)
        if total is not None and here > total:
            raise DownloadError(f"the server sends more than the {total:,} bytes of the file")
        if progress:
            progress(here, total)


def _verified(file: WeightFile, part: _Part, expected: int | None, *, resumed: bool) -> Digests:
    if expected is not None and part.size < expected:
        raise DownloadError(f"the connection ended after {part.size:,} of {expected:,} bytes", again=True)
    found = digests(part.path)
    wrong = contradiction(file, found)
    if wrong:
        part.drop()
        # After a resumption the halves may be of two versions; once more from the start tells.
        raise DownloadError(
            f"what arrived is not the file that was published ({wrong}); it was not kept", again=resumed
        )
    return found


def _mark_of(answer: requests.Response) -> str | None:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return answer.headers.get("Last-Modified")


def _make_room(file: WeightFile, part: _Part) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if file.size is not None and file.size - part.size > free:
        raise DownloadError(f"{part.path.parent} has {free / 1e6:,.0f} MB free, {file.size / 1e6:,.0f} MB are needed")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that dies with its process; wait for whoever holds it."""
    with lock.open("a+b") as file:
        while not _try_lock(file):
            time.sleep(_BUSY_POLL)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: Any) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: Any) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: Any) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: Any) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
