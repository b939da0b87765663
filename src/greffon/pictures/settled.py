"""Which parts of a split are settled beforehand: pictures that earlier training learned from, or was validated on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def settled(parts: Sequence[tuple[Sequence[str], Sequence[str]]], known: Mapping[str, str]) -> dict[int, bool]:
    """The parts of a split whose side is known, each with whether it is held out.

    One that holds a picture which was learned from is learned from again: held out, it would say nothing. Of the rest,
    one that holds a picture which was validated on is held out again, so that the two numbers can be compared. A class
    that would be on one side alone has none of its parts settled: what was validated on may be learned from, and where
    everything was learned from there is nothing better to hold out.

    Args:
        parts: of each the content hashes of its pictures, and their classes.
        known: content hash -> `train` or `val`.

    Example:
        >>> from greffon.pictures.settled import settled
        >>> parts = [(["1"], ["a"]), (["2", "3"], ["a"]), (["4"], ["a"]), (["5"], ["b"]), (["6"], ["b"])]
        >>> settled(parts, {"1": "train", "2": "val", "5": "train", "6": "train"})
        {0: False, 1: True}
    """
    sides = {place: _held_out(contents, known) for place, (contents, _) in enumerate(parts)}
    found: dict[str, set[bool | None]] = {}
    for place, (_, classes) in enumerate(parts):
        for name in classes:
            found.setdefault(name, set()).add(sides[place])
    one_sided = {name for name, kinds in found.items() if kinds in ({False}, {True})}
    return {
        place: side for place, side in sides.items() if side is not None and not one_sided.intersection(parts[place][1])
    }


def _held_out(contents: Sequence[str], known: Mapping[str, str]) -> bool | None:
    before = {known[content] for content in contents if content in known}
    return None if not before else "train" not in before
