"""From what the user calls weights to a filled backbone, and the record of what it was filled with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import InputError, WeightFileError
from greffon.recipe import nearest
from greffon.say import say
from greffon.weights.cache import digests
from greffon.weights.fetch import obtain, recognise
from greffon.weights.identify import identify, unfold_preprocessing, variant_of
from greffon.weights.match import Match, match
from greffon.weights.naming import to_keras
from greffon.weights.read import WeightArrays, opened
from greffon.weights.sets import (
    Preprocessing,
    Restored,
    Variant,
    WeightSet,
    check_variant,
    find_set,
    known_sets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from greffon.weights.checkup import CheckUp


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found and read, and the network that they belong to.

    Attributes:
        name: the weight set's name or the file's path.
        variant: which network to build.
        weights: the arrays, under Keras' names; None for random weights.
        preprocessing: what they were trained with, where that is known.
        sha256: of the file; of a folder, of its files.
        notes: what the user should know, one sentence each.
        identity: what the file is, in words; empty for random weights.
        told: whether that and what fits is shown before it is loaded: for the user's own files.
    """

    name: str
    variant: Variant
    weights: WeightArrays | None = None
    preprocessing: Preprocessing | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    identity: str = ""
    told: bool = False

    def restore(
        self,
        model: keras.Model,
        *,
        allow_missing: Sequence[str] = (),
        tell: Callable[[str], None] = say,
        undo: bool = True,
    ) -> Restored:
        """Fill a network, wholly or not at all, and look at what it does then.

        Args:
            model: to fill.
            allow_missing: names or globs of layers or tensors that may be missing.
            tell: is given what the file is and the table of what fits, before anything changes.
            undo: whether the network becomes what it was if it cannot be filled; False for one that is thrown away.

        Raises:
            InputError: `allow_missing` names nothing in the network.
            WeightFileError: the weights do not fit, or the network that they make cannot be right; the network is
                what it was.
        """
        restored = Restored(self.name, self.variant, self.preprocessing, self.sha256, self.notes)
        if self.weights is None:
            return restored
        try:
            found = match(self.weights, model, allow_missing=allow_missing)
            if self.told:
                tell(f"weights {self.name} ({self.weights.format}): {self.identity}\n{found.table()}")
            with found.assigned(undo=undo):
                seen = self._check_up(model, found)
        except WeightFileError as error:
            raise WeightFileError(f"weight file {self.name} ({self.weights.format}): {error}") from None
        notes = (*self.notes, *found.notes, *seen.sentences())
        return replace(restored, notes=notes, coverage=found.coverage, identity=self.identity, check_up=seen.as_dict())

    def _check_up(self, model: keras.Model, found: Match) -> CheckUp:
        from greffon.weights.checkup import CheckUp, check_up
        from greffon.weights.stored_outputs import known_outputs

        if found.allowed:
            return CheckUp(note="the network keeps values of its own, so its answers are not those of the file")
        seen = check_up(model, self.preprocessing, expected=known_outputs(self.sha256) if self.sha256 else None)
        if not seen.ok:
            raise WeightFileError(
                f"{' '.join(seen.sentences())} Nothing was changed. Is the file damaged, or of another network?"
            )
        return seen


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
    record = find_set(weights) if isinstance(weights, str) else None
    if record is not None:
        _check_set(record, depth=depth, variant=asked, include_top=include_top, classes=classes)
        file = obtain(record, include_top=include_top)
        read = _read(file.path, record)
        return replace(read, name=record.name, sha256=file.sha256, notes=(*read.notes, *file.notes), told=False)
    path = _existing(weights)
    found = digests(path)
    known = recognise(found)
    if known is None:
        return replace(_read(path, None, asked), sha256=found.sha256)
    record = known[0]
    if asked not in {None, record.variant}:
        raise WeightFileError(_other_variant(str(path), record.variant, str(asked)))
    note = f"The file is that of the weight set {record.name!r}."
    read = _read(path, record)
    return replace(read, sha256=found.sha256, notes=(note, *read.notes))


def _read(path: Path, record: WeightSet | None, asked: Variant | None = None) -> FoundWeights:
    """Read a file under Keras' names; of a known set, the record knows better than the file what it is."""
    with opened(path) as contents:
        try:
            identity = identify(contents)
            identity = replace(identity, variant=record.variant) if record else identity.for_variant(asked)
            preprocessing, said = unfold_preprocessing(contents)  # in a set of the user's own, too
            preprocessing = record.preprocessing if record else preprocessing
            translated = to_keras(contents, identity)
            variant = identity.variant or asked or variant_of(translated)[1]
            weights = translated.load()
        except WeightFileError as error:
            raise WeightFileError(f"weight file {path} ({contents.format}): {error}") from None
    return FoundWeights(
        str(path),
        variant,
        weights,
        preprocessing or identity.preprocessing,
        notes=(*said, *identity.notes),
        identity=identity.sentence(),
        told=True,
    )


def _existing(weights: str | Path) -> Path:
    path = Path(weights).expanduser()
    if path.exists() or path.with_name(f"{path.name}.index").is_file():  # of a checkpoint, users give the prefix
        return path
    names = list(known_sets())
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"weights {weights}: there is no such file or folder, and no weight set of that name")
    raise InputError(
        f"weights must be one of {', '.join(names)}, a file or folder, or None; {str(weights)!r} is neither"
        f"{nearest(str(weights), names)}"
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
