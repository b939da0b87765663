"""From any of Pillow's modes to RGB on white: what must happen before resizing, and what comes cheaper after it."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from greffon.errors import DataError
from greffon.pictures.resize import strips

ICC_NOISE = 2
"""An ICC profile that changes no colour by more than this (of 255) is sRGB, and is left out."""

Levels = tuple[float, float]
"""Values that are black and white."""

_WHITE = 255

_TRANSPARENT = {"1": "LA", "L": "LA", "LA": "LA", "P": "RGBA", "PA": "RGBA", "RGB": "RGBA", "RGBA": "RGBA"}
_OPAQUE = {"1": "L", "P": "RGB", "RGBX": "RGB", "HSV": "RGB"}

_PROFILE_SPACES = {"L": ("GRAY",), "RGB": ("RGB ",), "CMYK": ("CMYK",)}


def levels_of(image: Image.Image) -> Levels | None:
    """Which values are black and white in an image of more than 8 bits; None for the others.

    16-bit integers have their own range. 32-bit integers have that of 8 or 16 bits if all of them are in it, floats
    that of 0..1 or 0..255; what is in none of these has the range of its own values.

    Raises:
        DataError: floats of which none is a number.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode == "I":
        low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
        usual = (255.0, 65535.0)
    elif image.mode == "F":
        low, high = _finite_extrema(image)
        usual = (1.0, 255.0)
    else:
        return None
    fitting = [white for white in usual if low >= 0 and high <= white]
    return (0.0, fitting[0]) if fitting else (low, high)


def resizable(image: Image.Image, levels: Levels | None) -> Image.Image:
    """`image`, or some rows of it, in a mode whose numbers can be averaged; where it is transparent, on white.

    That is L, RGB, CMYK, YCbCr or LAB, and F for more than 8 bits, in which what is not a number becomes black.
    """
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    mode = image.mode
    if levels is not None:
        transparent = image.info.get("transparency")
        values = image.convert("F")
        if isinstance(transparent, int):
            opaque = np.where(np.asarray(values) == transparent, 0, 255).astype(np.uint8)
            values = Image.composite(values, Image.new("F", values.size, levels[1]), Image.fromarray(opaque))
        return values if mode != "F" else _without_nan(values, levels[0])
    if mode in _TRANSPARENT and image.has_transparency_data:
        return _on_white(image.convert(_TRANSPARENT[mode]))
    return image.convert(_OPAQUE[mode]) if mode in _OPAQUE else image


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new(image.mode[:-1], image.size, (_WHITE,) * (len(image.mode) - 1))
    ground.paste(image, mask=image)
    return ground


def to_srgb(colours: Image.Image, levels: Levels | None, profile: bytes | None) -> Image.Image:
    """RGB (sRGB) of an image that `resizable` made, through `profile` (ICC) where that can be used."""
    if levels is not None:
        colours = _scaled(colours, levels)
    if colours.mode == "YCbCr":
        colours = colours.convert("RGB")
    if profile and colours.mode != "LAB":
        # A grey picture may carry the profile of the colour picture it was made from.
        for mode in dict.fromkeys((colours.mode, "RGB")):
            transform = _transform(profile, mode)
            if transform is not None:
                source = colours if colours.mode == mode else colours.convert(mode)
                converted: Image.Image = transform.apply(source)
                return converted
    return colours.convert("RGB")


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """The ICC transform from `mode` to sRGB; None where the profile is broken, of another space, or sRGB itself."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space not in _PROFILE_SPACES.get(mode, ()):
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        probe = _probe(mode)
        seen, plain = transform.apply(probe), probe.convert("RGB")
    except Exception:  # whatever is wrong with a profile, the picture can be shown without it
        return None
    change = np.abs(np.asarray(seen, np.int16) - np.asarray(plain, np.int16)).max()
    return transform if change > ICC_NOISE else None


@lru_cache(maxsize=64)
def profile_is_broken(profile: bytes) -> bool:
    """Whether an ICC profile cannot be used at all: it is not read, or leads to no colours.

    Example:
        >>> from greffon.pictures.colour import profile_is_broken
        >>> profile_is_broken(b"no profile")
        True
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        modes = [mode for mode, spaces in _PROFILE_SPACES.items() if opened.profile.xcolor_space in spaces]
        for mode in modes:
            ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # whatever is wrong with a profile, the picture can be shown without it
        return True
    return False


def _probe(mode: str) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    steps = np.linspace(0, 255, 9 if bands > 1 else 256).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * bands, indexing="ij"), axis=-1).reshape(1, -1, bands)
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())


def _finite_extrema(image: Image.Image) -> Levels:
    lows, highs = [], []
    for _, piece in strips(image):
        values = np.asarray(piece)
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    if not lows:
        raise DataError("holds floats of which none is a number")
    return min(lows), max(highs)


def _without_nan(image: Image.Image, black: float) -> Image.Image:
    values = np.asarray(image)
    finite = np.isfinite(values)
    return image if finite.all() else Image.fromarray(np.where(finite, values, np.float32(black)))


def _scaled(image: Image.Image, levels: Levels) -> Image.Image:
    """Floats to 8-bit grey, rounded; Pillow's own conversion would clip them and cut the fraction off."""
    black, white = levels
    scale = 255 / (white - black) if white > black else 0.0
    return image.point(lambda value: value * scale + (0.5 - black * scale)).convert("L")
