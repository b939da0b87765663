"""Folders of small pictures, all different, written for a test."""

from pathlib import Path

import numpy as np
from PIL import Image

# From the upright picture to what a camera stores, for each EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(number: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Noise that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def fill(root: Path, counts: dict[str, int], *, first: int = 0) -> Path:
    """Write pictures 1.png, 2.png, ... into folders below `root`; no two are alike, also across the folders."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(1, count + 1):
            picture(first).save(root / folder / f"{i}.png")
            first += 1
    return root
