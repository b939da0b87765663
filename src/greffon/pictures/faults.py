"""What is wrong with a picture file: one word for programs, one sentence for people."""

from __future__ import annotations

import os
from typing import Literal, get_args

from PIL import Image

from greffon.errors import DataError

Fault = Literal["missing", "empty", "truncated", "damaged", "not a picture", "unsupported", "too large", "too slow"]
"""Why a picture cannot be used. `missing`: no such file, or it may not be read; `truncated`: cut short; `damaged`:
cannot be decoded for another reason; `not a picture`: of no known format; `unsupported`: it takes a package that is not
installed; `too large`, `too slow`: more than one picture may cost (`limits`)."""

FAULTS: tuple[Fault, ...] = get_args(Fault)

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")

_OTHER_FILES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<!doctype html", "an HTML page, as a failed download leaves it"),
    (b"<html", "an HTML page, as a failed download leaves it"),
    (b"<?xml", "an XML or SVG file"),
    (b"<svg", "an SVG drawing"),
    (b"%!ps", "a PostScript file"),
    (b"\xff\xd8", "a JPEG file with a damaged header"),
    (b"\x89png", "a PNG file with a damaged header"),
    (b"gif8", "a GIF file with a damaged header"),
    (b"riff", "a RIFF file (WebP, AVI or WAV) with a damaged header"),
    (b"bm", "a BMP file with a damaged header"),
    (b"ii*\x00", "a TIFF file with a damaged header"),
    (b"mm\x00*", "a TIFF file with a damaged header"),
    (b"version https://git-lfs", "a Git LFS pointer: the picture itself was not fetched"),
)


class PictureError(DataError):
    """A picture that cannot be used.

    Attributes:
        fault: why, in one word.

    Example:
        >>> from greffon.pictures.faults import PictureError
        >>> PictureError("a.jpg: is empty (0 bytes)", "empty").fault
        'empty'
    """

    def __init__(self, message: str, fault: Fault = "damaged") -> None:
        super().__init__(message, fault)
        self.fault = fault

    def __str__(self) -> str:
        return str(self.args[0])


def not_a_picture(start: bytes, formats: tuple[str, ...], *, heif: bool) -> PictureError:
    """What a file seems to be that no reader takes for a picture.

    Args:
        start: the first bytes of the file, at least one.
        formats: the names of those that are read.
        heif: whether HEIC can be read.
    """
    if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS and not heif:
        return PictureError(
            "is a HEIC picture, which needs the package pillow-heif (pip install pillow-heif)", "unsupported"
        )
    if start[4:8] == b"ftyp" and start[8:12] in AVIF_BRANDS and "AVIF" not in Image.OPEN:
        return PictureError("is an AVIF picture, which needs Pillow 11.3 or later", "unsupported")
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _OTHER_FILES:
        if lower.startswith(magic.lower()):
            fault: Fault = "damaged" if what.endswith("damaged header") else "not a picture"
            return PictureError(f"cannot be read as a picture: it looks like {what}", fault)
    if not any(start):
        return PictureError(
            "cannot be read as a picture: it begins with zeros, as a file that was never written to its end", "damaged"
        )
    return PictureError(f"is not a picture of a known format ({', '.join(formats)}, AVIF, HEIC)", "not a picture")


_PLAIN_WORDS: tuple[tuple[type[Exception], Fault, str], ...] = (
    (FileNotFoundError, "missing", "there is no such file"),
    (PermissionError, "missing", "may not be read (no permission)"),
    (Image.DecompressionBombError, "too large", "has too many pixels"),
    (MemoryError, "too large", "does not fit into memory"),
)


def explained(error: Exception, name: str) -> PictureError:
    """What any reader raised, as one plain sentence that starts with the picture's name."""
    text = " ".join(str(error).split())
    if isinstance(error, PictureError):
        return PictureError(f"{name}: {text}", error.fault)
    if isinstance(error, DataError):
        return PictureError(f"{name}: {text}", "damaged")
    for kind, fault, words in _PLAIN_WORDS:
        if isinstance(error, kind):
            return PictureError(f"{name}: {words}", fault)
    if isinstance(error, EOFError) or "truncated" in text.lower() or "not enough" in text.lower():
        return PictureError(
            f"{name}: is cut short: the file ends before the picture does ({text or 'no more data'})", "truncated"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return PictureError(f"{name}: cannot be read: {os.strerror(error.errno)}", "missing")
    return PictureError(f"{name}: is damaged and cannot be decoded ({text or type(error).__name__})", "damaged")
