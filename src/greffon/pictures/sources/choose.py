"""From what the user passes as data to one catalog: which source it is, is seen from what it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.catalog import SCHEMA, Catalog
from greffon.pictures.layout import SPLIT_FOLDERS, read_layout
from greffon.pictures.sources.columns import Columns, found_in_table
from greffon.pictures.sources.files import found_in_files, is_pattern, table_catalog_file
from greffon.pictures.sources.found import Found, Row, catalog_from, joined
from greffon.pictures.sources.locate import is_address, local_file
from greffon.pictures.sources.table_file import Table
from greffon.pictures.sources.tables import TABLE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNDERSTOOD = f"""
  a folder with one folder of pictures per class, or with train/, val/ and test/ that hold such folders
  a table of paths, addresses or bytes, and labels: {", ".join(TABLE_SUFFIXES)}, or a DataFrame of Polars or pandas
  a table that was saved by Greffon
  tar shards of key.jpg and key.cls or key.json: a path, a pattern (shard-{{000..009}}.tar, *.tar), a folder of them
  an address of any of these (https://, s3://, gs://, ...)
  a folder or dataset of Hugging Face's library datasets
  a list of pairs (path, label)
  a pair of arrays: pictures (n, height, width, 3) 0..255 and labels
  a tf.data.Dataset of (picture, label)
  a dictionary of any of these, {{"train": ..., "val": ...}}"""
"""What `catalog_of` takes, a line each."""


def catalog_of(
    data: Any,
    *,
    columns: Columns | None = None,
    class_names: Sequence[str] | None = None,
    root: str | Path | None = None,
    to: Literal["train", "evaluate"] = "train",
    workers: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Catalog:
    """Read pictures and labels from wherever they are.

    Args:
        data: one of the sources that `UNDERSTOOD` lists.
        columns: which columns of a table, or features of a dataset, say what; by default those with usual names.
        class_names: in the order of the model's outputs; labels 0, 1, ... are places in it. By default the source's
            own, or else all labels in natural order.
        root: the folder that a table's relative paths start from; by default that of its file, or the present one.
        to: `train` asks for at least two classes, each with a picture that can be read; `evaluate` only for a
            picture that can be read.
        workers: threads; by default one for each processor, at most 16.
        advance: called with how many more pictures have been read or written.

    Returns:
        One row for each picture, scanned; not split yet, but for the sides that the source gives.

    Raises:
        InputError: the data is none of these, cannot be read, or needs a package that is missing.
        DataError: it can be read, but does not make sense: columns are missing, rows contradict one another, files are
            gone, classes have no picture. The message lists all of it.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from greffon.pictures.sources.choose import catalog_of
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a", "b"):
        ...     Image.effect_noise((8, 8), 9).save(folder / f"{name}.png")
        >>> catalog = catalog_of([(folder / "a.png", "cat"), (folder / "b.png", "dog")])
        >>> catalog.counts()
        {'cat': 1, 'dog': 1}
    """
    if isinstance(data, Catalog):
        return data
    place = _place(data)
    if isinstance(place, Path) and place.is_dir() and _is_class_folders(place):
        catalog = Catalog.from_folder(place, to=to, workers=workers, advance=advance)
        return _reordered(catalog, class_names)
    saved = table_catalog_file(place, SCHEMA) if place is not None else None
    if saved is not None:
        return _reordered(Catalog.load(saved, root=root), class_names)
    found = _found(data, columns or Columns(), class_names, None if root is None else Path(root), advance)
    return catalog_from(found, class_names=class_names, to=to, workers=workers, advance=advance)


def _found(
    data: Any,
    columns: Columns,
    class_names: Sequence[str] | None,
    root: Path | None,
    advance: Callable[[int], None] | None,
) -> Found:
    place = _place(data)
    if place is not None:
        return _in_place(place, columns, root, advance)
    if _comes_from(data, "datasets"):
        from greffon.pictures.sources.hugging_face import found_in_dataset

        return found_in_dataset(data, columns, advance=advance)
    if _comes_from(data, "tensorflow") and hasattr(data, "element_spec"):
        from greffon.pictures.sources.tf_data import found_in_tf_data

        return found_in_tf_data(data, class_names=class_names, advance=advance)
    if isinstance(data, Mapping):
        return joined(
            {side: _found(part, columns, class_names, root, advance) for side, part in _by_side(data).items()}
        )
    frame = _frame(data)
    if frame is not None:
        return found_in_table(Table(frame), columns, root or Path(), "the table")
    return _in_memory(data, class_names, root or Path(), advance)


def _in_memory(
    data: Any, class_names: Sequence[str] | None, root: Path, advance: Callable[[int], None] | None
) -> Found:  # fmt: skip
    from greffon.pictures.sources.arrays import found_in_arrays, found_in_pairs

    if isinstance(data, (tuple, list)) and len(data) == 2 and _is_array(data[0]):
        return found_in_arrays(data[0], data[1], class_names=class_names, advance=advance)
    if isinstance(data, (tuple, list)) and data:
        return found_in_pairs(data, root)
    alone = " An array needs its labels: (pictures, labels)." if _is_array(data) else ""
    raise InputError(f"data must be one of these, got {_described(data)}.{alone}{UNDERSTOOD}")


def _in_place(
    place: str | Path, columns: Columns, root: Path | None, advance: Callable[[int], None] | None
) -> Found:  # fmt: skip
    if isinstance(place, Path) and place.is_dir():
        from greffon.pictures.sources.hugging_face import found_in_saved_dataset, is_saved_dataset

        if is_saved_dataset(place):
            return found_in_saved_dataset(place, columns, advance)
        if _is_class_folders(place):
            return _found_in_folder(place)
    return found_in_files(place, columns, root)


def _place(data: Any) -> str | Path | None:
    """Address, path or pattern; None where data is no text that says where something is."""
    if isinstance(data, str) and (is_address(data) or is_pattern(data)):
        return str(local_file(data)) if data.lower().startswith("file://") else data
    return Path(data).expanduser() if isinstance(data, (str, os.PathLike)) else None


def _is_class_folders(folder: Path) -> bool:
    """Whether a folder is to be read by its folders; else by the tables, shards or datasets in it."""
    from greffon.pictures.sources.files import inside
    from greffon.pictures.sources.hugging_face import is_saved_dataset

    return not is_saved_dataset(folder) and not inside(folder)


def _found_in_folder(folder: Path) -> Found:
    layout = read_layout(folder)
    rows = [
        Row(entry.path, (entry.label,) if entry.label else (), split=entry.split, ignored=entry.ignored)
        for entry in layout.entries
    ]
    return Found(rows, folder, str(folder))


def _by_side(data: Mapping[Any, Any]) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for key, part in data.items():
        side = SPLIT_FOLDERS.get(str(key).lower())
        if side is None or side in sides:
            raise InputError(
                f"a dictionary of data must have the keys train, val and test, got {', '.join(map(repr, data))}"
                f"{nearest(str(key), SPLIT_FOLDERS) if side is None else ''}"
            )
        sides[side] = part
    if not sides:
        raise InputError("a dictionary of data must have the keys train, val and test, got none")
    return sides


def _frame(data: Any) -> pl.DataFrame | None:
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pl.DataFrame):
        return data
    if not _comes_from(data, "pandas") or not hasattr(data, "columns"):
        return None
    columns = {}
    for name in data.columns:
        values = [None if value != value else value for value in data[name].tolist()]  # noqa: PLR0124  # NaN and NaT
        kinds = {type(value) for value in values} - {type(None)}
        mixed = len(kinds) > 1 and not kinds <= {int, float}
        columns[str(name)] = [None if v is None else str(v) for v in values] if mixed else values
    try:
        return pl.DataFrame(columns, strict=False)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the pandas DataFrame cannot be read: {error}") from error


def _comes_from(data: Any, package: str) -> bool:
    """Whether a type is one of a package's, without importing it."""
    return any(kind.__module__.split(".")[0] == package for kind in type(data).__mro__)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "__array__") and not _comes_from(value, "pandas")


def _reordered(catalog: Catalog, class_names: Sequence[str] | None) -> Catalog:
    if class_names is None:
        return catalog
    lacking = [name for name in catalog.class_names if name not in class_names]
    if lacking:
        raise DataError(f"class_names must name all classes of the data, {lacking[0]!r} is missing")
    return replace(catalog, class_names=tuple(class_names))


def _described(data: Any) -> str:
    shape = f" of shape {tuple(data.shape)}" if _is_array(data) else f": {repr(data)[:60]}"
    return f"{type(data).__name__}{shape}"
