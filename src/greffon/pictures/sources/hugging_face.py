"""Hugging Face datasets: objects of the library `datasets`, and folders that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.layout import SPLIT_FOLDERS
from greffon.pictures.sources.columns import LABELS
from greffon.pictures.sources.found import Found, Row, joined
from greffon.pictures.sources.kept import Keeper
from greffon.pictures.sources.labels import label_text, labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greffon.pictures.sources.columns import Columns

_AT_ONCE = 64


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of the library `datasets` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def found_in_saved_dataset(folder: Path, columns: Columns, advance: Callable[[int], None] | None = None) -> Found:
    """The pictures of a folder that `save_to_disk` wrote.

    Raises:
        InputError: the library is missing, or cannot read it.
        DataError: as for `found_in_dataset`.
    """
    try:
        from datasets import load_from_disk  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise InputError(
            f"{folder} was written by the library datasets, which reads it: pip install datasets"
        ) from None
    try:
        dataset = load_from_disk(str(folder))
    except Exception as error:  # whatever Arrow and the library find wrong
        raise InputError(f"{folder} cannot be read as a dataset: {error}") from error
    return found_in_dataset(dataset, columns, name=str(folder), advance=advance)


def found_in_dataset(
    dataset: Any, columns: Columns, *, name: str = "the dataset", advance: Callable[[int], None] | None = None
) -> Found:
    """The pictures of a `Dataset`, `IterableDataset`, or of a `DatasetDict` with a side of the split in each.

    Pictures are taken as the files that they were, not decoded: bytes are written into the cache folder as they are.

    Args:
        dataset: with a feature Image and a feature ClassLabel, or a column of another kind with a usual name.
        columns: which features are what.
        name: what messages call it.
        advance: called with how many more pictures have been gone through.

    Raises:
        DataError: a feature is missing; the message names those that are there.
    """
    if hasattr(dataset, "keys") and hasattr(dataset, "values"):
        sides = {key: SPLIT_FOLDERS.get(key.lower()) for key in dataset}
        known = [key for key, side in sides.items() if side is not None]
        if not known:
            raise DataError(f"{name} has the splits {', '.join(dataset)}: expected train, validation or test")
        if len(known) == 1:
            return found_in_dataset(dataset[known[0]], columns, name=name, advance=advance)
        parts = {key: found_in_dataset(dataset[key], columns, name=key, advance=advance) for key in known}
        whole = joined({str(sides[key]): found for key, found in parts.items()})
        left = [key for key in dataset if key not in known]
        note = (f"{name}: the splits {', '.join(left)} are not used",) if left else ()
        return Found(whole.rows, whole.root, name, whole.class_names, whole.several, (*whole.notes, *note))
    return _found(dataset, columns, name, advance)


def _found(dataset: Any, columns: Columns, name: str, advance: Callable[[int], None] | None) -> Found:
    features = dict(dataset.features or {})
    if not features:
        raise DataError(f"{name} does not tell its features: give it some, or write it as Parquet first")
    picture = _feature(features, columns.path, _is_image, ("image", "img", "picture"), "of the kind Image", name)
    label = _feature(features, columns.label, lambda kind: _names(kind) is not None, LABELS, "with the class", name)
    for wanted in (columns.group, columns.split):
        if wanted is not None and wanted not in features:
            raise DataError(f"{name} has no feature {wanted!r}{nearest(wanted, features)}")
    group = columns.group or ("group" if "group" in features else None)
    class_names = _names(features[label])
    several = isinstance(features[label], list) or hasattr(features[label], "feature")
    rows = []
    with Keeper() as keeper:
        for number, record in enumerate(_records(dataset, picture)):
            path, origin = _place(record[picture], keeper, f"{name}, row {number}")
            labels = labels_of(record[label])
            if class_names is not None:
                labels = tuple(class_names[int(value)] for value in labels if value.isdecimal())
            member = label_text(record[group]) if group else ""
            side = _side(record[columns.split], columns.split, name) if columns.split else ""
            rows.append(Row(path or origin, labels, member, side, "" if path else "has no bytes and no path", origin))
            if advance is not None:
                advance(1)
    return Found(rows, keeper.folder, name, class_names, several)


def _side(value: Any, feature: str, name: str) -> str:
    text = label_text(value)
    if text and text.lower() not in SPLIT_FOLDERS:
        raise DataError(f"{name}: feature {feature!r} must hold train, val or test, got {text!r}")
    return SPLIT_FOLDERS.get(text.lower(), "")


def _feature(features: dict[str, Any], wanted: Any, fits: Any, usual: tuple[str, ...], what: str, name: str) -> str:
    if isinstance(wanted, str):
        if wanted not in features:
            raise DataError(f"{name} has no feature {wanted!r}{nearest(wanted, features)}")
        return wanted
    found = [feature for feature, kind in features.items() if fits(kind)]
    found += [feature for feature in usual if feature in features]
    if not found:
        has = ", ".join(f"{feature} ({type(kind).__name__})" for feature, kind in features.items())
        raise DataError(f"{name} has no feature {what}; it has {has}. Say which it is with columns=Columns(...)")
    return min(found, key=lambda feature: usual.index(feature) if feature in usual else len(usual))


def _is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _names(kind: Any) -> tuple[str, ...] | None:
    """Of a ClassLabel, or a list of them."""
    if isinstance(kind, list) and kind:
        kind = kind[0]
    kind = getattr(kind, "feature", kind)
    names = getattr(kind, "names", None)
    return tuple(names) if type(kind).__name__ == "ClassLabel" and names else None


def _records(dataset: Any, picture: str) -> Iterator[dict[str, Any]]:
    if _is_image(dataset.features[picture]):
        from datasets import Image

        dataset = dataset.cast_column(picture, Image(decode=False))
    if hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)
    yield from dataset


def _place(value: Any, keeper: Keeper, origin: str) -> tuple[str, str]:
    """Locator of a record's picture, "" where it has none, and where it was before it became a file."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return keeper.add(value["bytes"]), origin
        value = value.get("path")
    if isinstance(value, bytes):
        return keeper.add(value), origin
    if isinstance(value, str) and value:
        return (value if "://" in value else Path(value).absolute().as_posix()), ""
    return "", origin
