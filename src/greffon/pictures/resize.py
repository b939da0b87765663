"""How a picture becomes square: crop, stretch or pad, and which part of the file that needs.

All geometry is in the file's own rows and columns; the eight EXIF orientations come after resizing, when there are
few pixels to turn. Crop boxes are centred to fractions of a pixel, so a turned file gives the turned picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from greffon.errors import InputError
from greffon.recipe import nearest

ResizeRule = Literal["crop", "stretch", "pad"]
Box = tuple[float, float, float, float]

PAD_COLOUR = 255
"""White, as the ground under transparent pictures."""

REDUCING_GAP = 3.0
"""A picture more than twice this times too large is first averaged over whole blocks, down to at least this many
times the target: five times faster for large files, and the numbers agree with one bicubic pass (see the tests)."""


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


def shrink(image: Image.Image, what: Plan) -> Image.Image:
    """The planned part of `image` at the planned size: bicubic, antialiased, in the image's own mode."""
    right, bottom = min(what.box[2], image.width), min(what.box[3], image.height)
    box = (what.box[0], what.box[1], right, bottom)
    return image.resize(what.size, Image.Resampling.BICUBIC, box=box, reducing_gap=REDUCING_GAP)


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
