"""Named arrays to the variables of a network: everything is looked at first, then all is assigned or nothing."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from greffon.errors import InputError, WeightFileError
from greffon.recipe import nearest
from greffon.weights.causes import left_out_note, likely_cause
from greffon.weights.read.arrays import Array, WeightArrays
from greffon.weights.structure import Shape, find_renaming, shapes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import keras

_LISTED = 20  # names of one kind in a message; `Match` has them all
_BACKBONE = re.compile(r"conv1_(conv|bn)|conv\d+_block\d+_\d_(conv|bn)|conv\d+_block\d+_preact_bn|post_bn")
_OF_NORMS = ("/gamma", "/beta", "/moving_mean", "/moving_variance")


class OtherShape(NamedTuple):
    """A tensor that the file has in another shape."""

    name: str
    expected: Shape
    found: Shape

    def __str__(self) -> str:
        return f"{self.name} (the network has {self.expected}, the file {self.found})"


@dataclass
class Match:
    """What of a file goes where in a network, before anything is assigned.

    Attributes:
        model: the network.
        matched: tensors of the network that the file gives, `layer/weight` -> array.
        missing: tensors of the network that the file does not give.
        unexpected: tensors of the file for which its layer in the network has no place.
        wrong_shape: tensors that both have, in different shapes.
        unusable: tensors with NaN, infinity or integers where the network has floating point numbers.
        left_out: layers of the file that are no part of the network, such as its head.
        allowed: tensors that are missing or differ with the user's permission; they keep their values.
        notes: what the user should know, one sentence each.
    """

    model: Any
    matched: dict[str, Array] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[OtherShape] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cause: str = ""

    @property
    def complete(self) -> bool:
        """Whether everything fits, but for what the user allowed to be missing."""
        return not (self.missing or self.unexpected or self.wrong_shape or self.unusable)

    @property
    def coverage(self) -> float:
        """Share of the network's parameters that the file gives, 0..1."""
        total = sum(_size(variable) for variable in variables_of(self.model).values())
        return sum(array.size for array in self.matched.values()) / max(total, 1)

    def check(self) -> None:
        """Raise if anything does not fit.

        Raises:
            WeightFileError: with the likely cause, then all that is missing, unexpected, of another shape or
                unusable.
        """
        if not self.complete:
            raise WeightFileError(str(self))

    def assign(self) -> None:
        """Put every matched array into its variable, all of them or none.

        Raises:
            WeightFileError: something does not fit; nothing was changed.
        """
        with self.assigned():
            pass

    @contextmanager
    def assigned(self, *, undo: bool = True) -> Iterator[None]:
        """Put every matched array into its variable, and take all back if the block that follows raises.

        Args:
            undo: whether what was there is kept until then, which takes the network's size in memory once more. Not
                needed for a network that nobody has yet.

        Raises:
            WeightFileError: something does not fit; nothing was changed.
        """
        from keras import ops

        self.check()
        variables = variables_of(self.model)
        before: list[tuple[Any, Array]] = []
        try:
            for name, array in self.matched.items():
                if undo:
                    before.append((variables[name], np.array(ops.convert_to_numpy(variables[name]))))
                variables[name].assign(array)
            yield
        except BaseException:
            # Out of memory or interrupted halfway: a network of two halves would look like one.
            for variable, value in before:
                variable.assign(value)
            raise

    def table(self) -> str:
        """What fits and what does not, in numbers: one line for each kind, ready to be printed."""
        total = sum(_size(variable) for variable in variables_of(self.model).values())
        parameters = sum(array.size for array in self.matched.values())
        rows = [
            ("matched", self.matched, f"{parameters:,} of {total:,} parameters, {self.coverage:.1%}"),
            ("missing", self.missing, _listed(self.missing)),
            ("unexpected", self.unexpected, _listed(self.unexpected)),
            ("wrong shape", self.wrong_shape, _listed(self.wrong_shape)),
            ("not usable", self.unusable, _listed(self.unusable)),
            ("allowed", self.allowed, _listed(self.allowed)),
            ("left out", self.left_out, _listed(self.left_out)),
        ]
        always = ("matched", "missing", "unexpected", "wrong shape")
        kept = [row for row in rows if row[1] or row[0] in always]
        return "\n".join(f"  {name:<12}{len(items):>5}  {more}".rstrip() for name, items, more in kept)

    def __str__(self) -> str:
        parts = [f"the weights do not fit the network {self.model.name!r}." if not self.complete else "all fits."]
        if self.cause:
            parts.append(f"Likely cause: {self.cause}")
        for title, items in (
            ("missing from the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("of another shape", self.wrong_shape),
            ("not usable", self.unusable),
        ):
            if items:
                parts.append(f"{title[0].upper()}{title[1:]} ({len(items)}): {_listed(items)}")
        if not self.complete:
            parts.append("Nothing was changed.")
        return "\n".join(parts)


def match(
    weights: WeightArrays | Mapping[str, Array], model: keras.Model, *, allow_missing: Sequence[str] = ()
) -> Match:
    """Find the place of every array of a file in a network. Nothing is assigned yet.

    By name; where the names are another writer's, by translation or by order and shapes (`structure`). A file
    without any BatchNorm whose convolutions have biases has it folded in: BatchNorm then becomes the identity.

    Args:
        weights: what `read` gave, or a dict of `layer/weight` -> array.
        model: a flat network such as `resnet` builds.
        allow_missing: names or globs of layers (`predictions`) or tensors (`*/bias`) that may be missing.

    Returns:
        The match; `.assign()` carries it out, `.check()` and `str()` tell what does not fit.

    Raises:
        InputError: a name in `allow_missing` is nothing in the network.
        WeightFileError: the layers are only numbered, and more than one order fits.

    Example:
        >>> from greffon.backbone.resnet import resnet
        >>> from greffon.weights.match import match
        >>> from greffon.weights.read import read
        >>> from greffon.weights.sets import embedded_path, weight_set
        >>> found = match(read(embedded_path(weight_set("thin").file())), resnet(variant="thin"))
        >>> found.complete, round(found.coverage, 3)
        (True, 1.0)
    """
    arrays = dict(weights.arrays if isinstance(weights, WeightArrays) else weights)
    found = Match(model, notes=list(weights.notes) if isinstance(weights, WeightArrays) else [])
    variables = variables_of(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    network = shapes_of(variables)
    arrays = _renamed(arrays, found, network)
    _identity_norms(arrays, found, variables)
    allowed = _allowed(allow_missing, shapes)
    for name, shape in shapes.items():
        _place(found, name, shape, arrays, allowed)
    _sort_extras(found, arrays, network)
    if not found.complete:
        found.cause = likely_cause(found, shapes_of(arrays), network)
    elif found.allowed:
        found.notes.append(
            f"{found.coverage:.1%} of the parameters come from the file; {len(found.allowed)} tensors keep their "
            f"values: {_listed(found.allowed)}"
        )
    return found


def variables_of(model: Any) -> dict[str, Any]:
    """`layer/weight` -> variable of every weight of a model, nested models unfolded."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in layers
        if not hasattr(layer, "layers")
        for variable in layer.weights
    }


def _place(found: Match, name: str, shape: Shape, arrays: Mapping[str, Array], allowed: set[str]) -> None:
    array = arrays.get(name)
    if name in allowed and (array is None or array.shape != shape):
        found.allowed.append(name)
    elif array is None:
        found.missing.append(name)
    elif array.shape != shape:
        found.wrong_shape.append(OtherShape(name, shape, array.shape))
    elif array.dtype.kind != "f":
        found.unusable.append(f"{name} (holds {array.dtype}, as in a quantised model)")
    elif not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        found.unusable.append(f"{name} ({bad:,} of {array.size:,} values are NaN or infinite)")
    else:
        found.matched[name] = array


def _renamed(arrays: dict[str, Array], found: Match, network: dict[str, dict[str, Shape]]) -> dict[str, Array]:
    renaming = find_renaming(shapes_of(arrays), network)
    if renaming is None:
        return arrays
    found.notes.append(renaming.note)
    renamed = {}
    for name, array in arrays.items():
        layer, _, weight = name.rpartition("/")
        renamed[f"{renaming.layers.get(layer, layer)}/{weight}"] = array
    return renamed


def _identity_norms(arrays: dict[str, Array], found: Match, known: Mapping[str, Any]) -> None:
    """Where BatchNorm was folded into the convolutions, give the network's BatchNorm layers the identity."""
    norms = {layer.name: layer for layer in found.model.layers if hasattr(layer, "moving_variance")}
    convs = [it.name for it in found.model.layers if _is_backbone(it.name) and it.name not in norms]
    if not norms or not convs or any(name.endswith(_OF_NORMS) for name in arrays):
        return
    if any(f"{name}/bias" not in arrays or f"{name}/bias" not in known for name in convs):
        return
    for name, layer in norms.items():
        size = layer.moving_variance.shape[0]
        one, zero = np.ones(size, np.float32), np.zeros(size, np.float32)
        variance = np.full(size, 1.0 - layer.epsilon, np.float32)
        values = {"gamma": one, "beta": zero, "moving_mean": zero, "moving_variance": variance}
        arrays.update({f"{name}/{weight}": value for weight, value in values.items()})
    found.notes.append("BatchNorm is folded into the convolutions of the file; its layers are the identity.")


def _sort_extras(found: Match, arrays: Mapping[str, Array], network: Mapping[str, Any]) -> None:
    """What the file has beyond the network: an error where it belongs to the backbone, else left out."""
    left_out: dict[str, None] = {}
    known = variables_of(found.model)
    for name in arrays:
        layer = name.rpartition("/")[0]
        if name in known:
            continue
        if layer in network or _is_backbone(layer):
            found.unexpected.append(name)
        else:
            left_out[layer] = None
    found.left_out = list(left_out)
    if left_out and found.complete:
        found.notes.append(left_out_note(list(left_out), shapes_of(arrays)))


def _allowed(patterns: Any, shapes: Mapping[str, Shape]) -> set[str]:
    allowed: set[str] = set()
    if isinstance(patterns, bool) or not isinstance(patterns, str | Sequence):
        raise InputError(
            f"allow_missing must be names or globs of layers or tensors, such as ['predictions'], got {patterns!r}"
        )
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hit = {
            name
            for name in shapes
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition("/")[0], pattern)
        }
        if not hit:
            layers = sorted({name.rpartition("/")[0] for name in shapes})
            raise InputError(
                f"allow_missing must name layers or tensors of the network, got {pattern!r}{nearest(pattern, layers)}"
            )
        allowed |= hit
    return allowed


def _is_backbone(layer: str) -> bool:
    return _BACKBONE.fullmatch(layer) is not None


def _size(variable: Any) -> int:
    return int(np.prod(variable.shape))


def _listed(items: Sequence[Any]) -> str:
    shown = ", ".join(str(item) for item in items[:_LISTED])
    more = len(items) - _LISTED
    return f"{shown}, and {more} more" if more > 0 else shown
