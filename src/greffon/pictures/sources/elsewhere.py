"""What a picture is that lies on another machine or in an archive."""

from __future__ import annotations

import xxhash

from greffon.errors import DataError
from greffon.pictures.decode import decode, read_size
from greffon.pictures.opened import name_of
from greffon.pictures.scan import Scanned
from greffon.pictures.sources.locate import read_bytes

_PROBE_SIZE = 8


def read_elsewhere(locator: str) -> Scanned:
    """Fetch, hash and decode one picture.

    Raises:
        InputError: a package is missing, or such addresses are not known: then no picture can be read.
    """
    try:
        content = read_bytes(locator)
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
        return Scanned("", None, None, None, f"cannot be read: {reason}")
    digest = xxhash.xxh3_128_hexdigest(content)
    try:
        width, height = read_size(content)
        decode(content, _PROBE_SIZE, "stretch")
    except DataError as error:
        return Scanned(digest, len(content), None, None, str(error).removeprefix(f"{name_of(content)}: "))
    return Scanned(digest, len(content), width, height)
