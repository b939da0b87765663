"""The one decoder: training, evaluation and prediction see a picture through this module and no other.

How a file becomes pixels is in `loaded`; this is what others call.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from greffon.errors import DataError, InputError
from greffon.pictures.loaded import Loaded, loaded, upright_size
from greffon.pictures.opened import MAX_PIXELS, Source, opened
from greffon.pictures.resize import ResizeRule, check_rule, crop_loss

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "DECODER_VERSION",
    "MAX_PIXELS",
    "ResizeRule",
    "Source",
    "crop_loss",
    "decode",
    "decode_array",
    "decode_many",
    "read_size",
]

DECODER_VERSION = "1"
"""Goes up whenever a picture may come out with other pixels; part of the key of kept activations and of a bundle."""

_AHEAD = 4


def decode(source: Source, size: int, rule: ResizeRule) -> np.ndarray:
    """Read one picture as the network sees it.

    JPEG, PNG, WebP, BMP, GIF, TIFF, PPM and JPEG 2000 are read, AVIF with Pillow 11.3 or later, HEIC where
    pillow-heif is installed; of animations and pages the first. The EXIF orientation is applied; grey, palette,
    16-bit, float, CMYK, YCbCr and LAB pictures become RGB, through their ICC profile where they have a usable one;
    transparency is laid over white.

    Args:
        source: path or another locator (`sources.locate`), the bytes of a picture file, an open binary file (read from
            its beginning, left open), or a PIL image (left as it is, but loaded).
        size: side of the square, in pixels, at least 1.
        rule: `crop` scales the shorter side to `size` and takes the centre, `stretch` ignores the aspect, `pad`
            scales the longer side to `size` and centres on white.

    Returns:
        uint8 (size, size, 3), RGB, 0..255.

    Raises:
        PictureError: a `DataError`: the picture cannot be read. The message starts with its name and says why: no such
            file, empty, cut short, not a picture, damaged, more pixels or more processor time than one picture may
            take (`limits`); `fault` says it in one word.
        InputError: `size`, `rule` or the type of `source` is not one of these.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from greffon.pictures.decode import decode
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (640, 480), "red").save(file, "PNG")
        >>> decode(file.getvalue(), 224, "crop").shape
        (224, 224, 3)
    """
    check_rule(size, rule)
    with loaded(source, size, rule) as picture:
        return picture.square(size, rule)


def decode_array(array: np.ndarray, size: int, rule: ResizeRule) -> np.ndarray:
    """Resize pixels that are decoded already, as `decode` does with a file.

    Args:
        array: uint8 (height, width, 3) RGB, (height, width) or (height, width, 1) grey, or (height, width, 4) RGBA
            (laid over white), 0..255.
        size: side of the square, in pixels, at least 1.
        rule: as for `decode`.

    Returns:
        uint8 (size, size, 3), RGB, 0..255.

    Raises:
        InputError: another shape or dtype.
        DataError: no pixels, or more than `MAX_PIXELS`.

    Example:
        >>> import numpy as np
        >>> from greffon.pictures.decode import decode_array
        >>> decode_array(np.zeros((28, 28), np.uint8), 224, "stretch").shape
        (224, 224, 3)
    """
    check_rule(size, rule)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        what = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"pixels must be a uint8 array, 0..255, got {what}")
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        hint = "; channels must be the last axis" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise InputError(
            f"pixels must have the shape (height, width), or (height, width, channels) with 1, 3 or 4 channels, "
            f"got {array.shape}{hint}"
        )
    if 0 in array.shape:
        raise DataError(f"picture in memory: has no pixels: its shape is {array.shape}")
    pixels = array.reshape(array.shape[:2]) if grey else array
    with opened(Image.fromarray(np.ascontiguousarray(pixels))) as image:
        return Loaded(image, image.width, image.height).square(size, rule)


def decode_many(
    sources: Iterable[Source], size: int, rule: ResizeRule, *, workers: int | None = None
) -> Iterator[tuple[int, np.ndarray | DataError]]:
    """Read pictures with several threads, in order, a few ahead of what is asked for.

    Closing the iterator (or leaving a `for` loop over it that is then forgotten) ends its threads.

    Args:
        sources: what `decode` takes; may be endless, is read from the thread that iterates.
        size: as for `decode`.
        rule: as for `decode`.
        workers: threads, at least 1; None: one for each processor that this process may use, at most 16.

    Yields:
        Position in `sources`, and the pixels, uint8 (size, size, 3) RGB, or why there are none.

    Raises:
        InputError: at once for a wrong option, in its place for a source of a wrong type.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from greffon.pictures.decode import decode_many
        >>> [(i, p.shape) for i, p in decode_many([Image.new("L", (9, 9))], 32, "crop", workers=1)]
        [(0, (32, 32, 3))]
    """
    check_rule(size, rule)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers must be a whole number of at least 1, or None for all processors, got {workers!r}")
    return _in_order(sources, size, rule, workers or usual_workers())


def read_size(source: Source) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, from the file's header alone.

    Args:
        source: what `decode` takes.

    Returns:
        Width, height: exchanged where the EXIF orientation lays the picture on its side.

    Raises:
        DataError: the header cannot be read, or claims more than `MAX_PIXELS` pixels.
        InputError: the type of `source` is none of these.

    Example:
        >>> from PIL import Image
        >>> from greffon.pictures.decode import read_size
        >>> read_size(Image.new("RGB", (640, 480)))
        (640, 480)
    """
    with opened(source) as image:
        return upright_size(image)


def _in_order(
    sources: Iterable[Source], size: int, rule: ResizeRule, workers: int
) -> Iterator[tuple[int, np.ndarray | DataError]]:
    def attempt(source: Source) -> np.ndarray | DataError:
        try:
            return decode(source, size, rule)
        except DataError as error:
            return error

    pool = ThreadPoolExecutor(workers, thread_name_prefix="greffon-decode")
    waiting: deque[tuple[int, Future[np.ndarray | DataError]]] = deque()
    try:
        for index, source in enumerate(sources):
            waiting.append((index, pool.submit(attempt, source)))
            if len(waiting) >= _AHEAD * workers:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def usual_workers() -> int:
    """Threads to read pictures with: one for each processor that this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(16, len(os.sched_getaffinity(0)))
    return min(16, os.cpu_count() or 1)
