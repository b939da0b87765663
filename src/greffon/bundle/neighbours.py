"""Training pictures that a run keeps beside its model, so that whoever asks it can be shown the nearest ones.

`neighbours.npz`, NumPy's own format, nothing in it pickled:

| array | what |
|---|---|
| `features` | float16 (n, d): the model's output `features` for each picture, divided by its length |
| `labels` | int32 (n,): number of the class; the first one where a picture has several, -1 where it has none |
| `targets` | bool (n, classes), only where a picture may have several labels |
| `paths` | text (n,): where the picture was, as in split.parquet |
| `thumbnails` | uint8 (bytes,): JPEG files of at most 80 pixels a side, one behind the other |
| `offsets` | int64 (n + 1,): thumbnail i is `thumbnails[offsets[i]:offsets[i + 1]]` |
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.bundle.read import Bundle

    Array = np.ndarray[Any, Any]

NEIGHBOURS = "neighbours.npz"
"""The file's name; a run that holds none of the user's pictures has none."""

MOST = 1_000
"""Pictures that are kept, as many of each class as of any other while it has them: about 7 MB."""

MOST_OF_A_CLASS = 500

SIDE = 80
"""Pixels of a small copy's longer side."""

_QUALITY = 80


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Pictures that are known, with what the model sees in them.

    Attributes:
        features: floating point (n, d), finite.
        targets: which classes each has, bool (n, classes).
        paths: where they were.
        thumbnails: small JPEG files.
    """

    features: Array
    targets: Array
    paths: tuple[str, ...]
    thumbnails: tuple[bytes, ...]

    @property
    def labels(self) -> Array:
        """The number of each one's first class, int32 (n,); -1 where it has none."""
        return np.where(self.targets.any(axis=1), self.targets.argmax(axis=1), -1).astype(np.int32)


def chosen_rows(targets: Array) -> Array:
    """Which pictures to keep of those that were learned from: at most `MOST`, and `MOST_OF_A_CLASS` of each class.

    Args:
        targets: (n, classes), one for each class that a picture has.

    Returns:
        Their rows, ascending, int64; the same for the same targets.

    Example:
        >>> import numpy as np
        >>> from greffon.bundle.neighbours import chosen_rows
        >>> chosen_rows(np.eye(3)[[0, 1, 2, 1]]).tolist()
        [0, 1, 2, 3]
    """
    from greffon.pictures.contact_sheet import choose

    labels = [str(number) for number in np.argmax(targets, axis=1)]
    kept: dict[str, int] = {}
    rows = []
    for row in choose(labels, MOST):
        kept[labels[row]] = kept.get(labels[row], 0) + 1
        if kept[labels[row]] <= MOST_OF_A_CLASS:
            rows.append(row)
    return np.array(sorted(rows), np.int64)


def small(pixels: Array) -> Array:
    """A picture with at most `SIDE` pixels a side: RGB, uint8 (height, width, 3), of one that is the same."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def thumbnail(pixels: Array) -> bytes:
    """The JPEG file of a small picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def write_neighbours(folder: Path, neighbours: Neighbours, *, several_labels: bool) -> None:
    """Write the file; the same bytes for the same pictures."""
    features = np.asarray(neighbours.features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    arrays: dict[str, Any] = {
        "features": (features / np.where(lengths > 0, lengths, 1.0)).astype(np.float16),
        "labels": neighbours.labels,
        "paths": np.array([_text(path) for path in neighbours.paths], np.str_),
        "thumbnails": np.frombuffer(b"".join(neighbours.thumbnails), np.uint8),
        "offsets": np.cumsum([0, *(len(one) for one in neighbours.thumbnails)], dtype=np.int64),
    }
    if several_labels:
        arrays["targets"] = neighbours.targets.astype(bool)
    with (folder / NEIGHBOURS).open("wb") as stream:
        np.savez(stream, **arrays)


def read_neighbours(bundle: Bundle) -> Neighbours | None:
    """The pictures that a run keeps; None where it keeps none.

    Raises:
        InputError: the file was changed, or its arrays do not go together.
    """
    if NEIGHBOURS not in bundle.manifest.files:
        return None
    with np.load(bundle.file(NEIGHBOURS), allow_pickle=False) as file:
        arrays = dict(file)
    count, names = len(arrays["labels"]), len(bundle.class_names)
    offsets, blob = arrays["offsets"], arrays["thumbnails"].tobytes()
    ends = bool(len(offsets) == count + 1 and offsets[0] == 0 and offsets[-1] == len(blob))
    if not ends or len(arrays["features"]) != count or len(arrays["paths"]) != count or (np.diff(offsets) < 0).any():
        raise InputError(f"run {bundle.path}: the arrays of {NEIGHBOURS} do not go together")
    targets = arrays.get("targets", arrays["labels"][:, None] == np.arange(names))
    return Neighbours(
        arrays["features"].astype(np.float32),
        targets,
        tuple(str(path) for path in arrays["paths"]),
        tuple(blob[start:end] for start, end in pairwise(offsets)),
    )


def _text(path: str) -> str:
    """A path need not be UTF-8, what NumPy holds has to be."""
    return str(path).encode("utf-8", "backslashreplace").decode()
