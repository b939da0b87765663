"""Splitting pictures by their content: copies stay together, every class is on both sides, no order matters."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import xxhash

from greffon.errors import DataError, InputError
from greffon.pictures.catalog import SPLITS, Catalog, listed
from greffon.pictures.near import groups
from greffon.pictures.settled import settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WRITTEN = ("hash", "label", "split", "path")
"""Columns of a written split."""

_FORMAT = "greffon-split-1"


def split(
    catalog: Catalog, *, validation: float = 0.2, seed: int = 0, together: Iterable[Sequence[str]] = (),
    known: Mapping[str, str] | None = None,
) -> Catalog:  # fmt: skip
    """Give every usable picture its side: `train` or `val`, and `test` where test/ was given.

    A val/ that was given is kept as it is. Else a share of each class is held out: which pictures, depends on their
    content and the seed alone, so the same pictures are split alike on every machine, in any order, under any names.
    What belongs together is on one side, whatever its labels: copies of a picture, pictures of one `group` (where the
    catalog has that column: a patient, a camera, a video), and what `together` says.

    Args:
        catalog: with pictures that are on no side yet, or on those that their folders said.
        validation: share of each class to hold out, above 0 and under 1; at least one picture, and not the last one.
        seed: another seed, another split.
        together: content hashes of pictures that have to be on one side, such as near-copies; sets that share a
            picture are one.
        known: content hash -> `train` or `val`, of pictures that the weights were trained on before, or validated on:
            they stay on that side (see `settled`), and a share of the others is held out. Not where val/ was given.

    Returns:
        A catalog whose usable pictures are all on a side; its `notes` say where copies are on two given sides.

    Raises:
        InputError: `validation` is out of range.
        DataError: a class has not at least one different picture, or group, for each side; the message lists the
            counts.

    Example:
        >>> import polars as pl
        >>> from pathlib import Path
        >>> from greffon.pictures.catalog import SCHEMA, Catalog
        >>> from greffon.pictures.split import split
        >>> rows = [(f"{c}/{i}.png", f"{c}{i}", c, "", "ok", "", 8, 8, 99) for c in "ab" for i in range(10)]
        >>> catalog = Catalog(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ("a", "b"), Path())
        >>> split(catalog, validation=0.2).counts("val")
        {'a': 2, 'b': 2}
    """
    if not 0 < validation < 1:
        raise InputError(f"validation must be a share above 0 and under 1, got {validation!r}")
    given = bool(len(catalog.side("val")))
    sides = {} if given else _held_out(catalog, _units(catalog, together), validation, seed, known or {})
    catalog = _assigned(catalog, sides)
    _check_both_sides(catalog, given=given)
    return replace(catalog, notes=(*catalog.notes, *_notes_on_leaks(catalog)))


@dataclass(frozen=True)
class SplitDifference:
    """How a catalog differs from a written split.

    Attributes:
        new: paths of usable pictures that the split does not know.
        missing: paths, as they were written, of pictures that are not there any more.
        relabelled: paths of pictures that were under another label.
    """

    new: list[str]
    missing: list[str]
    relabelled: list[str]

    def __bool__(self) -> bool:
        return bool(self.new or self.missing or self.relabelled)

    def __str__(self) -> str:
        parts = [
            f"{len(paths)} {what} ({listed(paths)})"
            for paths, what in (
                (self.new, "pictures are new"),
                (self.missing, "are missing"),
                (self.relabelled, "have another label"),
            )
            if paths
        ]
        return "; ".join(parts) or "the same pictures"


def to_split(catalog: Catalog) -> pl.DataFrame:
    """Rows of the usable pictures that are not in test/: those to learn from and to validate with."""
    return catalog.ok.filter(pl.col("split") != "test")


def group_numbers(frame: pl.DataFrame, together: Iterable[Sequence[str]] = ()) -> np.ndarray[Any, Any]:
    """Which pictures of some rows belong together: copies, near-copies, pictures of one group.

    Args:
        frame: rows of a catalog.
        together: content hashes of near-copies, as for `split`.

    Returns:
        int (rows,): one number for those that belong together.
    """
    row = {content: place for place, content in enumerate(dict.fromkeys(frame["hash"]))}
    leader = _leaders(row, [*together, *_given_groups(frame)])
    return np.array([leader[row[content]] for content in frame["hash"]], dtype=np.int64)


def write_split(catalog: Catalog, file: str | Path) -> None:
    """Write which picture is on which side, by content, as JSON or Parquet.

    Raises:
        InputError: the file's name ends in neither .json nor .parquet.
        DataError: a usable picture is on no side yet.
    """
    file = Path(file)
    _check_name(file)
    if len(catalog.side("")):
        raise DataError(f"{len(catalog.side(''))} pictures are on no side yet: split the catalog before writing it")
    frame = catalog.ok.select(WRITTEN)
    if file.suffix == ".parquet":
        frame.write_parquet(file)
        return
    content = {"format": _FORMAT, "pictures": frame.to_dicts()}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_split(file: str | Path) -> pl.DataFrame:
    """Read a written split: one row per picture, with the columns `hash`, `label`, `split` and `path`.

    Raises:
        InputError: the file cannot be read, or is no split.
    """
    file = Path(file)
    _check_name(file)
    try:
        if file.suffix == ".parquet":
            frame = pl.read_parquet(file)
        else:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise InputError(f"split {file}: expected the format {_FORMAT}")
            frame = pl.DataFrame(content["pictures"], schema=dict.fromkeys(WRITTEN, pl.String), orient="row")
        frame = frame.select(WRITTEN)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(f"split {file} cannot be read: {error}") from error
    strange = set(frame["split"]) - set(SPLITS[:-1])
    if strange:
        raise InputError(f"split {file}: expected train, val or test, got {listed([repr(s) for s in strange])}")
    return frame


def check_split(catalog: Catalog, written: pl.DataFrame) -> SplitDifference:
    """What is new, missing or labelled otherwise in a catalog, against a written split; names do not matter.

    Args:
        catalog: what is there.
        written: what `read_split` gave.

    Returns:
        The difference; false where there is none.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for content, label in written.select("hash", "label").iter_rows():
        labels[content].add(label)
    here = catalog.ok.select("path", "hash", "label").rows()
    present = {content for _, content, _ in here}
    return SplitDifference(
        new=[path for path, content, _ in here if content not in labels],
        missing=[path for path, content in written.select("path", "hash").iter_rows() if content not in present],
        relabelled=[path for path, content, label in here if content in labels and label not in labels[content]],
    )


def apply_split(catalog: Catalog, written: pl.DataFrame) -> Catalog:
    """Put every picture on the side where a written split has it, whatever its folder says.

    Raises:
        DataError: there are pictures that the split does not know, or whose copies it has on two sides.
    """
    difference = check_split(catalog, written)
    if difference.new:
        raise DataError(f"these are not the pictures of the written split: {difference}. Split them anew")
    sides = dict(written.select("hash", "split").iter_rows())
    torn = [
        path for content, side, path in written.select("hash", "split", "path").iter_rows() if sides[content] != side
    ]
    if torn:
        raise DataError(f"the written split has copies of one picture on two sides: {listed(torn)}")
    return _assigned(catalog, sides, anew=True)


@dataclass(frozen=True)
class _Unit:
    """Pictures that go to one side together.

    Attributes:
        contents: their hashes, in order.
        counts: class -> different pictures of it.
    """

    contents: tuple[str, ...]
    counts: Counter[str]

    def order(self, seed: int) -> bytes:
        """Where it stands in the row from which pictures are held out: by content and seed."""
        return xxhash.xxh3_128_digest(f"{seed}:{self.contents[0]}".encode())


def _units(catalog: Catalog, together: Iterable[Sequence[str]]) -> list[_Unit]:
    """What is to be split, in parts that stay whole."""
    owners = _owners(catalog)
    row = {content: place for place, content in enumerate(owners)}
    leader = _leaders(row, [*together, *_given_groups(to_split(catalog))])
    members: dict[int, list[str]] = defaultdict(list)
    for content, place in row.items():
        members[int(leader[place])].append(content)
    return [
        _Unit(tuple(sorted(contents)), Counter(label for content in contents for label in owners[content]))
        for contents in members.values()
    ]


def _leaders(row: Mapping[str, int], sets: Iterable[Sequence[str]]) -> np.ndarray[Any, Any]:
    """For each different picture the first that it belongs together with."""
    known = [[row[content] for content in contents if content in row] for contents in sets]
    return groups(len(row), [(one, other) for rows in known for one, other in pairwise(rows)])


def _given_groups(frame: pl.DataFrame) -> list[list[str]]:
    if "group" not in frame.columns:
        return []
    named = frame.filter(pl.col("group").fill_null("") != "")
    return [list(contents) for contents in named.group_by("group", maintain_order=True).agg("hash")["hash"]]


def _owners(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """The classes that each different picture to be split is counted in.

    All of its labels where a picture may have several; else one, of the labels that its copies are under the first.
    """
    frame = to_split(catalog)
    place = {name: index for index, name in enumerate(catalog.class_names)}
    owners: dict[str, tuple[str, ...]] = {}
    for content, labels in zip(frame["hash"], catalog.labels_of(frame), strict=True):
        known = (*owners.get(content, ()), *labels)
        ordered = sorted(set(known), key=place.__getitem__)
        owners[content] = tuple(ordered) if catalog.several_labels else tuple(ordered[:1])
    return owners


def _held_out(
    catalog: Catalog, units: list[_Unit], validation: float, seed: int, known: Mapping[str, str]
) -> dict[str, str]:
    """Side of each different picture: a share of every class, one unit after the other as long as it fits."""
    counts: Counter[str] = sum((unit.counts for unit in units), Counter())
    _check_enough(catalog, units, counts)
    units = sorted(units, key=lambda unit: unit.order(seed))
    known_sides = settled([(unit.contents, list(unit.counts)) for unit in units], known)
    taken = {place for place, held_out in known_sides.items() if held_out}
    held: Counter[str] = sum((units[place].counts for place in taken), Counter())
    wanted = _wanted(units, known_sides, validation)
    for place, unit in enumerate(units):
        if place not in known_sides and all(held[name] + count <= wanted[name] for name, count in unit.counts.items()):
            taken.add(place)
            held += unit.counts
    for name in catalog.class_names:
        if not held[name]:  # every part with this class is larger than the share that was asked for
            place = _smallest(units, taken, name, counts - held, known_sides)
            taken.add(place)
            held += units[place].counts
    sides = {False: "train", True: "val"}
    return {content: sides[place in taken] for place, unit in enumerate(units) for content in unit.contents}


def _wanted(units: list[_Unit], known_sides: Mapping[int, bool], validation: float) -> dict[str, int]:
    """How many pictures of each class to hold out: those that are held out already, and a share of the new ones."""
    held, learned, new = (
        sum((unit.counts for place, unit in enumerate(units) if known_sides.get(place) is side), Counter[str]())
        for side in (True, False, None)
    )
    return {
        name: held[name]
        + min(max(int(not held[name]), round(validation * new[name])), new[name] - int(not learned[name]))
        for name in held | learned | new
    }


def _smallest(
    units: list[_Unit], taken: set[int], name: str, left: Counter[str], known_sides: Mapping[int, bool]
) -> int:
    """The smallest part with a class that leaves every class something to learn from; a new one, if there is one."""
    fitting = [
        place
        for place, unit in enumerate(units)
        if place not in taken and unit.counts[name] and all(count < left[other] for other, count in unit.counts.items())
    ]
    if not fitting:
        raise DataError(
            f"the pictures of {name!r} cannot be on both sides of a split: what belongs together (copies, near-copies, "
            "groups) leaves no part of them to hold out without taking all of a class. Add pictures, or give val/ "
            "yourself"
        )
    return min(fitting, key=lambda place: (place in known_sides, units[place].counts.total(), place))


def _check_enough(catalog: Catalog, units: list[_Unit], counts: Counter[str]) -> None:
    parts = Counter(name for unit in units for name in unit.counts)
    too_few = [name for name in catalog.class_names if parts[name] < 2]
    if not too_few:
        return
    lines = []
    for name in too_few:
        line = f"{name}: {counts[name]} different picture{'s' * (counts[name] != 1)} in {catalog.counts()[name]} files"
        if counts[name] > parts[name]:
            line += ", all of which belong together"
        lines.append(line)
    raise DataError(
        "every class needs at least two different pictures, one to learn from and one to validate with:\n  "
        + "\n  ".join(lines)
        + "\nadd pictures, take the class away, or give val/ yourself"
    )


def _assigned(catalog: Catalog, sides: Mapping[str, str], *, anew: bool = False) -> Catalog:
    """The catalog with the sides of pictures by content; pictures of test/ keep theirs unless it is done anew."""
    usable = pl.col("state") == "ok"
    movable = usable if anew else usable & (pl.col("split") != "test")
    side = pl.col("hash").replace_strict(sides, default=pl.col("split"), return_dtype=pl.String)
    rest = pl.when(movable & (pl.col("split") == "")).then(pl.lit("train")).otherwise(pl.col("split"))
    frame = catalog.frame.with_columns(pl.when(movable).then(side).otherwise(pl.col("split")).alias("split"))
    return replace(catalog, frame=frame.with_columns(rest.alias("split")))


def _check_both_sides(catalog: Catalog, *, given: bool) -> None:
    sides = {side: catalog.counts(side) for side in ("train", "val")}
    lacking = [name for name in catalog.class_names if not all(counts[name] for counts in sides.values())]
    if lacking and given:
        lines = "\n  ".join(
            f"{name}: {sides['train'][name]} in train/, {sides['val'][name]} in val/" for name in lacking
        )
        raise DataError(
            f"every class needs pictures in train/ and in val/:\n  {lines}\n"
            "add them, take the class away, or take val/ away to have it split for you"
        )


def _notes_on_leaks(catalog: Catalog) -> list[str]:
    leaks = catalog.leaks
    if not len(leaks):
        return []
    shown = leaks.group_by("hash", maintain_order=True).agg(pl.col("path").head(2)).head(3)["path"].to_list()
    pairs = "; ".join(" = ".join(pair) for pair in shown)
    return [
        f"{leaks['hash'].n_unique()} pictures are on more than one side of the split that the folders give, so the "
        f"scores will be too good: delete one of each. {pairs}"
    ]


def _check_name(file: Path) -> None:
    if file.suffix not in (".json", ".parquet"):
        raise InputError(f"a split is a .json or .parquet file, got {file.name!r}")
