"""What a picture file may cost: pixels, and processor time.

No decoder of Pillow's can be stopped from outside, and a thread cannot be ended. But all of them that take their file
piece by piece ask for the next piece through Python, and there a picture that has used up its time is given up: a
JPEG with thousands of scans, a header without an end, a million chunks. Decoders that take their file whole (WebP,
AVIF, HEIC, TIFF, JPEG 2000) need a time that its number of pixels bounds, and that is limited before.

Time is the thread's own processor time: a picture is not blamed for a slow disk or for a machine that does other work.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

from greffon.pictures.faults import PictureError

if TYPE_CHECKING:
    from typing import BinaryIO

    from PIL import Image

MAX_PIXELS = 120_000_000
"""The most pixels (width times height) that are decoded: a 108-megapixel telephone passes. A small file can claim
any size, and every pixel takes 4 bytes while it is decoded, in WebP 16."""

TIME_LIMIT = 10.0
"""Seconds of processor time that opening and decoding one picture may take; 108 megapixels take 1 to 3."""

LARGE_CLAIM = 20_000_000
"""Pixels up to which any file may be as small as it likes."""

PIXELS_PER_BYTE = 1000
"""The most that a byte of a larger file may stand for. JPEG cannot reach 300. The others reach it with one single
colour, and need a gigabyte for it; PNG and TIFF are not asked, as blank pages of fax machines are that small."""

SLOW_BYTES = 80_000_000
"""Bytes of a JPEG 2000, which needs 0.12 seconds for each million of them and is decoded in one go; all other kinds
that are need under 8 seconds for `MAX_PIXELS` of noise."""

_THIN = frozenset(("JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000"))

_SCAN_BLOCK = 4096  # bytes of a progressive JPEG between two looks at the clock: in 64 kB are a thousand empty scans


def check_claim(image: Image.Image, length: int | None) -> None:
    """Refuse a picture by what its header says, before a pixel is decoded.

    Args:
        image: with its header read.
        length: of its file, in bytes, where it is known.

    Raises:
        PictureError: no pixels, more than `MAX_PIXELS`, or many more than a file of that length can hold.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise PictureError(f"has no pixels: it is {width} wide and {height} high")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are decoded; scale it down",
            "too large",
        )
    if image.format == "JPEG2000" and length is not None and length > SLOW_BYTES:
        raise PictureError(
            f"is a JPEG 2000 of {length:,} bytes, which would take more than {TIME_LIMIT:g} seconds of processor time: "
            "scale it down, or save it as another kind of file",
            "too slow",
        )
    thin = image.format in _THIN and length is not None and width * height > max(LARGE_CLAIM, PIXELS_PER_BYTE * length)
    if thin:
        raise PictureError(
            f"claims {width:,} x {height:,} pixels in {length:,} bytes: it is damaged, made to fill memory, or shows "
            "one colour",
            "too large",
        )


def look_at_the_clock_often(image: Image.Image) -> None:
    """Have a progressive JPEG decoded in small pieces, so that its time is watched."""
    if image.info.get("progressive"):
        image.decodermaxblock = _SCAN_BLOCK  # type: ignore[attr-defined]


class Watched:
    """An open file that gives up when the thread that reads it has used its time.

    Args:
        file: open, binary, seekable; stays open.

    Raises:
        PictureError: from any of its methods, after `TIME_LIMIT` seconds.

    Example:
        >>> import io
        >>> from greffon.pictures.limits import Watched
        >>> Watched(io.BytesIO(b"abc")).read(2)
        b'ab'
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._until = time.thread_time() + TIME_LIMIT
        self._not_before = time.perf_counter() + TIME_LIMIT  # nobody works longer than it takes; cheaper to look at

    def _check(self) -> None:
        if time.perf_counter() > self._not_before and time.thread_time() > self._until:
            raise PictureError(
                f"takes more than {TIME_LIMIT:g} seconds of processor time: it is damaged, or made to take for ever; "
                "save it again with another program",
                "too slow",
            )

    def read(self, size: int | None = -1, /) -> bytes:
        """As of the file."""
        self._check()
        return self._file.read(-1 if size is None else size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """As of the file."""
        self._check()
        return self._file.readline(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of the file."""
        self._check()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of the file."""
        return self._file.tell()

    def fileno(self) -> int:
        """As of the file: by it TIFF is read without a copy of the whole file in memory."""
        return self._file.fileno()

    def seekable(self) -> bool:
        """True."""
        return True

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Does nothing: the file is closed by whoever opened it."""

    @property
    def closed(self) -> bool:
        """Whether the file is."""
        return self._file.closed

    @property
    def name(self) -> Any:
        """Of the file, where it has one."""
        return getattr(self._file, "name", "")

    def length(self) -> int:
        """Bytes in the file; the place that is read next stays."""
        here = self._file.tell()
        try:
            return self._file.seek(0, io.SEEK_END)
        finally:
            self._file.seek(here)
