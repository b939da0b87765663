"""The files that belong to a weight file: plain files in its own folder, and no others of this machine."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


def check_name(name: str, what: str) -> str:
    """The name, if it is that of a file and not a way to one elsewhere.

    Args:
        name: what a weight file says.
        what: who says it, for the error.

    Raises:
        WeightFileError: it has separators, points upwards, or is none.
    """
    if not name or name in (".", "..") or any(it in name for it in "/\\:\0") or not name.isprintable():
        raise WeightFileError(
            f"{what} names the file {name[:200]!r}, expected the plain name of one in the same folder. Refused: it "
            "could read other files of this machine"
        )
    return name


def open_member(path: Path, stack: ExitStack, *, named_by_user: bool = False) -> tuple[io.FileIO, int]:
    """Open a file for reading while `stack` is open.

    Args:
        path: the file.
        stack: closes it.
        named_by_user: a link is followed, for the user chose it.

    Returns:
        The file, unbuffered, and its size in bytes.

    Raises:
        WeightFileError: there is none, or it is a link, a folder or a device.
    """
    if path.is_symlink() and not named_by_user:
        raise WeightFileError(
            f"{path.name} is a link. Refused: it could read other files of this machine; put the file itself there"
        )
    follow = 0 if named_by_user else getattr(os, "O_NOFOLLOW", 0)
    flags = follow | getattr(os, "O_NONBLOCK", 0)  # a pipe must not wait for its other end
    try:
        file = io.FileIO(path, "rb", opener=lambda name, usual: os.open(name, usual | flags))
    except OSError as error:
        raise WeightFileError(
            f"{path.name}, which belongs to it, cannot be opened: {error.strerror or error}"
        ) from None
    stack.callback(file.close)
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise WeightFileError(f"{path.name} is no plain file")
    return file, status.st_size
