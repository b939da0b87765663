"""Probe pictures: rendered by code in whole numbers alone, so that they are the same to the bit on every machine.

They are to a network what photographs are: objects of all sizes that hide one another ("dead leaves"), with shading
and texture, under light that falls off; about equal power per octave, mean and contrast those of photographs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from greffon.errors import InputError

PROBES_VERSION = 1
"""Raised when the same call would give other pictures; stored outputs belong to one version."""

_Ints = np.ndarray[Any, np.dtype[np.int64]]
_SPAN = 4096  # coordinates within a picture, whatever its side
_LEAVES = 120
_FINER = 2  # rendered at twice the side and averaged: edges as soft as a lens makes them
_MASK = (1 << 64) - 1
_LARGEST_SIDE = 1024


def probe_pictures(count: int = 8, *, side: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Rendered pictures; the first ones are the same whatever the count, and every size shows the same scenes.

    Args:
        count: how many, at least 1.
        side: height and width in pixels, 8..1024.

    Returns:
        RGB of 0..255: uint8 (count, side, side, 3), the same to the bit on every platform.

    Raises:
        InputError: a number is out of range.

    Example:
        >>> from greffon.weights.probes import probe_pictures
        >>> pictures = probe_pictures(2, side=64)
        >>> pictures.shape, pictures.dtype.name
        ((2, 64, 64, 3), 'uint8')
    """
    if not isinstance(count, int) or count < 1:
        raise InputError(f"count of probe pictures must be a whole number of at least 1, got {count!r}")
    if not isinstance(side, int) or not 8 <= side <= _LARGEST_SIDE:
        raise InputError(f"side of probe pictures must be 8..{_LARGEST_SIDE} pixels, got {side!r}")
    return np.stack([_picture(number, side) for number in range(count)])


@lru_cache(maxsize=64)
def _picture(number: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    fine = side * _FINER
    draw = _Draws(number)
    at = (np.arange(fine, dtype=np.int64) * 2 + 1) * _SPAN // (2 * fine)
    canvas = np.empty((fine, fine, 3), np.int64)
    texture = _noise(draw, fine)
    _background(draw, canvas, at, texture)
    for _ in range(_LEAVES):
        _leaf(draw, canvas, at, texture)
    _light(draw, canvas, at)
    softened = canvas.reshape(side, _FINER, side, _FINER, 3).sum(axis=(1, 3)) // (_FINER * _FINER)
    picture = np.clip(softened, 0, 255).astype(np.uint8)
    picture.setflags(write=False)
    return picture


class _Draws:
    """Whole random numbers from SplitMix64, which is a few shifts and products modulo 2^64."""

    def __init__(self, seed: int) -> None:
        # Not a multiple of SplitMix64's own step: else every picture's numbers would be the last one's, moved by one.
        self._state = ((seed + 1) * 0xD1342543DE82EF95) & _MASK

    def below(self, limit: int) -> int:
        """A number of 0..limit-1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) >> 11) % limit

    def between(self, low: int, high: int) -> int:
        """A number of low..high."""
        return low + self.below(high - low + 1)

    def grid(self, cells: int) -> _Ints:
        """(cells, cells) numbers of -128..128."""
        return np.array([self.between(-128, 128) for _ in range(cells * cells)], np.int64).reshape(cells, cells)


def _noise(draw: _Draws, fine: int) -> _Ints:
    """Texture of about equal power per octave: smooth noise on ever finer grids, -256..256 and most of it within 100.

    Octaves are drawn up to the same finest one whatever the size, so that the pictures of all sizes agree; those that
    a small picture cannot show are left out.
    """
    total = np.zeros((fine, fine), np.int64)
    for octave in range(2, 7):
        cells = 1 << octave
        values = draw.grid(min(cells, 16) + 1)
        if cells * 4 > fine:
            continue
        total += _smooth(np.tile(values, (cells // min(cells, 16) + 1,) * 2)[: cells + 1, : cells + 1], fine)
    return total * 2 // 3


def _smooth(values: _Ints, fine: int) -> _Ints:
    """A grid of values drawn out to (fine, fine), with smooth steps between them."""
    cells = len(values) - 1
    at = (np.arange(fine, dtype=np.int64) * 2 + 1) * cells * 128 // fine  # in 1/256 of a cell
    low, part = at >> 8, at & 255
    part = part * part * (768 - 2 * part) >> 16
    rows = values[low] * (256 - part)[:, None] + values[low + 1] * part[:, None]
    return (rows[:, low] * (256 - part) + rows[:, low + 1] * part) >> 16


def _colour(draw: _Draws) -> _Ints:
    """RGB as in photographs: mostly grey, more warm and cold than green and purple, mean (124, 117, 104)."""
    grey = draw.between(-100, 124)
    warm = draw.between(-22, 22) + draw.between(-22, 22)
    green = draw.between(-12, 12)
    return np.array([124 + grey + warm, 117 + grey + green, 104 + grey - warm], np.int64)


def _background(draw: _Draws, canvas: _Ints, at: _Ints, texture: _Ints) -> None:
    """Above brighter than below, with a horizon in some pictures."""
    above, below = _colour(draw) + 40, _colour(draw) - 20
    horizon = draw.between(_SPAN // 4, _SPAN * 3 // 4)
    step = np.clip((at - horizon) * 8 + _SPAN // 2, 0, _SPAN) if draw.below(2) else at
    canvas[:] = (above * (_SPAN - step)[:, None, None] + below * step[:, None, None]) // _SPAN
    canvas += (texture // 8)[..., None]


def _leaf(draw: _Draws, canvas: _Ints, at: _Ints, texture: _Ints) -> None:
    """An ellipse or a tilted rectangle with a shade across it and texture on it; its size follows a power law."""
    # Sizes between 1/32 and 1/2.5 of the picture with density r^-2.5 or so, by turning a uniform number over.
    size = _SPAN * 16 // (draw.between(40, 700) if draw.below(3) else draw.between(40, 220))
    wide, tall = size, size * draw.between(96, 256) // 256
    if draw.below(2):
        wide, tall = tall, wide
    x0, y0 = draw.between(-_SPAN // 8, _SPAN * 9 // 8), draw.between(-_SPAN // 8, _SPAN * 9 // 8)
    tilt = draw.between(-128, 128) if draw.below(2) else 0
    round_ = draw.below(3) > 0
    colour = _colour(draw)
    shade_x, shade_y = draw.between(-24, 24), draw.between(-8, 32)
    grain = draw.between(0, 48)
    reach = 3 * size // 2
    rows, columns = (_within(at, centre, reach) for centre in (y0, x0))
    y, x = (at[rows] - y0)[:, None], (at[columns] - x0)[None, :]
    along, across = x + y * tilt // 256, y - x * tilt // 256
    if round_:
        inside = (along * along) * (tall * tall) + (across * across) * (wide * wide) <= (wide * tall) ** 2
    else:
        inside = (abs(along) <= wide) & (abs(across) <= tall)
    shade = (x * shade_x - y * shade_y) // size + texture[rows, columns] * grain // 256
    part = canvas[rows, columns]
    part[inside] = (colour + shade[..., None])[inside]


def _light(draw: _Draws, canvas: _Ints, at: _Ints) -> None:
    """Light that falls off to one side, from 9/8 to 6/8."""
    x, y = draw.between(-128, 128), draw.between(-64, 128)
    fall = (at[None, :] - _SPAN // 2) * x // 256 + (at[:, None] - _SPAN // 2) * y // 256
    canvas *= np.clip(1024 - fall * 256 // _SPAN, 768, 1280)[..., None]
    canvas >>= 10


def _within(at: _Ints, centre: int, reach: int) -> slice:
    return slice(int(np.searchsorted(at, centre - reach)), int(np.searchsorted(at, centre + reach, side="right")))
