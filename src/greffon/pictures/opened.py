"""Opening a picture file so that whatever is wrong with it becomes one sentence, and nothing else leaks out."""

from __future__ import annotations

import io
import stat
import threading
import warnings
import zlib
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from PIL import (
    BmpImagePlugin,  # noqa: F401  # importing a plugin is what makes its format known
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from greffon.errors import InputError
from greffon.pictures.faults import AVIF_BRANDS, HEIF_BRANDS, PictureError, explained, not_a_picture
from greffon.pictures.limits import MAX_PIXELS, Watched, check_claim, look_at_the_clock_often
from greffon.pictures.sources.locate import is_local, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

with suppress(ImportError):  # Pillow knows AVIF since 11.3
    from PIL import AvifImagePlugin  # noqa: F401

__all__ = ["FORMATS", "MAX_PIXELS", "Source", "name_of", "opened"]

Source = str | Path | bytes | BinaryIO | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is tried, and no more: Pillow's other readers start programs (EPS) or take almost anything for a picture."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_MOST_PROFILE = 2**20  # bytes of an unpacked ICC profile in a PNG; Pillow refuses the file for a longer one


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
    """The picture with its header read, its size within the limits; closed at the end unless it was the user's.

    Every failure inside of the block, decoding included, leaves it as a `PictureError` that starts with the source's
    name; only `InputError` for a source of a wrong type and what is no `Exception` pass as they are.
    """
    name = name_of(source)
    try:
        with _pillow_is_quiet(), _image(source) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them stumble over
        raise explained(error, name) from error


@contextmanager
def _image(source: Source) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        check_claim(source, None)
        yield source
    elif isinstance(source, (str, Path)):
        with _open_file(source) as file, _parsed(file) as image:
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


def _open_file(locator: str | Path) -> BinaryIO:
    if not is_local(locator):
        return io.BytesIO(read_bytes(locator))
    path = Path(locator)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise PictureError("is a folder, not a picture file", "not a picture")
    if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
        raise PictureError("is not a regular file", "not a picture")
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


def _parsed(file: BinaryIO) -> ImageFile.ImageFile:
    start = file.read(64)
    if not isinstance(start, bytes):
        raise InputError("an open file must be opened in binary mode ('rb')")
    if not start:
        raise PictureError("is empty (0 bytes)", "empty")
    image = _recognised(file, start)
    if image.format == "PNG":
        image.load_end = partial(_forgiving_end, image)  # type: ignore[method-assign]
    return image


def _recognised(file: BinaryIO, start: bytes) -> ImageFile.ImageFile:
    watched = Watched(file)
    try:
        image = Image.open(cast("BinaryIO", watched), formats=_formats(start))
    except Exception as error:
        mended = _without_extras(file) if start.startswith(_PNG) and not isinstance(error, PictureError) else None
        if mended is not None:
            return _recognised(mended, start)
        if isinstance(error, UnidentifiedImageError):
            raise not_a_picture(start, FORMATS, heif=_heif()) from None
        raise
    check_claim(image, watched.length())
    look_at_the_clock_often(image)
    return image


def _forgiving_end(image: ImageFile.ImageFile) -> None:
    """What stands behind the pixels of a PNG; a text there that is too long is no reason to refuse the picture."""
    with suppress(ValueError):
        type(image).load_end(image)


def _without_extras(file: BinaryIO) -> BinaryIO | None:
    """A PNG without the chunks that no pixel depends on and that it may have been refused for; None if there are none.

    Pillow refuses the whole file for an EXIF, a text or a profile that fails its checksum, and for those that are too
    long; everything else that shows pictures passes over them.
    """
    file.seek(0)
    content = file.read()
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if not _is_harmful_extra(content[at:end]):
            kept.append(content[at:end])
        at = end
    return io.BytesIO(b"".join(kept)) if sum(map(len, kept)) < min(at, len(content)) else None


def _is_harmful_extra(chunk: bytes) -> bool:
    kind, data = chunk[4:8], chunk[8:-4]
    if kind in _PNG_TEXTS:
        return True
    if not kind[:1].islower() or kind == b"tRNS":
        return False
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return True
    if kind != b"iCCP":
        return False
    with suppress(zlib.error):
        unpacking = zlib.decompressobj()
        unpacking.decompress(data[data.find(b"\0") + 2 :], _MOST_PROFILE)
        return bool(unpacking.unconsumed_tail)
    return False


def _formats(start: bytes) -> tuple[str, ...]:
    if start[4:8] != b"ftyp":
        return FORMATS
    if start[8:12] in AVIF_BRANDS:
        return ("AVIF",) if "AVIF" in Image.OPEN else ()
    if start[8:12] in HEIF_BRANDS:
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
