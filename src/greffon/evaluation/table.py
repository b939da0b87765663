"""One table of predictions, one row per picture: what every measure is computed from, so that order cannot matter.

Columns, in this order:

| column | type | what |
|---|---|---|
| path | String | where the picture was; null where it had no path |
| hash | String | digest of its content; null where nobody computed one |
| label | String | the class that it is; null where unknown |
| predicted | String | the class with the highest probability |
| probability | Float32 | that probability |
| p_CLASS | Float32 | the probability of each class, one column per class, in class order |

Where a picture may have several labels, `label` and `predicted` are List(String): the classes that it has, and those
with a probability of at least 0.5. Columns of others may follow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import polars as pl

PREFIX = "p_"
"""What the names of the probability columns start with; the rest is the class name, whatever it holds."""

THRESHOLD = 0.5
"""From this probability on a class is predicted, where a picture may have several labels."""

_FIRST = ("path", "hash", "label", "predicted", "probability")
_ROUNDING = 1e-5  # float32 probabilities may leave 0..1 by this much


def prediction_table(
    paths: Sequence[str | Path | None],
    hashes: Sequence[str | None],
    labels: Sequence[str | None] | Sequence[Collection[str] | None],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    several_labels: bool = False,
) -> pl.DataFrame:
    """Put predictions into one table, sorted by path and hash.

    Args:
        paths: of the pictures; None for a picture that has none.
        hashes: digests of the pictures' content, or None.
        labels: the class name of each picture; with `several_labels` the class names that it has. None: unknown.
        probabilities: floats (n, classes) in 0..1, columns in the order of `class_names`.
        class_names: in the order of the model's outputs.
        several_labels: whether a picture may have several labels, or none.

    Returns:
        The table that the head of this module describes.

    Raises:
        InputError: the arguments do not belong together, or are not probabilities.
        DataError: a label is not one of the class names, or a probability is not a number.

    Example:
        >>> import numpy as np
        >>> from greffon.evaluation.table import prediction_table
        >>> table = prediction_table(["a.jpg"], ["c0ffee"], ["cat"], np.array([[0.75, 0.25]]), ["cat", "dog"])
        >>> table.row(0)
        ('a.jpg', 'c0ffee', 'cat', 'cat', 0.75, 0.75, 0.25)
    """
    names = check_class_names(class_names)
    values = check_probabilities(probabilities, names, paths)
    for what, column in (("paths", paths), ("hashes", hashes), ("labels", labels)):
        if len(column) != len(values):
            raise InputError(f"{what} must have one entry per row of probabilities ({len(values)}), got {len(column)}")
    import polars as pl

    label_type = pl.List(pl.String) if several_labels else pl.String
    table = pl.DataFrame(
        [
            pl.Series("path", [None if path is None else str(path) for path in paths], pl.String),
            pl.Series("hash", list(hashes), pl.String),
            pl.Series("label", _checked_labels(labels, names, several_labels=several_labels), label_type),
            pl.Series("predicted", _predicted(values, names, several_labels=several_labels), label_type),
            pl.Series("probability", values.max(axis=1, initial=0.0), pl.Float32),
            *(pl.Series(PREFIX + name, values[:, column], pl.Float32) for column, name in enumerate(names)),
        ]
    )
    return table.sort("path", "hash", maintain_order=True)


def class_names_of(table: pl.DataFrame) -> list[str]:
    """The class names of a table, in class order."""
    return [column.removeprefix(PREFIX) for column in table.columns if column.startswith(PREFIX)]


def has_several_labels(table: pl.DataFrame) -> bool:
    """Whether a picture of this table may have several labels."""
    import polars as pl

    return isinstance(table.schema["label"], pl.List)


def probabilities_of(table: pl.DataFrame) -> np.ndarray:
    """The probabilities of a table: float32 (n, classes), rows and columns in its order."""
    names = class_names_of(table)
    return table.select(PREFIX + name for name in names).to_numpy().reshape(len(table), len(names))


def check_class_names(class_names: Sequence[str]) -> list[str]:
    """Class names as a list.

    Raises:
        InputError: there are none, one is no text, or two are the same.
    """
    names = list(class_names)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"class names must be texts, at least one, got {class_names!r}")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"class names must differ, got twice: {', '.join(map(repr, twice))}")
    return names


def check_probabilities(
    probabilities: np.ndarray, class_names: Sequence[str], paths: Sequence[str | Path | None] | None = None
) -> np.ndarray:
    """Probabilities as float32 in 0..1.

    Args:
        probabilities: what a model gave, (n, classes).
        class_names: in the order of its outputs.
        paths: of the pictures, to be named in errors.

    Raises:
        InputError: the shape is not (n, classes), or values lie outside 0..1: a head that gives no probabilities.
        DataError: values that are not numbers: a model whose training went astray.
    """
    values = np.asarray(probabilities)
    if values.ndim != 2 or values.shape[1] != len(class_names):
        raise InputError(
            f"probabilities must be (n, {len(class_names)}), one column per class, got an array {values.shape}"
        )
    values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        where = f", first for {paths[bad[0]]}" if paths is not None and len(paths) == len(values) else ""
        raise DataError(
            f"the model gives values that are not numbers (NaN or infinite) for {bad.size} of {len(values)} "
            f"pictures{where}: its training diverged; train it again with a lower learning rate"
        )
    low, high = values.min(initial=0.0), values.max(initial=0.0)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"probabilities must be in 0..1, got {low:.4g}..{high:.4g}: the model's last layer must end in softmax "
            "(one label per picture) or sigmoid (several)"
        )
    return values.clip(0.0, 1.0)


def write_table(table: pl.DataFrame, file: str | Path) -> None:
    """Save a table as Parquet; a crash leaves the old file or none, never half a one."""
    target = Path(file)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        table.write_parquet(beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def read_table(file: str | Path) -> pl.DataFrame:
    """Read a table that `write_table` saved.

    Raises:
        InputError: the file cannot be read, or holds another table.
    """
    import polars as pl

    try:
        table = pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{file}: cannot be read as a table of predictions (Parquet): {error}") from None
    missing = [column for column in _FIRST if column not in table.columns]
    if missing or not class_names_of(table):
        raise InputError(
            f"{file}: is no table of predictions: {', '.join(missing) or PREFIX + 'CLASS'} is missing, it has "
            f"{', '.join(table.columns) or 'no column'}"
        )
    return table


def _checked_labels(
    labels: Sequence[str | None] | Sequence[Collection[str] | None], names: list[str], *, several_labels: bool
) -> list[str | list[str] | None]:
    known = set(names)
    checked: list[str | list[str] | None] = []
    for label in labels:
        if label is not None and isinstance(label, str) == several_labels:
            wanted = "a collection of class names" if several_labels else "one class name"
            raise InputError(f"a label must be {wanted} (several_labels={several_labels}), got {label!r}")
        given = set() if label is None else {label} if isinstance(label, str) else set(label)
        if not given <= known:
            raise DataError(
                f"label {sorted(map(str, given - known))[0]!r} is none of the classes {', '.join(map(repr, names))}"
            )
        checked.append(label if label is None or isinstance(label, str) else [n for n in names if n in given])
    return checked


def _predicted(values: np.ndarray, names: list[str], *, several_labels: bool) -> list[str] | list[list[str]]:
    if several_labels:
        return [[names[column] for column in np.flatnonzero(row >= THRESHOLD)] for row in values]
    return [names[column] for column in values.argmax(axis=1)]
