"""Where in a file the ResNet is: under which prefix, in which dialect; and which of two, where there are two."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from greffon.weights.naming.dialect import KERAS, NO_PART, TOP, Dialect
from greffon.weights.naming.huggingface import HUGGING_FACE
from greffon.weights.naming.torchvision import DETECTRON2, SEQUENTIAL, TORCHVISION

if TYPE_CHECKING:
    from collections.abc import Collection

DIALECTS: tuple[Dialect, ...] = (KERAS, TORCHVISION, HUGGING_FACE, DETECTRON2, SEQUENTIAL)

# Of two networks in a file, the one that its authors evaluate: the trained encoder of MoCo and BYOL (the other only
# follows it), but the teacher of DINO. Averaged weights before raw ones, as timm's own script takes them.
_FOLLOWS = re.compile(r"encoder_k\b|momentum|target|student|backbone_m\b|\bkey_")
_AVERAGED = re.compile(r"(?:^|[._])ema(?:[._]|$)|averaged")
_TF_ENDING = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class Reading:
    """A ResNet in a file, seen through one dialect.

    Attributes:
        dialect: whose names they are.
        prefix: what stands before them.
        places: name in the file -> Keras' name.
        extras: names in the backbone for which a plain ResNet has no place, without the prefix.
        outside: names that are no part of the backbone, in full.
        dropped: how many tensors are known and not needed.
        others: prefixes of further networks of the same kind in the file.
    """

    dialect: Dialect
    prefix: str
    places: dict[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    dropped: int = 0
    others: tuple[str, ...] = ()


def read_names(names: Collection[str]) -> Reading | None:
    """The ResNet that the names of a file tell of, or None.

    Of several, the one that its authors evaluate; the prefixes of the others are in `others`.

    Args:
        names: of the tensors, as in the file.

    Example:
        >>> from greffon.weights.naming.prefixes import read_names
        >>> names = ["module.encoder_q.layer1.0.conv1.weight", "module.encoder_k.layer1.0.conv1.weight"]
        >>> found = read_names(names)
        >>> found.prefix, found.places, found.others
        ('module.encoder_q.', {'module.encoder_q.layer1.0.conv1.weight': 'conv2_block1_1_conv/kernel'}, \
('module.encoder_k.',))
    """
    found: list[tuple[int, Dialect, str]] = []
    for dialect in DIALECTS:
        counts: dict[str, int] = {}
        for name in names:
            anchor = dialect.anchor.fullmatch(plain(name))
            if anchor:
                counts[anchor["prefix"]] = counts.get(anchor["prefix"], 0) + 1
        found.extend((count, dialect, prefix) for prefix, count in counts.items())
    if not found:
        return None
    most = max(count for count, _, _ in found)
    whole = [(dialect, prefix) for count, dialect, prefix in found if 2 * count >= most]
    dialect, prefix = min(whole, key=lambda it: (DIALECTS.index(it[0]), *_rank(it[1])))
    others = tuple(other for also, other in whole if also is dialect and other != prefix)
    return _read(dialect, prefix, names, others)


def plain(name: str) -> str:
    """The name without what TensorFlow's checkpoints write behind each."""
    return name.removesuffix(_TF_ENDING)


def _read(dialect: Dialect, prefix: str, names: Collection[str], others: tuple[str, ...]) -> Reading:
    places: dict[str, str] = {}
    extras, outside, dropped = [], [], 0
    for name in names:
        core = plain(name)
        inner = core.removeprefix(prefix) if core.startswith(prefix) else None
        place = None if inner is None else dialect.place(inner)
        if place == NO_PART and place is not None:
            dropped += 1
        elif place is not None:
            places[name] = place
        elif inner is not None and dialect.inside.match(inner):
            extras.append(inner)
        else:
            outside.append(name)
    if prefix.endswith("backbone.") and not any(place.startswith(f"{TOP}/") for place in places.values()):
        outside = _take_top(prefix.removesuffix("backbone."), outside, places)
    return Reading(dialect, prefix, places, tuple(extras), tuple(outside), dropped, others)


def _take_top(parent: str, outside: list[str], places: dict[str, str]) -> list[str]:
    """The classifier of mmpretrain, which stands beside the backbone."""
    tops = {f"{parent}head.fc.weight": f"{TOP}/kernel", f"{parent}head.fc.bias": f"{TOP}/bias"}
    if not set(tops) <= set(outside):
        return outside
    places.update(tops)
    return [name for name in outside if name not in tops]


def _rank(prefix: str) -> tuple[bool, bool, int, str]:
    return bool(_FOLLOWS.search(prefix)), not _AVERAGED.search(prefix), len(prefix), prefix
