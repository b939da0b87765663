"""The catalog: one row per picture, wherever it is, with what is known of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.layout import Entry, natural_order, read_layout
from greffon.pictures.scan import Scanned, scan
from greffon.pictures.sources.locate import located
from greffon.pictures.sources.saved import check_saved, read_saved, write_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from greffon.pictures.layout import Layout

SCHEMA: dict[str, type[pl.DataType]] = {
    "path": pl.String,
    "hash": pl.String,
    "label": pl.String,
    "split": pl.String,
    "state": pl.String,
    "reason": pl.String,
    "width": pl.Int64,
    "height": pl.Int64,
    "size_bytes": pl.Int64,
}
"""The columns. `path` is relative to the root, with `/`, or says where else the picture is (see
`greffon.pictures.sources.locate`); `hash` is xxh3_128 of the file's bytes, in hexadecimal; `label` is the first where
a picture has several; `split` is train, val, test or ""; `state` is ok, quarantined (named as a picture, but it cannot
be read) or ignored; `width` and `height` are those of the upright picture, in pixels, null where there is none."""

OPTIONAL: dict[str, Any] = {
    "format": pl.String,
    "labels": pl.List(pl.String),
    "group": pl.String,
    "origin": pl.String,
}
"""Columns that may follow: the file's format (JPEG, PNG, ...; "" where it cannot be read); where the source has them,
all labels of each picture, if it may have several or none; the group whose pictures stay on one side of the split (""
for none); where a picture was before it became a file."""

SPLITS = ("train", "val", "test", "")
STATES = ("ok", "quarantined", "ignored")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Catalog:
    """Pictures, their classes and their sides of the split, and whatever else lies in their folder.

    Attributes:
        frame: one row per picture or other file, with the columns of `SCHEMA`; those of `OPTIONAL` and others may
            follow.
        class_names: in the order of the model's outputs; natural order unless they were given.
        root: the folder that relative paths start from.
        notes: what a user should be told, one sentence each.
        scanned: what the scan found of each picture, by its path; empty for a table that was loaded.

    Raises:
        DataError: a column is missing or of another type, or a split, a state or a label is not known.
    """

    frame: pl.DataFrame
    class_names: tuple[str, ...]
    root: Path
    notes: tuple[str, ...] = field(default=())
    scanned: Mapping[str, Scanned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.frame, self.class_names)

    @classmethod
    def from_folder(
        cls,
        data: str | Path,
        *,
        to: Literal["train", "evaluate"] = "train",
        workers: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Self:
        """Read a folder with one folder of pictures per class, or with such folders in train/, val/ and test/.

        Every picture is hashed and decoded once; the result is remembered, so the next time only changed files are
        read. A picture that cannot be read is quarantined, and whatever else lies there is ignored: both stay in the
        table with the reason. Nothing is deleted, moved or replaced.

        Args:
            data: the folder. `val` may also be called valid or validation.
            to: `train` asks for at least two classes, each with a picture that can be read; `evaluate` only for a
                picture that can be read.
            workers: threads; by default one for each processor, at most 16.
            advance: called with how many more pictures have been read.

        Raises:
            InputError: there is no such folder, or it cannot be read.
            DataError: there are no class folders, only one, an empty one, or one without a readable picture; or val/
                or test/ have a class that train/ has not. The message lists all of it.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from PIL import Image
            >>> from greffon.pictures.catalog import Catalog
            >>> folder = Path(tempfile.mkdtemp())
            >>> for name in ("cat", "dog"):
            ...     (folder / name).mkdir()
            ...     Image.new("RGB", (40, 30)).save(folder / name / "1.png")
            >>> catalog = Catalog.from_folder(folder)
            >>> catalog.class_names, catalog.ok["path"].to_list()
            (('cat', 'dog'), ['cat/1.png', 'dog/1.png'])
        """
        root = Path(data)
        layout = read_layout(root)
        _check_folders(root, layout, to)
        wanted = [(entry.path, entry.file) for entry in layout.entries if not entry.ignored]
        results = scan(root, wanted, workers=workers, advance=advance)
        scanned = dict(zip((path for path, _ in wanted), results, strict=True))
        rows = [_ignored_row(entry) if entry.ignored else _row(entry, scanned[entry.path]) for entry in layout.entries]
        frame = pl.DataFrame(rows, schema=SCHEMA | {"format": pl.String}, orient="row")
        catalog = cls(frame, _class_names(layout), root, scanned=scanned)
        _check_pictures(root, catalog, layout, to)
        return replace(catalog, notes=tuple(notes_on_copies(catalog)))

    @property
    def ok(self) -> pl.DataFrame:
        """Rows of the pictures that can be used."""
        return self.frame.filter(pl.col("state") == "ok")

    @property
    def quarantined(self) -> pl.DataFrame:
        """Rows of the pictures that cannot be read; `reason` says why."""
        return self.frame.filter(pl.col("state") == "quarantined")

    @property
    def ignored(self) -> pl.DataFrame:
        """Rows of what is no picture of a class; `reason` says why."""
        return self.frame.filter(pl.col("state") == "ignored")

    def side(self, split: str) -> pl.DataFrame:
        """Rows of the usable pictures on one side of the split: `train`, `val`, `test`, or "" for those on none.

        Raises:
            InputError: there is no side of that name.
        """
        if split not in SPLITS:
            raise InputError(f"split must be train, val, test or '', got {split!r}{nearest(split, SPLITS)}")
        return self.ok.filter(pl.col("split") == split)

    @property
    def several_labels(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return "labels" in self.frame.columns

    def locators(self, rows: pl.DataFrame) -> list[str | Path]:
        """Where the pictures of some rows are: what `decode` and `read_bytes` take.

        Args:
            rows: of `frame`.

        Returns:
            A `Path` for a file of its own on this machine; else an address or a member of an archive.

        Example:
            >>> import polars as pl
            >>> from pathlib import Path
            >>> from greffon.pictures.catalog import SCHEMA, Catalog
            >>> rows = [(path, "0", "a", "", "ok", "", 8, 8, 99) for path in ("a.jpg", "a.tar::1.jpg")]
            >>> catalog = Catalog(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ("a", "b"), Path("data"))
            >>> [str(locator) for locator in catalog.locators(catalog.ok)]
            ['data/a.jpg', 'data/a.tar::1.jpg']
        """
        return [located(self.root, path) for path in rows["path"]]

    def labels_of(self, rows: pl.DataFrame) -> list[list[str]]:
        """All labels of the pictures of some rows; one each unless a picture may have several."""
        if self.several_labels:
            return [list(labels) for labels in rows["labels"].to_list()]
        return [[label] for label in rows["label"]]

    def targets(self, rows: pl.DataFrame) -> np.ndarray[Any, Any]:
        """What the model should answer for the pictures of some rows.

        Args:
            rows: of `ok`.

        Returns:
            float32 (rows, classes): 1 for each label of the row's picture, else 0.

        Example:
            >>> import polars as pl
            >>> from pathlib import Path
            >>> from greffon.pictures.catalog import SCHEMA, Catalog
            >>> rows = [(f"{label}.jpg", "0", label, "", "ok", "", 8, 8, 99) for label in "ba"]
            >>> catalog = Catalog(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ("a", "b"), Path("data"))
            >>> catalog.targets(catalog.ok).tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        places = {name: place for place, name in enumerate(self.class_names)}
        targets = np.zeros((len(rows), len(places)), np.float32)
        for row, labels in enumerate(self.labels_of(rows)):
            targets[row, [places[label] for label in labels]] = 1
        return targets

    @property
    def copies(self) -> pl.DataFrame:
        """Rows of usable pictures whose bytes are also in another file, copies side by side."""
        return self.ok.filter(pl.col("hash").is_duplicated()).sort("hash", maintain_order=True)

    @property
    def conflicts(self) -> pl.DataFrame:
        """Those of `copies` that are under more than one label."""
        label = pl.col("label")
        if self.several_labels:
            label = pl.col("labels").list.unique().list.sort().list.join("\n")
        return self.copies.filter(label.n_unique().over("hash") > 1)

    @property
    def leaks(self) -> pl.DataFrame:
        """Those of `copies` that are on more than one side of the split."""
        return self.copies.filter(pl.col("split").n_unique().over("hash") > 1)

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Usable pictures of each class, on one side or in all; one with several labels counts for each."""
        counted = Counter(
            label for labels in self.labels_of(self.ok if split is None else self.side(split)) for label in labels
        )
        return {name: counted[name] for name in self.class_names}

    def save(self, file: str | Path) -> None:
        """Write the table as Parquet or CSV, by the file's name.

        Raises:
            InputError: the name ends in neither .parquet nor .csv.
        """
        write_saved(self.frame, Path(file))

    @classmethod
    def load(cls, file: str | Path, *, root: str | Path | None = None, check: bool = True) -> Self:
        """Read a table that `save` wrote, edited or not. The pictures are not read again.

        Args:
            file: Parquet or CSV; with commas, semicolons or tabs, as a spreadsheet wrote it.
            root: the folder that its paths are relative to; by default the one that the file lies in.
            check: whether the files of usable pictures must be there.

        Raises:
            InputError: the file cannot be read.
            DataError: columns or values are not those of a catalog, two rows are about the same picture, or files
                are gone; the message lists them.
        """
        file = Path(file)
        place = Path(root) if root is not None else file.parent
        frame = read_saved(file, SCHEMA, OPTIONAL)
        check_saved(frame, file, place if check else None)
        used = frame.filter(pl.col("state") != "ignored")
        labels = set(used["label"]) - ({""} if "labels" in frame.columns else set())
        if "labels" in frame.columns:
            labels |= {label for labels in used["labels"].to_list() for label in labels}
        return cls(frame, tuple(natural_order(labels)), place)


def match_classes(catalog: Catalog, class_names: Sequence[str], *, allow_missing: bool = False) -> Catalog:
    """The catalog with a model's classes in the model's order, matched by name.

    Args:
        catalog: pictures to evaluate on.
        class_names: the model's.
        allow_missing: whether the catalog may lack some of them.

    Raises:
        DataError: a class is missing or not one of the model's; the message names each, with the nearest.
    """
    extra = [name for name in catalog.class_names if name not in class_names]
    missing = [name for name in class_names if name not in catalog.class_names]
    if extra or (missing and not allow_missing):
        lines = [f"the classes in {catalog.root} are not those of the model ({len(class_names)} classes):"]
        lines += [f"  not known to the model: {name!r}{nearest(name, missing)}" for name in extra]
        lines += [f"  without a folder: {name!r}{nearest(name, extra)}" for name in missing]
        lines.append("rename the folders, or take those away that the model was not trained on")
        raise DataError("\n".join(lines))
    return replace(catalog, class_names=tuple(class_names))


def format_of(scanned: Scanned) -> str:
    """What kind of file a picture is: JPEG, PNG, ...; "" where it cannot be read."""
    return scanned.facts.format if scanned.facts is not None else ""


def listed(names: Sequence[str], *, most: int = _SHOWN) -> str:
    """Some names and how many more there are, for messages."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _row(entry: Entry, found: Scanned) -> tuple[object, ...]:
    state = "quarantined" if found.reason else "ok"
    size = (found.width, found.height, found.size_bytes)
    return entry.path, found.hash, entry.label, entry.split, state, found.reason, *size, format_of(found)


def _ignored_row(entry: Entry) -> tuple[object, ...]:
    try:
        length = None if entry.path.endswith("/") else entry.file.stat().st_size
    except (OSError, ValueError):
        length = None
    return entry.path, "", entry.label, entry.split, "ignored", entry.ignored, None, None, length, ""


def _class_names(layout: Layout) -> tuple[str, ...]:
    """Classes to learn: those of train/ where it is given."""
    if "train" in layout.classes:
        return tuple(layout.classes["train"])
    return tuple(natural_order({name for names in layout.classes.values() for name in names}))


def _check_folders(root: Path, layout: Layout, to: str) -> None:
    """What can be said before a picture is read."""
    names = _class_names(layout)
    if to == "evaluate":
        return
    if len(names) < 2:
        got = f"only {names[0]!r}" if names else "none"
        raise DataError(
            f"expected folders of at least two classes in {root}, got {got}. A classifier tells classes apart: add a "
            "folder with pictures of something else"
        )
    if "val" in layout.classes and not layout.classes["val"]:
        raise DataError(f"expected class folders in val/ of {root} as in train/, got none: add them or take val/ away")
    strange = [
        f"{side}/{name}{nearest(name, names)}"
        for side, classes in layout.classes.items()
        for name in classes
        if name not in names
    ]
    if strange:
        raise DataError(f"expected in val/ and test/ of {root} only classes that train/ has, got {listed(strange)}")


def _check_pictures(root: Path, catalog: Catalog, layout: Layout, to: str) -> None:
    """What can be said once they are read."""
    if to == "evaluate":
        if not len(catalog.ok):
            raise DataError(f"{root} has no picture that can be read{_why(catalog.quarantined)}")
        return
    problems, small = [], []
    for side in ("train", "") if "train" in layout.classes else tuple(layout.classes):
        for name in layout.classes.get(side, ()):
            here = catalog.frame.filter((pl.col("label") == name) & (pl.col("split") == side))
            if "ok" not in here["state"]:
                bad = here.filter(pl.col("state") == "quarantined")
                what = f"{len(bad)} pictures, none of which can be read{_why(bad)}" if len(bad) else "no pictures"
                problems.append(f"{side + '/' if side else ''}{name} has {what}")
            elif side != "test" and "val" not in layout.classes and _distinct(here) < 2:
                where = f"{side}/{name}" if side else name
                small.append(f"{where} has one picture, copies aside, and at least two are needed to hold one out")
    if problems:
        lines = "\n  ".join(problems + small)  # what would be refused next is said as well
        raise DataError(
            f"every class folder in {root} must have pictures that can be read:\n  {lines}\n"
            "add pictures, or take the folder away"
        )


def _distinct(frame: pl.DataFrame) -> int:
    return frame.filter(pl.col("state") == "ok")["hash"].n_unique()


def _why(bad: pl.DataFrame) -> str:
    return f" ({bad['path'][0]}: {bad['reason'][0]})" if len(bad) else ""


def notes_on_copies(catalog: Catalog) -> list[str]:
    """What to tell of usable pictures that are the same to the last byte."""
    notes = []
    copies, conflicts = catalog.copies, catalog.conflicts
    if len(copies):
        distinct = copies["hash"].n_unique()
        # Of a split that the folders give, what is torn apart is told when it is taken.
        stay = "" if len(catalog.leaks) else ": copies stay on the same side of the split"
        notes.append(
            f"{len(copies)} files are exact copies of one another ({distinct} different pictures){stay}. The first: "
            f"{listed(copies['path'].head(2).to_list())}"
        )
    if len(conflicts):
        notes.append(
            f"{conflicts['hash'].n_unique()} pictures are there under more than one label, which cannot be learned: "
            f"decide which is right and delete the others. {listed(conflicts['path'].to_list())}"
        )
    return notes


def _check(frame: pl.DataFrame, class_names: tuple[str, ...]) -> None:
    for name, kind in SCHEMA.items():
        if name not in frame.columns:
            raise DataError(f"a catalog has the columns {', '.join(SCHEMA)}; {name} is missing")
        if frame[name].dtype != kind:
            raise DataError(f"column {name} of a catalog must be {kind.__name__}, got {frame[name].dtype}")
    for name, kind in OPTIONAL.items():
        if name in frame.columns and frame[name].dtype != kind:
            raise DataError(f"column {name} of a catalog must be {kind}, got {frame[name].dtype}")
    for column, known in (("split", SPLITS), ("state", STATES)):
        strange = set(frame[column]) - set(known)
        if strange:
            said = ", ".join(map(repr, known))
            raise DataError(f"{column} must be one of {said}, got {listed([repr(value) for value in strange])}")
    used = frame.filter(pl.col("state") == "ok")
    if "" in used["hash"] or (used["hash"].null_count()):
        raise DataError("every usable picture of a catalog must have a hash")
    strange = set(used["label"]) - set(class_names)
    if "labels" in frame.columns:
        strange = {label for labels in used["labels"].to_list() for label in labels} - set(class_names)
    if strange and class_names:
        raise DataError(
            f"labels must be among the classes {listed(class_names)}, got {listed([repr(s) for s in sorted(strange)])}"
        )
