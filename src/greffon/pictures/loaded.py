"""A picture file decoded once, from which the square that the network sees and every view of it are made.

A picture is laid on white where it is transparent, resized in its own colour space, converted to sRGB and turned
upright, in this order: what costs most per pixel comes when there are few pixels left.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops

from greffon.pictures.colour import levels_of, resizable, to_srgb
from greffon.pictures.opened import Source, opened
from greffon.pictures.resize import Box, Plan, ResizeRule, pad, plan, shrink, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

DRAFT_MARGIN = 2
"""JPEG is decoded at 1/2, 1/4 or 1/8 only while that leaves at least this many times the target."""

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Loaded:
    """A decoded file, not upright yet.

    Attributes:
        image: in the file's own mode.
        width: of the content in decoded pixels, which may be a fraction less than the image's.
        height: likewise.
        orientation: EXIF, 1 to 8.
        profile: ICC, if any.
    """

    image: Image.Image
    width: float
    height: float
    orientation: int = 1
    profile: bytes | None = None

    @property
    def upright(self) -> tuple[float, float]:
        """Width and height of the upright picture."""
        return (self.height, self.width) if self.orientation in (5, 6, 7, 8) else (self.width, self.height)

    def square(self, size: int, rule: ResizeRule) -> np.ndarray[Any, Any]:
        """The whole picture as `decode` gives it: uint8 (size, size, 3), RGB."""
        pixels = self._resized(self.image, plan(self.width, self.height, size, rule))
        return pad(pixels, size) if rule == "pad" else np.array(pixels, order="C")

    def part(self, box: Box, size: int, rule: ResizeRule) -> np.ndarray[Any, Any]:
        """A part of the upright picture (left, top, right, bottom) in its place: uint8 (size, size, 3), RGB."""
        left, top, right, bottom = in_file(box, *self.upright, self.orientation)
        resized_to = plan(right - left, bottom - top, size, rule).size
        # Only these rows and columns are converted, and averaged where the picture is large.
        edges = math.floor(left), math.floor(top)
        far = min(math.ceil(right), self.image.width), min(math.ceil(bottom), self.image.height)
        what = Plan((left - edges[0], top - edges[1], right - edges[0], bottom - edges[1]), resized_to)
        pixels = self._resized(self.image.crop((*edges, *far)), what)
        return pad(pixels, size) if rule == "pad" else pixels

    def thumbnail(self, longer: int) -> np.ndarray[Any, Any]:
        """The picture as it lies in its file, not larger than `longer` and not enlarged: uint8 (h, w, 3), RGB.

        It is made faster than a square, and a little less well.
        """
        side = min(longer, max(1, round(max(self.width, self.height))))
        return self._resized(self.image, plan(self.width, self.height, side, "pad"), orientation=1, quick=True)

    def _resized(
        self, piece: Image.Image, what: Plan, *, orientation: int | None = None, quick: bool = False
    ) -> np.ndarray[Any, Any]:
        levels = levels_of(self.image)
        resized = shrink(piece, what, lambda rows: resizable(rows, levels), quick=quick)
        pixels = np.asarray(to_srgb(resized, levels, self.profile))
        return turn(pixels, self.orientation if orientation is None else orientation)


@contextmanager
def loaded(source: Source, size: int, rule: ResizeRule) -> Iterator[Loaded]:
    """Decode a picture file, a JPEG no larger than a square of `size` needs; a PIL image is left as it is, but loaded.

    Raises:
        PictureError: as for `decode`; also where something in the block stumbles over the picture.
        InputError: the type of `source` is none of a picture's.
    """
    with opened(source) as image:
        yield load(image, size, rule, own=image is not source)


def load(image: Image.Image, size: int, rule: ResizeRule, *, own: bool = True) -> Loaded:
    """Decode what is opened, inside of the block that opened it.

    Args:
        image: with its header read.
        size: as for `decode`.
        rule: as for `decode`.
        own: whether the image may be scaled and mended: not the user's.
    """
    content = None
    if own:
        content = _draft(image, size, rule)
        _mend_transparency(image)
    image.load()
    width, height = content or image.size
    return Loaded(_as_inks(image), width, height, orientation_of(image), image.info.get("icc_profile"))


def in_file(box: Box, width: float, height: float, orientation: int) -> Box:
    """A part of an upright picture in the rows and columns of its file: `turn`, undone."""
    left, top, right, bottom = box
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    return (top, left, bottom, right) if orientation in (5, 6, 7, 8) else (left, top, right, bottom)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, from what is read of its file already: the header."""
    width, height = image.size
    # Pillow gives the size of a TIFF turned already.
    turned = image.format != "TIFF" and orientation_of(image, header_only=True) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _draft(image: Image.Image, size: int, rule: ResizeRule) -> tuple[float, float] | None:
    """Let a JPEG be decoded at a fraction of its size; the content's width and height then, in decoded pixels.

    The fraction rounds up to whole pixels: the last row or column may reach over the picture's edge.
    """
    if image.format not in ("JPEG", "MPO"):
        return None
    wanted = plan(image.width, image.height, size, rule).size
    drafted = image.draft(None, (DRAFT_MARGIN * wanted[0], DRAFT_MARGIN * wanted[1]))
    return None if drafted is None else (drafted[1][2], drafted[1][3])


def orientation_of(image: Image.Image, *, header_only: bool = False) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, or where it cannot be read: the picture still can."""
    try:
        if header_only and image.format == "PNG" and "exif" not in image.info:
            return _orientation_behind_pixels(image)
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises nearly anything
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _orientation_behind_pixels(image: Image.Image) -> int:
    """EXIF orientation of a PNG that keeps it after the pixels: the chunks are stepped over, not read."""
    file: BinaryIO = image.fp  # type: ignore[attr-defined]
    here = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"eXIf":
                exif = Image.Exif()
                exif.load(file.read(length))
                value = exif.get(_ORIENTATION, 1)
                return value if isinstance(value, int) and 1 <= value <= 8 else 1
            file.seek(length + 4, os.SEEK_CUR)
    finally:
        file.seek(here)
    return 1


def _mend_transparency(image: Image.Image) -> None:
    """The transparent colour of a PNG is in the file's own bit depth, which Pillow compares with 8-bit pixels."""
    tiles = getattr(image, "tile", None)
    transparent = image.info.get("transparency")
    if image.format != "PNG" or not tiles or transparent is None:
        return
    depth = tiles[0][3] if isinstance(tiles[0][3], str) else (tiles[0][3] or ("",))[0]
    bits = {"1": 1, "L;2": 2, "L;4": 4}.get(depth)
    if bits and isinstance(transparent, int) and transparent < 2**bits:
        image.info["transparency"] = transparent * 255 // (2**bits - 1)
    elif depth == "RGB;16B" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _as_inks(image: Image.Image) -> Image.Image:
    """Undo Pillow's inversion of a CMYK JPEG that no Adobe program marked: only Adobe stores inks inverted."""
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        return ImageChops.invert(image)
    return image
