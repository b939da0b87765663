"""Damage inside of a JPEG that Pillow passes over: libjpeg goes on after it, with grey or shifted colours.

libjpeg does say so, in warnings that Pillow does not hand on and the package `simplejpeg` does. Where that is not
installed, nothing is found here. The picture is decoded once more, at an eighth of its size: 0.1 to 0.3 ms for one of
640 pixels.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

_CORRUPT = "Corrupt JPEG data: "
_ENDS_EARLY = "premature end of data segment"


@lru_cache(maxsize=1)
def _strict_decoder() -> Any:
    """The function `simplejpeg.decode_jpeg`, or None."""
    try:
        return importlib.import_module("simplejpeg").decode_jpeg
    except ImportError:
        return None


def can_check() -> bool:
    """Whether damage that Pillow passes over can be found: `simplejpeg` is installed."""
    return _strict_decoder() is not None


def damage_in(content: bytes, mode: str) -> str:
    """What libjpeg warns of in a JPEG that could be decoded within the limits.

    That a file has all its pixels and no end marker is not damage: some cameras write such files.

    Args:
        content: the file.
        mode: of its pixels, in Pillow's words.

    Returns:
        libjpeg's words, or "": nothing, or it cannot be asked.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from greffon.pictures.jpeg_check import damage_in
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 48)).save(file, "JPEG")
        >>> damage_in(file.getvalue(), "RGB")
        ''
    """
    decode = _strict_decoder()
    if decode is None:
        return ""
    colours = {"L": "GRAY", "CMYK": "CMYK"}.get(mode, "RGB")
    try:
        decode(content, colours, min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        text = str(error)
        return text.removeprefix(_CORRUPT) if text.startswith(_CORRUPT) else ""
    except MemoryError:
        return ""
    return ""


def ends_early(damage: str) -> bool:
    """Whether pixels are missing, which libjpeg fills with grey; else their data is damaged, or has too many bytes."""
    return _ENDS_EARLY in damage
