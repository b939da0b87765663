"""From any of Pillow's modes to RGB on white: what must happen before resizing, and what comes cheaper after it."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from greffon.errors import DataError

ICC_NOISE = 2
"""An ICC profile that changes no colour by more than this (of 255) is sRGB, and is left out."""

_WHITE = 255

_TRANSPARENT = {"1": "LA", "L": "LA", "LA": "LA", "P": "RGBA", "PA": "RGBA", "RGB": "RGBA", "RGBA": "RGBA"}
_OPAQUE = {"1": "L", "P": "RGB", "RGBX": "RGB", "HSV": "RGB"}

_PROFILE_SPACES = {"L": ("GRAY",), "RGB": ("RGB ",), "CMYK": ("CMYK",)}


def resizable(image: Image.Image) -> Image.Image:
    """`image` in a mode whose numbers can be averaged: L, RGB, CMYK, YCbCr or LAB; where transparent, on white.

    1-bit becomes grey, palettes are looked up, and more than 8 bits are scaled to 8. Raises `DataError` for floats
    without a single number in them.
    """
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bit(image)
    if mode == "I":
        return _scaled(image.convert("F"), *_integer_range(image))
    if mode == "F":
        return _from_float(image)
    if mode in _TRANSPARENT and image.has_transparency_data:
        return _on_white(image.convert(_TRANSPARENT[mode]))
    return image.convert(_OPAQUE[mode]) if mode in _OPAQUE else image


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new(image.mode[:-1], image.size, (_WHITE,) * (len(image.mode) - 1))
    ground.paste(image, mask=image)
    return ground


def to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB (sRGB) of an image that `resizable` made, through `profile` (ICC) where that can be used."""
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


def _probe(mode: str) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    steps = np.linspace(0, 255, 9 if bands > 1 else 256).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * bands, indexing="ij"), axis=-1).reshape(1, -1, bands)
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())


def _from_16_bit(image: Image.Image) -> Image.Image:
    grey = _scaled(image.convert("F") if image.mode == "I;16" else image.convert("I").convert("F"), 0, 65535)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    alpha = np.where(np.asarray(image.convert("I")) == transparent, 0, 255).astype(np.uint8)
    return _on_white(Image.merge("LA", (grey, Image.fromarray(alpha))))


def _integer_range(image: Image.Image) -> tuple[float, float]:
    """Black and white of 32-bit integers: the range of 8 or 16 bits if all values are in it, else their own."""
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if low >= 0:
        for white in (255, 65535):
            if high <= white:
                return 0, white
    return low, high


def _from_float(image: Image.Image) -> Image.Image:
    """Floats within 0..1 or 0..255 have that range, others their own; what is not a number becomes black."""
    values = np.asarray(image)
    finite = np.isfinite(values)
    if not finite.any():
        raise DataError("holds floats of which none is a number")
    low, high = float(values[finite].min()), float(values[finite].max())
    if not finite.all():
        image = Image.fromarray(np.where(finite, values, np.float32(low)))
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return _scaled(image, low, high)


def _scaled(image: Image.Image, black: float, white: float) -> Image.Image:
    """Floats to 8-bit grey, rounded; Pillow's own conversion would clip them and cut the fraction off."""
    scale = 255 / (white - black) if white > black else 0.0
    return image.point(lambda value: value * scale + (0.5 - black * scale)).convert("L")
