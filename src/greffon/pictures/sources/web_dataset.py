"""Tar shards in the WebDataset convention: `key.jpg` with `key.cls`, `key.json` or `key.txt` beside it.

Pictures stay where they are: a row's path is `shard.tar::key.jpg`.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, InputError
from greffon.pictures.layout import PICTURE_SUFFIXES, natural_order
from greffon.pictures.sources.columns import LABELS
from greffon.pictures.sources.found import Found, Row
from greffon.pictures.sources.labels import labels_of
from greffon.pictures.sources.locate import MEMBER, is_address, local_file
from greffon.pictures.sources.sides import sides_of_names
from greffon.pictures.sources.tars import Member, members

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SAYS = ("cls", "json", "txt", "label", "target")
_LONGEST = 2**24  # bytes of a member that is read for a label
_MOST = 100_000
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")


def expanded(pattern: str) -> list[str]:
    """All names that a pattern with braces stands for; itself where it has none.

    Raises:
        InputError: the braces hold neither a range nor a list, or stand for more than 100,000 names.

    Example:
        >>> from greffon.pictures.sources.web_dataset import expanded
        >>> expanded("shard-{008..010}.tar"), expanded("{a,b}.tar")
        (['shard-008.tar', 'shard-009.tar', 'shard-010.tar'], ['a.tar', 'b.tar'])
    """
    pieces = _BRACES.split(pattern)
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST:
        raise InputError(f"{pattern} stands for {count:,} files, {_MOST:,} at most")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        if "," not in inside:
            raise InputError(f"braces must hold a range {{000..009}} or a list {{a,b}}, got {{{inside}}} in {pattern}")
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if not first <= last < first + _MOST:
        raise InputError(f"a range must rise, and by fewer than {_MOST:,}, got {{{inside}}} in {pattern}")
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]


@dataclass
class _Sample:
    """Members with one key.

    Attributes:
        picture: the member that is its picture.
        says: what each of its other members that may hold a label says, by extension.
        others: more pictures of the key.
    """

    picture: Member | None = None
    says: dict[str, bytes] = field(default_factory=dict)
    others: list[Member] = field(default_factory=list)


def found_in_shards(shards: Sequence[str], name: str, *, label: str | None = None) -> Found:
    """The pictures of some shards, each with the label beside it.

    Shards whose names say train, val or test give the side of the split, where at least two sides are there.

    Args:
        shards: paths or addresses of tar archives.
        name: what messages call all of them.
        label: field of the JSON to take the label from, or the extension of a member; by default the first that is
            there of `cls`, a usual field in `json`, and `txt`.

    Raises:
        DataError: one is no tar archive, none holds a picture, or a label is none.
        InputError: one cannot be read.
    """
    rows: list[Row] = []
    notes: list[str] = []
    several = False
    for shard, side in zip(shards, sides_of_names(shards), strict=True):
        try:
            archive = local_file(shard)
            samples, damage = _samples(archive, label)
        except OSError as error:
            raise InputError(f"{shard} cannot be read: {error.strerror or error}") from error
        start = f"{shard if is_address(shard) else archive.absolute().as_posix()}{MEMBER}"
        for sample in samples:
            value, origin = _label(sample, label, start)
            several = several or isinstance(value, list)
            rows.extend(_rows(sample, start, side, _names(value, origin)))
        if damage is not None:
            notes.append(f"{damage}: {len(samples)} pictures before the damage are used")
    if not rows:
        raise DataError(f"{name} holds no pictures ({', '.join(natural_order(PICTURE_SUFFIXES))})")
    return Found(rows, Path(), name, None, several, tuple(notes))


def _samples(archive: Path, wanted: str | None) -> tuple[list[_Sample], DataError | None]:
    """Every key with a picture, and why the archive could not be read to its end.

    Raises:
        DataError: it could not be read, and nothing was there before.
        OSError: it cannot be opened.
    """
    samples: dict[str, _Sample] = {}
    damage: DataError | None = None
    with archive.open("rb") as stream:
        try:
            for member in members(archive):
                key, extension = _key(member.name)
                sample = samples.setdefault(key, _Sample())
                if "." + extension in PICTURE_SUFFIXES:
                    if sample.picture is None or sample.picture.name == member.name:  # the later one counts
                        sample.picture = member
                    else:
                        sample.others.append(member)
                elif extension in (*_SAYS, wanted) and not member.problem and member.size <= _LONGEST:
                    stream.seek(member.offset)
                    sample.says[extension] = stream.read(member.size)
        except DataError as error:
            damage = error
    found = [sample for sample in samples.values() if sample.picture is not None]
    if damage is not None and not found:
        raise damage
    return found, damage


def _label(sample: _Sample, wanted: str | None, start: str) -> tuple[Any, str]:
    """What a sample says of its class, and which member says so."""
    picture = sample.picture.name if sample.picture is not None else ""
    extension = wanted or "cls"
    if extension in sample.says and extension != "json":
        return sample.says[extension], f"{start}{_key(picture)[0]}.{extension}"
    origin = f"{start}{_key(picture)[0]}.json"
    if "json" in sample.says:
        try:
            told = json.loads(sample.says["json"])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{origin} is no JSON: {error}") from error
        if not isinstance(told, dict):
            return told, origin
        fields = (wanted,) if wanted else (*LABELS, "cls")
        named = next((field for field in fields if field in told), None)
        if named is not None:
            return told[named], origin
    return (None if wanted else sample.says.get("txt")), origin


def _names(value: Any, origin: str) -> tuple[str, ...]:
    try:
        return labels_of(value)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from error


def _rows(sample: _Sample, start: str, side: str, labels: tuple[str, ...]) -> Iterator[Row]:
    if sample.picture is not None:
        yield Row(start + sample.picture.name, labels, split=side)
    for other in sample.others:
        yield Row(start + other.name, labels, split=side, ignored="a second picture of its key")


def _key(name: str) -> tuple[str, str]:
    """`a/b.left.jpg`: the key ends at the first point of the last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()
