"""Freeze rules: an ordered list that says for every layer of a model whether it trains."""

from __future__ import annotations

import difflib
import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from greffon.backbone.parts import block_of, group_of, learnable
from greffon.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greffon.backbone.parts import Parts
    from greffon.recipe import FreezeRule, Unfreeze

BatchNormPolicy = Literal["frozen", "train"]

_RANGE = re.compile(r"(-?\d*):(-?\d*)")
_KINDS = (
    "none, all, a number of layers (10), a block (conv5_block3), a group (conv5), a glob (conv5_*_conv), "
    "re:REGEX, an index range (120:175), or !RULE"
)


@dataclass(frozen=True)
class FreezeRules:
    """What `freeze` was asked for; attached to the model as `greffon_freeze`.

    Attributes:
        unfreeze: the rules in order; the last one that matches a layer decides.
        batch_norm: `frozen` or `train`.
    """

    unfreeze: tuple[FreezeRule, ...]
    batch_norm: BatchNormPolicy = "frozen"

    @classmethod
    def of(cls, unfreeze: Unfreeze, batch_norm: str = "frozen") -> FreezeRules:
        """Rules in their one form, whatever form they were written in.

        Raises:
            FreezeError: not a rule, or not a BatchNorm policy.
        """
        if batch_norm not in {"frozen", "train"}:
            raise FreezeError(f"batch_norm must be 'frozen' or 'train', got {batch_norm!r}")
        rules = tuple(unfreeze) if isinstance(unfreeze, tuple | list) else (unfreeze,)
        if not rules:
            raise FreezeError(f"unfreeze must be at least one of {_KINDS}. Got {unfreeze!r}")
        policy: BatchNormPolicy = "train" if batch_norm == "train" else "frozen"
        return cls(tuple(_one_form(rule) for rule in rules), policy)


def resolve(parts: Parts, rules: FreezeRules) -> dict[int, bool]:
    """Whether each layer trains, by the id of the layer; every layer is covered.

    The backbone is frozen where no rule matches; what stands before and behind it trains. A `!rule` freezes layers
    of the head only if it matches none of the backbone, so that `!*_bn` does not stop a head that is being trained.

    Raises:
        FreezeError: a rule matches no layer, or only layers without parameters.
    """
    backbone = {id(layer) for layer in parts.backbone}
    trains = {id(layer): part != "backbone" for part, layer in parts}
    for rule in rules.unfreeze:
        freezes, word = _negation(rule)
        matched = _match(parts, word, rule)
        inside = [layer for layer in matched if id(layer) in backbone]
        if freezes:
            trains.update((id(layer), False) for layer in inside or matched)
            continue
        if word == "none":
            trains.update((id(layer), False) for layer in inside)
            continue
        if not any(learnable(layer) for layer in matched):
            raise FreezeError(_nothing_in(parts, rule, matched))
        trains.update((id(layer), True) for layer in matched)
    return trains


def _one_form(rule: Any) -> FreezeRule:
    if isinstance(rule, int) and not isinstance(rule, bool):
        if rule < 0:
            raise FreezeError(f"a number of layers to unfreeze must be at least 0, got {rule}")
        return rule if rule else "none"
    if not isinstance(rule, str) or rule.strip() in {"", "!"}:
        raise FreezeError(f"a freeze rule must be {_KINDS}. Got {rule!r}")
    word = rule.strip()
    if word.isdecimal():
        return _one_form(int(word))
    if word.lower() in {"none", "all", "!all"}:
        return word.lower()
    if word.lower() == "!none":
        raise FreezeError("the freeze rule '!none' says nothing: write 'all' to train the whole backbone")
    if word.startswith("!!"):
        raise FreezeError(f"a freeze rule takes one '!', got {rule!r}")
    return word


def _negation(rule: FreezeRule) -> tuple[bool, FreezeRule]:
    if isinstance(rule, str) and rule.startswith("!"):
        word = rule[1:].strip()
        return True, int(word) if word.isdecimal() else word
    return False, rule


def _match(parts: Parts, word: FreezeRule, rule: FreezeRule) -> list[Any]:
    """The layers that a rule is about.

    Raises:
        FreezeError: there are none.
    """
    if isinstance(word, int):
        return _last(parts, word, rule)
    if word in {"all", "none"}:
        return list(parts.backbone)
    if _RANGE.fullmatch(word):
        return _range(parts, word, rule)
    named = [(layer, _names(parts, layer, part)) for part, layer in parts]
    if word.startswith("re:"):
        pattern = _compiled(word.removeprefix("re:"), rule)
        matched = [layer for layer, names in named if any(pattern.fullmatch(name) for name in names)]
    elif any(character in word for character in "*?["):
        matched = [layer for layer, names in named if any(fnmatch.fnmatchcase(name, word) for name in names)]
    else:
        group = "conv1" if word == "stem" else word
        matched = [layer for layer, names in named if _is_in(layer, names, group)]
    if not matched:
        raise FreezeError(_no_match(parts, word, rule))
    return matched


def _names(parts: Parts, layer: Any, part: str) -> set[str]:
    names = {layer.name, parts.path(layer)}
    if part == "head":
        names.add(f"head_{layer.name}")  # so that "!head_*" also means a layer of the user's own in the head
    return names


def _is_in(layer: Any, names: Iterable[str], word: str) -> bool:
    if word in {block_of(layer.name), group_of(layer.name)}:
        return True
    return any(name == word or name.startswith((f"{word}_", f"{word}/")) for name in names)


def _last(parts: Parts, count: int, rule: FreezeRule) -> list[Any]:
    known = parts.first_index + len(parts.backbone)
    if count > known:
        raise FreezeError(
            f"freeze rule {rule!r} asks for more layers than the backbone has ({known}, its Input counted); "
            "'all' (--unfreeze all, or unfreeze='all') trains all of them"
        )
    return parts.backbone[-count:]


def _range(parts: Parts, word: str, rule: FreezeRule) -> list[Any]:
    first, end = parts.first_index, parts.first_index + len(parts.backbone)
    start, stop = (int(side) if side else None for side in word.split(":"))
    if any(side is not None and not -end <= side <= end for side in (start, stop)):
        raise FreezeError(f"freeze rule {rule!r} must lie within the backbone's indices, 0:{end}")
    chosen = set(range(*slice(start, stop).indices(end)))
    matched = [layer for n, layer in enumerate(parts.backbone, start=first) if n in chosen]
    if not matched:
        raise FreezeError(f"freeze rule {rule!r} is an empty range; the backbone's indices are 0:{end}")
    return matched


def _compiled(pattern: str, rule: FreezeRule) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise FreezeError(f"freeze rule {rule!r} is not a regular expression: {error}") from None


def _no_match(parts: Parts, word: str, rule: FreezeRule) -> str:
    layers = [layer.name for part, layer in parts if part != "preprocessing"]
    groups = _unique(group_of(layer.name) for layer in parts.backbone)
    blocks = _unique(block_of(layer.name) for layer in parts.backbone)
    wanted = re.sub(r"^re:|[*?\[\]^$\\]", "", word)
    near = [
        *difflib.get_close_matches(wanted, _unique([*groups, *blocks]), n=3, cutoff=0.6),
        *difflib.get_close_matches(wanted, layers, n=3, cutoff=0.6),
    ]
    message = f"freeze rule {rule!r} matches no layer (a pattern must match the whole name)"
    if near:
        message += f"; nearest: {', '.join(_unique(near))}"
    if blocks:
        message += f". Groups: {', '.join(groups)}; blocks: {blocks[0]} to {blocks[-1]}"
    return message + ". greffon layers WEIGHTS, or greffon.layers(model), shows every name"


def _nothing_in(parts: Parts, rule: FreezeRule, matched: list[Any]) -> str:
    names = ", ".join(layer.name for layer in matched[:4]) + (", ..." if len(matched) > 4 else "")
    message = f"freeze rule {rule!r} matches only layers without parameters ({names}): nothing more would train"
    for count, layer in enumerate(reversed(parts.backbone), start=1):
        if isinstance(rule, int) and learnable(layer):
            return f"{message}. The last {count} layers are the fewest that have some, with {layer.name}"
    return message


def _unique(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]
