"""Rendered pictures for tests of the check: coarse coloured shapes, each unlike the others, of a class's colour."""

from __future__ import annotations

import numpy as np
from PIL import Image


def rendered(seed: int, hue: int = 0, side: int = 80) -> Image.Image:
    """Coarse shapes of three sizes; the channel `hue` is lifted."""
    random = np.random.default_rng(seed)
    total = np.zeros((side, side, 3), np.float32)
    for cells in (3, 6, 12):
        grid = random.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC), np.float32) / 3
    total[..., hue] = total[..., hue] * 0.5 + 120
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))
