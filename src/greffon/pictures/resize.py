"""How a picture becomes square: crop, stretch or pad, and which part of the file that needs.

All geometry is in the file's own rows and columns; the eight EXIF orientations come after resizing, when there are
few pixels to turn. Crop boxes are centred to fractions of a pixel, so a turned file gives the turned picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from greffon.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ResizeRule = Literal["crop", "stretch", "pad"]
Box = tuple[float, float, float, float]

PAD_COLOUR = 255
"""White, as the ground under transparent pictures."""

REDUCING_GAP = 3
"""A picture more than twice this times too large is first averaged over whole blocks, down to at least this many
times the target: cheaper for large files, and the numbers agree with one bicubic pass (see the tests)."""

STRIP = 1 << 20
"""About so many pixels of a large picture are converted at once: beside the decoded file, little memory is used."""


@dataclass(frozen=True)
class Plan:
    """Which part of a picture is resized, and to what: `box` (left, top, right, bottom), `size` (width, height)."""

    box: Box
    size: tuple[int, int]


def check_rule(size: int, rule: str) -> None:
    """Refuse a side or a rule that does not exist.

    Raises:
        InputError: `size` is not a whole number of at least 1, or `rule` is not one of the three.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"size must be the side of the square in pixels, a whole number of at least 1, got {size!r}")
    known = get_args(ResizeRule)
    if rule not in known:
        raise InputError(f"resize rule must be one of {', '.join(known)}, got {rule!r}{nearest(str(rule), known)}")


def plan(width: float, height: float, size: int, rule: ResizeRule) -> Plan:
    """What `rule` does to a picture of `width` times `height` pixels."""
    if rule == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return Plan((left, top, left + side, top + side), (size, size))
    if rule == "stretch":
        return Plan((0, 0, width, height), (size, size))
    longer = max(width, height)
    return Plan((0, 0, width, height), (max(1, round(width * size / longer)), max(1, round(height * size / longer))))


def crop_loss(width: int, height: int) -> float:
    """Share of a picture's pixels that `crop` leaves out.

    Args:
        width: pixels, at least 1.
        height: pixels, at least 1.

    Returns:
        0 for a square, 0.25 for 4:3, towards 1 for a strip.

    Raises:
        InputError: a side is under 1.

    Example:
        >>> from greffon.pictures.decode import crop_loss
        >>> crop_loss(640, 480)
        0.25
    """
    if min(width, height) < 1:
        raise InputError(f"width and height must be at least 1 pixel, got {width} x {height}")
    return 1 - min(width, height) / max(width, height)


def shrink(
    image: Image.Image, what: Plan, prepare: Callable[[Image.Image], Image.Image], *, quick: bool = False
) -> Image.Image:
    """The planned part of an image at the planned size: bicubic, antialiased.

    Args:
        image: in any mode, palettes included.
        what: the plan; its box may reach over the image's edge by less than a pixel.
        prepare: makes of the image, or of rows of it, one that can be averaged; its mode is the result's.
        quick: bilinear, after averaging as far as that goes: half the time, and numbers agree less well.
    """
    left, top, right, bottom = what.box
    gap = 1 if quick else REDUCING_GAP
    factors = (
        max(1, int((right - left) / what.size[0] / gap)),
        max(1, int((bottom - top) / what.size[1] / gap)),
    )
    smaller = prepare(image) if factors == (1, 1) else _averaged(image, factors, prepare)
    across, down = factors
    box = (left / across, top / down, min(right / across, smaller.width), min(bottom / down, smaller.height))
    how = Image.Resampling.BILINEAR if quick else Image.Resampling.BICUBIC
    return smaller.resize(what.size, how, box=box)


def strips(image: Image.Image, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """The image in pieces of some rows, a multiple of `multiple` (the last one less): first row, piece."""
    rows = multiple * max(1, STRIP // (image.width * multiple))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _averaged(
    image: Image.Image, factors: tuple[int, int], prepare: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    down = factors[1]
    pieces = ((top // down, prepare(piece).reduce(factors)) for top, piece in strips(image, down))
    _, first = next(pieces)
    whole = Image.new(first.mode, (first.width, -(-image.height // down)))
    whole.paste(first)
    for row, piece in pieces:
        whole.paste(piece, (0, row))
    return whole


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Set pixels (height, width, channels) upright that a file stores in one of the eight EXIF orientations.

    A value outside of 2..8 leaves them as they are.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def pad(pixels: np.ndarray, size: int) -> np.ndarray:
    """Centre upright pixels on a white square; an odd pixel of margin goes to the right or the bottom."""
    height, width = pixels.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    square = np.full((size, size, pixels.shape[2]), PAD_COLOUR, np.uint8)
    square[top : top + height, left : left + width] = pixels
    return square
