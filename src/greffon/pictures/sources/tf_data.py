"""`tf.data.Dataset` of (picture, label), batched or not.

It is gone through once, picture by picture, and written into the cache folder: it may be far larger than memory, and
nothing in it can be asked for by number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.pictures.sources.found import Found, Row
from greffon.pictures.sources.kept import Keeper, as_uint8, check_not_scaled, ppm
from greffon.pictures.sources.labels import array_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def found_in_tf_data(
    dataset: Any,
    *,
    class_names: Sequence[str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Found:
    """The pictures of a dataset, written as files that are named after their content, since its order may change.

    Args:
        dataset: of (picture, label): uint8, or other numbers 0..255, which are rounded; (height, width, channels), or
            batches of these.
        class_names: in the order of the outputs; by default `dataset.class_names`, which Keras writes there.
        advance: called with how many more pictures have been written.

    Raises:
        InputError: it has no end, no labels, or its pictures are not 0..255.
        DataError: shapes that do not fit.
    """
    batched = _check(dataset)
    names = class_names if class_names is not None else getattr(dataset, "class_names", None)
    low, high, kind = np.inf, -np.inf, "u"
    paths: list[str] = []
    pieces: list[Any] = []
    with Keeper() as keeper:
        for pictures, labels in _batches(dataset, batched=batched):
            if pictures.size:
                low, high = min(low, float(pictures.min())), max(high, float(pictures.max()))
                kind = pictures.dtype.kind
            pieces.append(labels)
            paths.extend(keeper.add(ppm(picture), by_content=True) for picture in as_uint8(pictures))
            if advance is not None:
                advance(len(pictures))
        if not paths:
            raise DataError("the tf.data.Dataset holds no pictures")
        check_not_scaled(low, high, kind)
    rows, several = array_labels(np.concatenate(pieces), len(paths), names)
    notes = ("the pictures' values were rounded to whole numbers 0..255",) if kind == "f" else ()
    # In the order of their content: the same pictures are the same table, however the dataset was shuffled.
    found = [Row(path, label, origin="tf.data") for path, label in sorted(zip(paths, rows, strict=True))]
    return Found(found, keeper.folder, "the tf.data.Dataset", None if names is None else tuple(names), several, notes)


def _check(dataset: Any) -> bool:
    """Whether it comes in batches.

    Raises:
        InputError: it cannot be used.
    """
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or not all(hasattr(part, "shape") for part in spec[:2]):
        raise InputError(f"a tf.data.Dataset must give (picture, label), got elements of {spec}")
    if int(dataset.cardinality()) == -1:
        raise InputError("the tf.data.Dataset has no end: leave out its repeat()")
    rank = spec[0].shape.rank
    if rank not in (3, 4):
        raise InputError(
            f"pictures of a tf.data.Dataset must have the shape (height, width, channels), or (batch, height, width, "
            f"channels), got {spec[0].shape}"
        )
    return bool(rank == 4)


def _batches(dataset: Any, *, batched: bool) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    for pictures, labels, *_ in dataset:
        pixels, names = np.asarray(pictures), np.asarray(labels)
        if not batched:
            pixels, names = pixels[np.newaxis], names[np.newaxis]
        if len(pixels) != len(names):
            raise DataError(f"a batch has {len(pixels)} pictures and {len(names)} labels")
        yield pixels, names
