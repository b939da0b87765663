"""Pictures to measure with: generated, so that anyone can run it, or out of a folder with one folder per class.

Generated ones are coloured noise with a bright square whose place is the class: learnable, and no two alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = 10


def arrays(train, held_out, side, *, data=None, classes=CLASSES):
    """Decoded pictures and one-hot labels of both sides.

    Returns:
        (x, y), (x, y): uint8 (n, side, side, 3) and float32 (n, classes). A folder with fewer pictures gives what it
        has, in the same proportion.
    """
    x, labels, classes = _generated(train + held_out, side, classes) if data is None else _read(data, side)
    count = min(train + held_out, len(x))
    train = count * train // (train + held_out)
    y = np.eye(classes, dtype="float32")[labels]
    return (x[:train], y[:train]), (x[train:count], y[train:count])


def write_folder(root: Path, count, side, *, classes=CLASSES, first=0):
    """JPEG files of generated pictures, one folder per class; `first` numbers them on from an earlier call."""
    from PIL import Image

    x, labels, _ = _generated(count, side, classes, seed=first)
    for number, (picture, label) in enumerate(zip(x, labels, strict=True), start=first):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:06}.jpg", quality=90)
    return root


def _generated(count, side, classes, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    random.shuffle(labels)
    coarse = random.integers(0, 160, (count, -(-side // 8), -(-side // 8), 3), dtype=np.uint8)
    x = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, :side, :side].copy()
    step = side // 4
    for picture, label in zip(x, labels, strict=True):
        row, column = divmod(int(label), 4)
        picture[row * step : row * step + step * 3 // 4, column * step : column * step + step * 3 // 4] += 90
    return x, labels, classes


def _read(root: Path, side):
    from greffon.errors import DataError
    from greffon.pictures.decode import decode_many
    from greffon.pictures.layout import read_layout

    entries = [entry for entry in read_layout(root).entries if not entry.ignored]
    np.random.default_rng(0).shuffle(entries)
    names = sorted({entry.label for entry in entries})
    x, labels = [], []
    for place, picture in decode_many([entry.file for entry in entries], side, "crop"):
        if not isinstance(picture, DataError):
            x.append(picture)
            labels.append(names.index(entries[place].label))
    return np.stack(x), np.array(labels), len(names)
