"""Folders of small pictures, all different, written for a test."""

from pathlib import Path

import numpy as np
from PIL import Image


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
