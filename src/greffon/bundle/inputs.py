"""What can be predicted for: files, folders, bytes, images and arrays, as one stream of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError, InputError
from greffon.pictures.sources.locate import is_local

if TYPE_CHECKING:
    from PIL import Image

    from greffon.pictures.resize import ResizeRule

    Picture = Path | str | bytes | Image.Image | np.ndarray

_KINDS = (
    "paths of files or folders, bytes of picture files, PIL images, or arrays (height, width, 3) or (n, height, width, "
    "3) of RGB values 0..255"
)
_TOLERANCE = 1.0  # resizing of others may leave 0..255 by this much


@dataclass(frozen=True)
class Source:
    """One picture as it was given.

    Attributes:
        path: what it is called; None for bytes and arrays.
        picture: a path, an address or a member of an archive, the bytes of a picture file, a PIL image, or an array
            (height, width, 3), uint8 or float32.
    """

    path: str | None
    picture: Picture

    @property
    def is_array(self) -> bool:
        """Whether its pixels are there already."""
        return isinstance(self.picture, np.ndarray)


@dataclass(frozen=True, eq=False)
class Input:
    """One picture as the model takes it.

    Attributes:
        path: what it is called; None for bytes and arrays.
        pixels: uint8 (size, size, 3), RGB; None where it cannot be read.
        error: why it cannot be read; None where it can.
        floats: the array as it was given, where that was floats.
    """

    path: str | None
    pixels: np.ndarray | None
    error: str | None = None
    floats: np.ndarray | None = None


def iterate_inputs(sources: Any, size: int, rule: ResizeRule) -> Iterator[Input]:
    """Every picture in order, decoded a few ahead by several threads.

    Args:
        sources: one or many of what can be predicted for.
        size: side of the model's input, in pixels.
        rule: how a picture becomes square.

    Raises:
        InputError: see `iterate_sources`.
    """
    for are_arrays, group in groupby(iterate_sources(sources), key=lambda source: source.is_array):
        prepared = _resized if are_arrays else _decoded
        yield from prepared(group, size, rule)


class ScaleGuard:
    """Refuses float arrays that were divided by 255, until a value has been seen that was not.

    Args:
        preprocessing: name of what the model does to pictures inside; where that is `none`, nothing is refused.
    """

    def __init__(self, preprocessing: str) -> None:
        self._preprocessing = preprocessing
        self._done = preprocessing == "none"

    def check(self, batch: Iterable[Input]) -> None:
        """Look at the arrays of a batch that were given as floats.

        Raises:
            InputError: no value in them is above 1.0.
        """
        arrays = [] if self._done else [picture.floats for picture in batch if picture.floats is not None]
        largest = max((float(array.max()) for array in arrays if array.size), default=None)
        if largest is None:
            return
        if largest <= 1.0:
            raise InputError(
                "pictures must be RGB values of 0..255: this model does its own preprocessing "
                f"({self._preprocessing}). Got floats of at most {largest:.4g}, as if they had been divided by 255 "
                "already. Take that step out, or multiply by 255"
            )
        self._done = True


def batches_ahead(pictures: Iterator[Input], size: int) -> Iterator[list[Input]]:
    """Batches of pictures; while one is computed, a thread reads the next one.

    Args:
        pictures: what to read; may be endless, and is read from that thread.
        size: pictures in a batch, at least 1; the last one may be smaller.
    """

    def read() -> list[Input]:
        return list(islice(pictures, size))

    with ThreadPoolExecutor(1, thread_name_prefix="greffon-read") as reader:
        batch = read()  # in the caller's thread: what is wrong is said at once, and one batch needs no thread
        while batch:
            following = reader.submit(read) if len(batch) == size else None
            yield batch
            batch = following.result() if following is not None else []


def iterate_sources(sources: Any) -> Iterator[Source]:
    """Every picture in order; a folder's pictures, those in folders inside it included, in natural order.

    Raises:
        InputError: something is none of what can be predicted for, or a folder has no picture.
    """
    if _is_one(sources):
        yield from _one(sources)
    elif isinstance(sources, Iterable):
        for source in sources:
            if not _is_one(source):
                raise InputError(f"pictures must be {_KINDS}, got {_described(source)}")
            yield from _one(source)
    else:
        raise InputError(f"pictures must be {_KINDS}, got {_described(sources)}")


def _decoded(sources: Iterable[Source], size: int, rule: ResizeRule) -> Iterator[Input]:
    from greffon.pictures.decode import decode_many
    from greffon.pictures.opened import name_of

    to_decode, to_name = tee(sources)
    pictures = (source.picture for source in to_decode if not isinstance(source.picture, np.ndarray))
    results = decode_many(pictures, size, rule)
    for source, (_, result) in zip(to_name, results, strict=True):
        if isinstance(result, DataError):
            error = str(result).removeprefix(f"{name_of(source.picture)}: ")
            yield Input(source.path, None, error)
        else:
            yield Input(source.path, result)


def _resized(sources: Iterable[Source], size: int, rule: ResizeRule) -> Iterator[Input]:
    from greffon.pictures.decode import decode_array
    from greffon.pictures.sources.kept import as_uint8

    for source in sources:
        given = np.asarray(source.picture)
        pixels = as_uint8(given)  # as in training: a picture is 8 bits, whatever it comes in
        if pixels.shape != (size, size, 3):
            pixels = decode_array(pixels, size, rule)
        yield Input(source.path, pixels, floats=given if given.dtype.kind == "f" else None)


def _is_one(source: Any) -> bool:
    return isinstance(source, str | Path | bytes | bytearray | memoryview) or _is_image(source) or _is_array(source)


def _is_image(source: Any) -> bool:
    # Pillow need not be loaded to know that something is not one of its images.
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(source).__mro__)


def _is_array(source: Any) -> bool:
    """Arrays, and tensors of any backend."""
    return hasattr(source, "shape") and hasattr(source, "__array__")


def _one(source: Any) -> Iterator[Source]:
    if isinstance(source, str | Path):
        yield from _on_disk(Path(source)) if is_local(source) else iter([Source(str(source), str(source))])
    elif isinstance(source, bytes | bytearray | memoryview):
        yield Source(None, bytes(source))
    elif _is_image(source):
        yield Source(str(getattr(source, "filename", "")) or None, source)
    else:
        pictures = np.asarray(source)
        if pictures.ndim not in {3, 4} or pictures.shape[-1] != 3:
            raise InputError(
                f"an array of pictures must be (height, width, 3) or (n, height, width, 3), got {pictures.shape}"
            )
        for picture in checked_values(pictures[np.newaxis] if pictures.ndim == 3 else pictures):
            yield Source(None, picture)


def _on_disk(path: Path) -> Iterator[Source]:
    if not path.is_dir():
        yield Source(str(path), path)
        return
    files = _picture_files(path)
    if not files:
        raise InputError(f"folder {path} holds no picture, nor do the folders in it")
    for file in files:
        yield Source(str(file), file)


def _picture_files(folder: Path) -> list[Path]:
    """Files that are pictures by their names, hidden ones left out; links to folders are followed, once each."""
    from greffon.pictures.layout import PICTURE_SUFFIXES, natural_order

    found: list[str] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            pictures = (n for n in files if not n.startswith(".") and Path(n).suffix.lower() in PICTURE_SUFFIXES)
            found.extend((Path(place) / name).relative_to(folder).as_posix() for name in pictures)
        seen.add(real)
    return [folder / name for name in natural_order(found)]


def checked_values(pictures: np.ndarray) -> np.ndarray:
    """Pictures as uint8 or float32, once their values are known to be in 0..255.

    Raises:
        InputError: they are not numbers in 0..255.
    """
    if pictures.dtype == np.uint8 or not pictures.size:
        return pictures.astype(np.uint8, copy=False)
    if pictures.dtype.kind not in "iuf":
        raise InputError(f"an array of pictures must hold whole numbers or floats, got {pictures.dtype}")
    low, high = float(pictures.min()), float(pictures.max())
    if not (low >= -_TOLERANCE and high <= 255 + _TOLERANCE):  # also where one is NaN
        raise InputError(
            f"an array of pictures must hold RGB values 0..255, got {low:.4g}..{high:.4g}; the model does its own "
            "preprocessing"
        )
    return pictures.astype(np.float32 if pictures.dtype.kind == "f" else np.uint8)


def _described(source: Any) -> str:
    return f"{type(source).__name__}: {repr(source)[:80]}"
