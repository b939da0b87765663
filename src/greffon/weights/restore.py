"""From what the user calls weights to a filled backbone, and the record of what it was filled with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import InputError, WeightFileError
from greffon.recipe import nearest
from greffon.weights.cache import difference, digests
from greffon.weights.fetch import obtain
from greffon.weights.identify import unfold_preprocessing, variant_of
from greffon.weights.match import match
from greffon.weights.read import WeightArrays, read
from greffon.weights.sets import (
    PREPROCESSINGS,
    WEIGHT_SETS,
    Preprocessing,
    Restored,
    Variant,
    WeightSet,
    check_variant,
    weight_set,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found and read, and the network that they belong to.

    Attributes:
        name: the weight set's name or the file's path.
        variant: which network to build.
        weights: the arrays; None for random weights.
        preprocessing: what they were trained with, where that is known.
        sha256: of the file.
        notes: what the user should know, one sentence each.
    """

    name: str
    variant: Variant
    weights: WeightArrays | None = None
    preprocessing: Preprocessing | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    def restore(self, model: keras.Model, *, allow_missing: Sequence[str] = ()) -> Restored:
        """Fill a network, wholly or not at all.

        Raises:
            InputError: `allow_missing` names nothing in the network.
            WeightFileError: the weights do not fit; nothing was changed.
        """
        restored = Restored(self.name, self.variant, self.preprocessing, self.sha256, self.notes)
        if self.weights is None:
            return restored
        try:
            found = match(self.weights, model, allow_missing=allow_missing)
            found.assign()
        except WeightFileError as error:
            raise WeightFileError(f"weight file {self.name} ({self.weights.format}): {error}") from None
        return replace(restored, notes=self.notes + tuple(found.notes), coverage=found.coverage)


def find_weights(
    weights: str | Path | None,
    *,
    depth: int = 50,
    variant: str | None = None,
    include_top: bool = False,
    classes: int = 1000,
) -> FoundWeights:
    """Find and read weights, and tell which network they belong to.

    Args:
        weights: a weight set's name, a file, or None for random weights.
        depth: of the network that they are wanted for.
        variant: that the user asked for; None: the weights'.
        include_top: whether the classifier is wanted too.
        classes: units of that classifier.

    Raises:
        InputError: there is no such set or file, or it is for another network than was asked for.
        WeightFileError: the file cannot be read, or says that it is for another variant.
    """
    asked = check_variant(variant) if variant is not None else None
    if weights is None or weights == "none":
        return FoundWeights("none", asked or "v1")
    if isinstance(weights, str) and weights in WEIGHT_SETS:
        record = weight_set(weights)
        _check_set(record, depth=depth, variant=asked, include_top=include_top, classes=classes)
        file = obtain(record, include_top=include_top)
        found = read(file.path)
        return FoundWeights(record.name, record.variant, found, record.preprocessing, file.sha256, file.notes)
    return _find_file(_existing(weights), asked)


def _find_file(path: Path, asked: Variant | None) -> FoundWeights:
    found = read(path)
    identity = digests(path)
    known = [it for it in WEIGHT_SETS.values() for file in it.files if difference(file, identity) is None]
    if known:
        record = known[0]
        if asked not in {None, record.variant}:
            raise WeightFileError(_other_variant(str(path), record.variant, str(asked)))
        notes = (f"The file is that of the weight set {record.name!r}.",)
        return FoundWeights(str(path), record.variant, found, record.preprocessing, identity.sha256, notes)
    told, variant = variant_of(found)
    if told and asked not in {None, variant}:
        raise WeightFileError(_other_variant(str(path), variant, str(asked)))
    preprocessing, said = unfold_preprocessing(found)
    if preprocessing is None:
        preprocessing = PREPROCESSINGS.get(found.metadata.get("preprocessing", ""))
    return FoundWeights(str(path), asked or variant, found, preprocessing, identity.sha256, said)


def _existing(weights: str | Path) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"weights must be a weight set's name or a file, got the folder {path}")
    raise InputError(
        f"weights must be one of {', '.join(WEIGHT_SETS)}, a file or None; {str(weights)!r} is neither"
        f"{nearest(str(weights), WEIGHT_SETS)}"
    )


def _check_set(record: WeightSet, *, depth: int, variant: Variant | None, include_top: bool, classes: int) -> None:
    if depth != record.depth:
        raise InputError(
            f"the weight set {record.name!r} is for a ResNet-{record.depth}, not a ResNet-{depth}: give a file, or "
            "weights=None"
        )
    if variant not in {None, record.variant}:
        raise InputError(_other_variant(f"set {record.name!r}", record.variant, str(variant)))
    if include_top:
        record.file(include_top=True)
        if record.classes is not None and record.classes != classes:
            raise InputError(
                f"the classifier of the weight set {record.name!r} has {record.classes} classes, got "
                f"classes={classes}: use include_top=False and graft a head of your own"
            )


def _other_variant(what: str, variant: str, asked: str) -> str:
    return (
        f"the weights {what} are for variant {variant!r}, not {asked!r}. The shapes may agree, but the strides "
        f'differ and the features would be wrong: pass variant="{variant}", or leave it out'
    )
