"""What users write for classes, as names: texts, numbers, lists, one-hot rows, one column of 0 and 1 for each class."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

SEPARATOR = "|"
"""Between several labels of one picture in a cell of text."""

_YES = {"1", "1.0", "true", "yes"}
_NO = {"0", "0.0", "false", "no", ""}


def label_text(value: Any) -> str:
    """One label as a class name: whole numbers without a point, text composed (NFC) and without spaces around it.

    Returns:
        "" for what is no label: None, NaN or an empty text.

    Raises:
        DataError: a number with a fraction, or something that is neither text nor a number.

    Example:
        >>> from greffon.pictures.sources.labels import label_text
        >>> label_text(" cat "), label_text(3.0), label_text(None)
        ('cat', '3', '')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip())
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(f"a label must be the name or number of a class, got {value}: a number with a fraction")
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    raise DataError(f"a label must be the name or number of a class, got {type(value).__name__}: {repr(value)[:60]}")


def labels_of(value: Any, separator: str | None = None) -> tuple[str, ...]:
    """All labels of one picture, each once, in their order.

    Args:
        value: one label, a list of them, or a text of several.
        separator: between the labels of a text; None: a text is one label.

    Raises:
        DataError: as for `label_text`.

    Example:
        >>> from greffon.pictures.sources.labels import labels_of
        >>> labels_of("cat|dog", "|"), labels_of(["cat", "cat"]), labels_of(7), labels_of("")
        (('cat', 'dog'), ('cat',), ('7',), ())
    """
    if isinstance(value, (list, tuple, set, np.ndarray)):
        parts = list(value)
    elif separator and isinstance(value, str):
        parts = _from_list(value) if value.lstrip().startswith("[") else value.split(separator)
    else:
        parts = [value]
    texts = [label_text(part) for part in parts]
    return tuple(dict.fromkeys(text for text in texts if text))


def joined_labels(labels: Sequence[str]) -> str:
    """Several labels as one cell of text, which `labels_of` reads back.

    Example:
        >>> from greffon.pictures.sources.labels import joined_labels
        >>> joined_labels(["cat", "dog"]), joined_labels(["a|b"])
        ('cat|dog', '["a|b"]')
    """
    plain = all(SEPARATOR not in label and not label.startswith("[") for label in labels)
    return SEPARATOR.join(labels) if plain else json.dumps(list(labels), ensure_ascii=False)


def marked(value: Any) -> bool | None:
    """Whether a cell of a 0/1 column says yes; None where it says neither.

    Example:
        >>> from greffon.pictures.sources.labels import marked
        >>> marked("1"), marked(0.0), marked(None), marked("cat")
        (True, False, False, None)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    text = str(value).strip().lower()
    return True if text in _YES else False if text in _NO else None


def array_labels(labels: Any, count: int, class_names: Sequence[str] | None) -> tuple[list[tuple[str, ...]], bool]:
    """Labels of an array or a batch, and whether a picture may have several.

    Args:
        labels: (n,) or (n, 1) numbers or texts, (n, classes) of 0 and 1, or a list of lists of names.
        count: n.
        class_names: by whose place numbers are named, if given.

    Raises:
        DataError: another number of labels, another shape, or numbers beyond the names.
    """
    if isinstance(labels, (list, tuple)) and any(isinstance(value, (list, tuple)) for value in labels):
        lengths = {len(value) if isinstance(value, (list, tuple)) else -1 for value in labels}
        values = {v for value in labels if isinstance(value, (list, tuple)) for v in value}
        if not (len(lengths) == 1 and values <= {0, 1} and max(lengths) > 1):
            return _counted([labels_of(value) for value in labels], count), True
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        found = [labels_of(value) for value in array.tolist()]
        return _counted([_by_place(names, class_names) for names in found], count), False
    if array.ndim != 2 or array.dtype.kind not in "buif" or not np.isin(array, (0, 1)).all():
        raise DataError(
            f"labels must be n names or numbers, or rows of 0 and 1, one for each class; got shape {array.shape}, "
            f"{array.dtype}"
        )
    width = array.shape[1]
    if class_names is not None and len(class_names) != width:
        raise DataError(f"rows of {width} labels need as many class_names, got {len(class_names)}")
    names = tuple(class_names or map(str, range(width)))
    rows = [tuple(names[place] for place in np.flatnonzero(row)) for row in array]
    return _counted(rows, count), bool((array.sum(axis=1) != 1).any())


def _by_place(names: tuple[str, ...], class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is None or all(name in class_names for name in names):
        return names
    if not all(name.isdecimal() and int(name) < len(class_names) for name in names):
        raise DataError(f"labels must be class_names or their places 0..{len(class_names) - 1}, got {names[0]!r}")
    return tuple(class_names[int(name)] for name in names)


def _counted(rows: list[tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
    if len(rows) != count:
        raise DataError(f"there must be one label for each picture, got {len(rows)} labels for {count} pictures")
    return rows


def _from_list(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    return found if isinstance(found, list) else [text]
