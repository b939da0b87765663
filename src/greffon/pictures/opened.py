"""Opening a picture file so that whatever is wrong with it becomes one sentence, and nothing else leaks out."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
import zlib
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from PIL import (
    BmpImagePlugin,  # noqa: F401  # importing a plugin is what makes its format known
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

with suppress(ImportError):  # Pillow knows AVIF since 11.3
    from PIL import AvifImagePlugin  # noqa: F401

Source = str | Path | bytes | BinaryIO | Image.Image

MAX_PIXELS = 120_000_000
"""The most pixels (width times height) that are decoded: a 108-megapixel telephone passes. A small file can claim
any size, and every pixel takes 4 bytes while it is decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is tried, and no more: Pillow's other readers start programs (EPS) or take almost anything for a picture."""

_PNG = b"\x89PNG\r\n\x1a\n"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

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


def name_of(source: Any) -> str:
    """What messages call a source: its path where it has one."""
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"picture in memory ({len(source):,} bytes)"
    name = getattr(source, "filename", "") or getattr(source, "name", "")
    return name if isinstance(name, str) and name else "picture in memory"


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """The picture with its header read, its size within the limit; closed at the end unless it was the user's.

    Every failure inside of the block, decoding included, leaves it as a `DataError` that starts with the source's
    name; only `InputError` for a source of a wrong type and what is no `Exception` pass as they are.
    """
    name = name_of(source)
    try:
        with _pillow_is_quiet(), _image(source) as image:
            width, height = image.size
            if width < 1 or height < 1:
                raise DataError(f"has no pixels: it is {width} wide and {height} high")
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are decoded; scale it down"
                )
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them stumble over
        raise DataError(f"{name}: {_reason(error)}") from error


@contextmanager
def _image(source: Source) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, (str, Path)):
        with _open_file(Path(source)) as file, _parsed(file) as image:
            yield image
    elif isinstance(source, (bytes, bytearray, memoryview)):
        with _parsed(io.BytesIO(source)) as image:
            yield image
    elif hasattr(source, "read"):
        with _parsed(_seekable(source)) as image:
            yield image
    else:
        raise InputError(
            "a picture must be a path, the bytes of a file, an open binary file or a PIL image, got "
            f"{type(source).__name__}; arrays of pixels go through decode_array"
        )


def _open_file(path: Path) -> BinaryIO:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError("is a folder, not a picture file")
    if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
        raise DataError("is not a regular file")
    return path.open("rb")


def _seekable(stream: BinaryIO) -> BinaryIO:
    try:
        stream.seek(0)
    except (AttributeError, OSError, io.UnsupportedOperation):
        content = stream.read()
        if not isinstance(content, bytes):
            raise InputError("an open file must be opened in binary mode ('rb')") from None
        return io.BytesIO(content)
    return stream


def _parsed(file: BinaryIO) -> Image.Image:
    start = file.read(64)
    if not isinstance(start, bytes):
        raise InputError("an open file must be opened in binary mode ('rb')")
    if not start:
        raise DataError("is empty (0 bytes)")
    try:
        return Image.open(file, formats=_formats(start))
    except UnidentifiedImageError:
        mended = _without_damaged_extras(file) if start.startswith(_PNG) else None
        if mended is None:
            raise DataError(_what_it_is(start)) from None
    return _parsed(mended)


def _without_damaged_extras(file: BinaryIO) -> BinaryIO | None:
    """A PNG without the chunks that fail their checksum and that no pixel depends on (EXIF, texts, profiles).

    Pillow refuses the whole file for one of these; everything else that shows pictures passes over them.
    """
    file.seek(0)
    content = file.read()
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        extra = kind[:1].islower() and kind != b"tRNS"
        if not extra or zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big"):
            kept.append(content[at:end])
        at = end
    return io.BytesIO(b"".join(kept)) if sum(map(len, kept)) < min(at, len(content)) else None


def _formats(start: bytes) -> tuple[str, ...]:
    if start[4:8] != b"ftyp":
        return FORMATS
    if start[8:12] in _AVIF_BRANDS:
        return ("AVIF",) if "AVIF" in Image.OPEN else ()
    if start[8:12] in _HEIF_BRANDS:
        # A HEIF file of the general brand may hold AVIF.
        return tuple(name for name in ("HEIF", "AVIF") if (name == "AVIF" or _heif()) and name in Image.OPEN)
    return FORMATS


@lru_cache(maxsize=1)
def _heif() -> bool:
    """Whether HEIC can be read, with pillow-heif, which is not always installed."""
    try:
        from pillow_heif import HeifImagePlugin  # noqa: F401  # importing it makes the format known
    except ImportError:
        return False
    return True


def _what_it_is(start: bytes) -> str:
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and not _heif():
        return "is a HEIC picture, which needs the package pillow-heif (pip install pillow-heif)"
    if start[4:8] == b"ftyp" and start[8:12] in _AVIF_BRANDS and "AVIF" not in Image.OPEN:
        return "is an AVIF picture, which needs Pillow 11.3 or later"
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _OTHER_FILES:
        if lower.startswith(magic.lower()):
            return f"cannot be read as a picture: it looks like {what}"
    if not any(start):
        return "cannot be read as a picture: it begins with zeros, as a file that was never written to its end"
    return f"is not a picture of a known format ({', '.join(FORMATS)}, AVIF, HEIC)"


_PLAIN_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (FileNotFoundError, "there is no such file"),
    (PermissionError, "may not be read (no permission)"),
    (Image.DecompressionBombError, "has too many pixels"),
    (MemoryError, "does not fit into memory"),
)


def _reason(error: Exception) -> str:
    """Why a picture cannot be read, in plain words."""
    text = " ".join(str(error).split())
    if isinstance(error, DataError):
        return text
    for kind, words in _PLAIN_WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, EOFError) or "truncated" in text.lower() or "not enough" in text.lower():
        return f"is cut short: the file ends before the picture does ({text or 'no more data'})"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {os.strerror(error.errno)}"
    return f"is damaged and cannot be decoded ({text or type(error).__name__})"


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filter: Any = None


@contextmanager
def _pillow_is_quiet() -> Iterator[None]:
    """No warnings from Pillow's modules inside, in any thread.

    `warnings.catch_warnings` saves and restores the whole list, which mixes up when threads overlap; this adds one
    entry with the first thread that comes and takes it away with the last that leaves.
    """
    global _quiet_depth, _quiet_filter  # noqa: PLW0603  # the list of filters is global too
    with _quiet_lock:
        _quiet_depth += 1
        # Somebody may have restored the list, or put a stricter entry in front, while pictures were being read.
        if not warnings.filters or warnings.filters[0] is not _quiet_filter:
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
            _quiet_filter = warnings.filters[0]
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                with suppress(ValueError):  # somebody else restored the list meanwhile
                    cast("list[Any]", warnings.filters).remove(_quiet_filter)
