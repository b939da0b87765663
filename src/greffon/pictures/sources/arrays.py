"""NumPy arrays of pictures and labels, and lists of paths and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError
from greffon.pictures.sources.found import Found, Row
from greffon.pictures.sources.kept import Keeper, as_uint8, check_not_scaled, ppm
from greffon.pictures.sources.labels import array_labels, labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def found_in_arrays(
    pictures: Any,
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Found:
    """Pictures of an array, written as files into the cache folder.

    Args:
        pictures: (n, height, width, 3), or with 1 or 4 channels, or (n, height, width) grey; uint8, or other numbers
            0..255, which are rounded. A memory map is read picture by picture.
        labels: (n,) names or numbers, or (n, classes) of 0 and 1.
        class_names: in the order of the outputs.
        advance: called with how many more pictures have been written.

    Raises:
        InputError: the pictures are not 0..255.
        DataError: shapes that do not fit.
    """
    array = pictures if isinstance(pictures, np.ndarray) else np.asarray(pictures)
    channels_first = array.ndim == 4 and array.shape[1] in (1, 3, 4) and array.shape[3] not in (1, 3, 4)
    if array.ndim not in (3, 4) or channels_first or (array.ndim == 4 and array.shape[3] not in (1, 3, 4)):
        hint = "; channels must be the last axis: numpy.moveaxis(pictures, 1, -1)" if channels_first else ""
        raise DataError(f"an array of pictures must have the shape (n, height, width, 3), got {array.shape}{hint}")
    rows, several = array_labels(labels, len(array), class_names)
    if len(array) and array.dtype.kind == "f":
        check_not_scaled(float(array.min()), float(array.max()), array.dtype.kind)
    notes = ("the pictures' values were rounded to whole numbers 0..255",) if array.dtype.kind == "f" else ()
    with Keeper() as keeper:
        names = []
        for picture in array:
            names.append(keeper.add(ppm(as_uint8(picture))))
            if advance is not None:
                advance(1)
    found = [
        Row(name, label, origin=f"array, picture {number}")
        for number, (name, label) in enumerate(zip(names, rows, strict=True))
    ]
    names_given = tuple(class_names) if class_names is not None else None
    return Found(found, keeper.folder, f"the array {array.shape}", names_given, several, notes)


def found_in_pairs(pairs: Sequence[Any], root: Path) -> Found:
    """Pictures of a list of (path, label); a label may be a list of several.

    Args:
        pairs: path or address, and label.
        root: the folder that relative paths start from.

    Raises:
        DataError: something in the list is no such pair.
    """
    rows, several = [], False
    for number, pair in enumerate(pairs):
        path, label = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (None, None)
        if not isinstance(path, (str, Path)):
            raise DataError(f"a list of pictures must hold pairs (path, label), got at place {number}: {pair!r:.80}")
        several = several or isinstance(label, (list, tuple, set))
        rows.append(Row(path if isinstance(path, str) else path.as_posix(), labels_of(label)))
    return Found(rows, root, f"the list of {len(rows)} pictures", None, several)
