"""The weight sets as a list: what is known of each, and what of it is on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.cache import find_cached, recorded_sha256
from greffon.weights.sets import WeightFile, WeightSet, known_sets

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SetRow:
    """A weight set as `greffon weights list` shows it.

    Attributes:
        name: what `weights=` and `--weights` take.
        variant: the network that the weights belong to.
        depth: 50, 101 or 152.
        classes: of the classifier, where there is one.
        licence: of the weights.
        source: who trained them and where they are published.
        preprocessing: name of what they were trained with.
        size: of the file without the classifier, in bytes; None where unknown or where there is no file.
        sha256: of that file: as published, else as written down when it was fetched, else None.
        verified: what a fetched file is checked against: a hash that was published, in words; `pinned` where none was
            and one was written down when it was fetched; `unverified` before that; None where there is no file.
        accuracy: on ImageNet, as published: percent, side of the pictures and source; None where nobody published it.
        format: of the file, in words.
        added: whether the user added it on this machine.
        cached: whether it is on this machine and its hash is right (True for sets that need no fetching).
        path: where it is, or None.
        problem: what is wrong with the file that is there, or None.
    """

    name: str
    variant: str
    depth: int
    classes: int | None
    licence: str
    source: str
    preprocessing: str
    size: int | None
    sha256: str | None
    cached: bool
    path: Path | None
    problem: str | None = None
    verified: str | None = None
    accuracy: dict[str, Any] | None = None
    format: str = ""
    added: bool = False


def list_sets() -> list[SetRow]:
    """All weight sets, with what is here of each.

    Example:
        >>> from greffon.weights.listing import list_sets
        >>> [row.name for row in list_sets() if row.source.startswith("yahoo")]
        ['thin']
    """
    return [_row(record) for record in known_sets().values()]


def _row(record: WeightSet) -> SetRow:
    file = record.file() if record.files else None
    path, problem, pinned = None, None, None
    try:
        here = find_cached(file) if file else None
        path = here.path if here else None
        pinned = recorded_sha256(path) if path else None
    except WeightFileError as error:
        problem = str(error)
    return SetRow(
        name=record.name,
        variant=record.variant,
        depth=record.depth,
        classes=record.classes,
        licence=record.licence,
        source=record.source,
        preprocessing=record.preprocessing.name,
        size=file.size if file else None,
        sha256=(file.sha256 or pinned) if file else None,
        cached=file is None or path is not None,
        path=path,
        problem=problem,
        verified=_verified(file, pinned) if file else None,
        accuracy=asdict(record.accuracy) if record.accuracy else None,
        format=record.format,
        added=file is not None and file.added,
    )


def _verified(file: WeightFile, pinned: str | None) -> str:
    if file.added:
        return "the user's own"
    return "pinned" if file.published_hash == "unverified" and pinned else file.published_hash
