"""A folder that appears under its name when all of it is written, and not before."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from greffon.bundle.manifest import LITTER, is_run, strangers, write_manifest
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("greffon")

_DAY = 24 * 3600.0


def check_out(out: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse a folder that could not be written at the end; what a killed process left beside it is cleared away.

    Args:
        out: where the folder is to be; its parents may be missing.
        overwrite: an earlier run may be there.

    Returns:
        The folder's absolute path.

    Raises:
        InputError: something else is there, or the place cannot be written to.

    Example:
        >>> import tempfile, pathlib
        >>> from greffon.bundle.folder import check_out
        >>> check_out(pathlib.Path(tempfile.gettempdir()) / "runs" / "first").name
        'first'
    """
    given = Path(out).expanduser()
    if not given.name or given.name == "..":
        raise InputError(f"{out!s} cannot be replaced by a new run: give a folder inside it")
    try:
        place = given.resolve() if given.is_symlink() else given.parent.resolve() / given.name
        _clear_leftovers(place)
        _check_place(place, overwrite=overwrite)
        _check_writable(place)
    except OSError as error:
        raise InputError(f"{out!s} cannot be written to: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{out!r} is no name for a folder: {error}") from None
    return place


@contextlib.contextmanager
def new_folder(
    out: str | Path, *, overwrite: bool = False, if_taken: Literal["refuse", "beside"] = "refuse"
) -> Iterator[NewFolder]:
    """A temporary folder to fill, which takes its real name when the block ends without an error.

    Args:
        out: its real name.
        overwrite: an earlier run is replaced; it stays until the new one is whole.
        if_taken: `beside`: where something else is there, take the first free name `out-2`, `out-3`, ... with a
            warning, rather than lose what took long to compute.

    Yields:
        The folder being filled; its `place` is the real name, once the block has ended.

    Raises:
        InputError: see `check_out`.
    """
    try:
        place = check_out(out, overwrite=overwrite)
    except InputError as error:
        if if_taken == "refuse":
            raise
        place = _beside(Path(out), str(error))
    folder = NewFolder(place)
    try:
        folder.temporary.mkdir(parents=True)
        yield folder
        folder.finish(overwrite=overwrite, if_taken=if_taken)
    except OSError as error:
        raise InputError(f"{place} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder.temporary, ignore_errors=True)


class NewFolder:
    """A folder being written.

    Attributes:
        place: its real name.
        temporary: where its files are written until it is whole.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.temporary = place.parent / f"{_prefix(place)}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part"

    def finish(self, *, overwrite: bool, if_taken: Literal["refuse", "beside"]) -> None:
        """Write the manifest, bring everything to the disk, and give the folder its name."""
        write_manifest(self.temporary)
        _sync(self.temporary)
        try:
            self._take_place(overwrite=overwrite)
        except InputError as error:
            if if_taken == "refuse":
                raise
            self.place = _beside(self.place, str(error))
            self._take_place(overwrite=False)
        _sync_folder(self.place.parent)

    def _take_place(self, *, overwrite: bool) -> None:
        _check_place(self.place, overwrite=overwrite)
        if not self.place.exists():
            self.temporary.rename(self.place)
            return
        # Neither an empty folder nor a full one is replaced by renaming on every system, so it is moved away first;
        # `_clear_leftovers` ends this if the process is killed between the two steps.
        old = self.temporary.with_suffix(".old")
        self.place.rename(old)
        try:
            self.temporary.rename(self.place)
        except OSError:
            old.rename(self.place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _check_place(place: Path, *, overwrite: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise InputError(f"{place} is a file; a run is a folder: give another name")
    if place == Path.cwd() or os.path.ismount(place):
        what = "the current folder" if place == Path.cwd() else "a mounted folder"
        raise InputError(f"{place} is {what} and cannot be replaced by a new run: give a folder inside it")
    if all(path.name in LITTER for path in place.iterdir()):
        return
    if not is_run(place):
        raise InputError(f"{place} is not empty and is no run of greffon: give a new or empty folder")
    if not overwrite:
        raise InputError(
            f"{place} holds a run already: give another folder, or replace it with overwrite=True (--overwrite)"
        )
    others = strangers(place)
    if others:
        raise InputError(
            f"{place} holds files that are not the run's and would be lost: {', '.join(others[:5])}"
            f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}. Move them, or give another folder"
        )


def _check_writable(place: Path) -> None:
    """Try in the nearest folder that exists; nothing is left behind."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place.lstat()  # raises where the name is too long
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f"{place} cannot be made: {parent} is a file")
    with tempfile.TemporaryDirectory(prefix=_prefix(place), dir=parent):
        pass


def _beside(place: Path, why: str) -> Path:
    """The first free name after a taken one, with a warning."""
    for number in range(2, 1000):
        try:
            free = check_out(place.with_name(f"{place.name}-{number}"))
        except InputError:
            continue
        _log.warning("%s. The run is written to %s instead", why, free)
        return free
    raise InputError(why)


def _prefix(place: Path) -> str:
    # Not the name itself: it may be as long as the file system allows.
    return f".greffon-{_number(place.name)}-"


def _machine() -> str:
    return _number(platform.node())


def _number(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _clear_leftovers(place: Path) -> None:
    """Remove what killed processes left of this folder, and end what they had nearly done."""
    if not place.parent.is_dir():
        return
    for old in place.parent.glob(f"{_prefix(place)}*.old"):
        if _is_abandoned(old) and not place.exists():  # killed between the two steps: the new folder is whole
            whole = old.with_suffix(".part")
            (whole if whole.exists() else old).rename(place)
    for suffix in ("part", "old"):
        for left in place.parent.glob(f"{_prefix(place)}*.{suffix}"):
            if _is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether nobody is at work on a temporary folder any more."""
    try:
        _, _, _, machine, process, _ = folder.name.replace(".", "-").split("-", 5)
        number = int(process)
    except ValueError:
        return False  # a name like ours, but not ours
    if machine == _machine() and os.name == "posix":
        return not _is_running(number)
    # Another machine, or a system on which asking for a process by its number would end it.
    return time.time() - folder.stat().st_mtime > _DAY


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(folder: Path) -> None:
    """Bring a folder's files to the disk, so that a power cut cannot leave empty files under the final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
