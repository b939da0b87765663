"""Pictures that are no files, written as files into the cache folder.

Arrays, tensors and rows of bytes become files once, so that scan, split, training, evaluation and reports go one way
for all sources, hold one picture in memory at a time, and find the same pictures under the same names the next time.
Bytes are written as they are. Pixels are written as PPM: nothing is lost, and the same pixels give the same bytes
whatever library and version wrote them, which PNG does not promise; a picture's hash decides its side of the split, so
it must not depend on that. The price is disk: width x height x 3 bytes for each.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xxhash

from greffon.errors import DataError, InputError
from greffon.weights.cache import cache_dir

if TYPE_CHECKING:
    from types import TracebackType

_IN_FOLDER = 1000
_PART = "part-"
_STALE_SECONDS = 7 * 24 * 3600
_TOLERANCE = 1.0  # resizing of others may leave 0..255 by this much
_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"P6", ".ppm"),
    (b"P5", ".pgm"),
)


def kept_dir() -> Path:
    """The folder of the cache that holds pictures which were no files."""
    return cache_dir() / "pictures"


class Keeper:
    """Writes pictures into a folder that is named after what they are; the same pictures get the same folder.

    Attributes:
        folder: where they are; known when the block is left.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from greffon.pictures.sources.kept import Keeper, ppm
        >>> os.environ["GREFFON_CACHE"] = tempfile.mkdtemp()
        >>> with Keeper() as keeper:
        ...     name = keeper.add(ppm(np.zeros((2, 2, 3), np.uint8)))
        >>> name, (keeper.folder / name).stat().st_size
        ('0000/000000.ppm', 23)
    """

    folder: Path

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def __enter__(self) -> Self:
        kept_dir().mkdir(parents=True, exist_ok=True)
        for part in kept_dir().glob(f"{_PART}*"):  # of a process that was killed
            with suppress(OSError):
                if part.stat().st_mtime < time.time() - _STALE_SECONDS:
                    shutil.rmtree(part, ignore_errors=True)
        self._temporary = Path(tempfile.mkdtemp(dir=kept_dir(), prefix=_PART))
        return self

    def add(self, content: bytes, *, by_content: bool = False) -> str:
        """Write one picture file.

        Args:
            content: its bytes.
            by_content: named after its content, for sources that come in another order each time; else numbered.

        Returns:
            Its path in the folder.
        """
        digest, number = xxhash.xxh3_128_hexdigest(content), len(self._digests)
        suffix = next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), ".bin")
        name = f"{number // _IN_FOLDER:04}/{number:06}{suffix}"
        if by_content:
            again = 0
            while (name := f"{digest[:2]}/{digest[2:]}{f'-{again}' if again else ''}{suffix}") in self._digests:
                again += 1
        self._digests[name] = digest
        file = self._temporary / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return name

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        whole = xxhash.xxh3_128()
        for name, digest in sorted(self._digests.items()):
            whole.update(f"{name} {digest}\n".encode())
        self.folder = kept_dir() / whole.hexdigest()
        if not self.folder.exists():
            try:
                self._temporary.rename(self.folder)
                return
            except OSError:  # another process was faster
                if not self.folder.is_dir():
                    raise
        for name in self._digests:  # one that is there keeps its dates, so that the scan need not read it again
            if not (self.folder / name).is_file():
                (self.folder / name).parent.mkdir(exist_ok=True)
                (self._temporary / name).replace(self.folder / name)


def ppm(pixels: np.ndarray[Any, Any]) -> bytes:
    """Pixels as the bytes of a file: PPM or PGM, PNG with transparency.

    Args:
        pixels: uint8 (height, width, 3) RGB, (height, width) or (height, width, 1) grey, (height, width, 4) RGBA.

    Raises:
        DataError: another shape, or no pixels.

    Example:
        >>> import numpy as np
        >>> from greffon.pictures.sources.kept import ppm
        >>> ppm(np.zeros((1, 2), np.uint8))
        b'P5 2 1 255...'
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or 0 in pixels.shape:
        raise DataError(
            "a picture must have the shape (height, width, 3), (height, width, 4), (height, width, 1) or (height, "
            f"width), got {pixels.shape}"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        import io

        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    return b"%s %d %d 255\n" % (kind, pixels.shape[1], pixels.shape[0]) + np.ascontiguousarray(pixels).tobytes()


def as_uint8(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values 0..255 as uint8, rounded; of one picture or many.

    Raises:
        InputError: they are no numbers, or not in 0..255.
    """
    if pixels.dtype == np.uint8 or not pixels.size:
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype.kind not in "iuf":
        raise InputError(f"pictures must be numbers 0..255, got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_TOLERANCE and high <= 255 + _TOLERANCE):  # also where one is NaN
        hint = "; 16-bit values: divide by 257" if pixels.dtype == np.uint16 else ""
        raise InputError(
            f"pictures must hold RGB values 0..255, got {low:.4g}..{high:.4g}; the model does its own preprocessing"
            f"{hint}"
        )
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def check_not_scaled(low: float, high: float, kind: str) -> None:
    """Refuse floats 0..1, or about 0, which as 0..255 would all be black.

    Args:
        low: the least value of all pictures.
        high: the greatest.
        kind: of the values' dtype, as NumPy names it: `f` for floats.

    Raises:
        InputError: they were scaled.
    """
    if kind == "f" and high <= 1 and high > low:
        raise InputError(
            f"pictures must hold RGB values 0..255, got {low:.4g}..{high:.4g}: multiply by 255, or leave out the "
            "scaling; the model does its own preprocessing"
        )
