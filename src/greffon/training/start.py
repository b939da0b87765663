"""What a training starts from: the weights that the recipe names, found before any picture is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.bundle.manifest import not_ended
from greffon.bundle.write import is_run
from greffon.errors import InputError, WeightFileError
from greffon.recipe import nearest
from greffon.training.earlier import Earlier, earlier_of
from greffon.weights.fetch import require_cached
from greffon.weights.sets import PREPROCESSINGS, Preprocessing, find_set, known_sets, usual_preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from greffon.recipe import Head, Recipe

_DEPTH = 50


@dataclass(frozen=True)
class Start:
    """Weights that are there.

    Attributes:
        weights: a weight set's name or a file.
        run: the run whose model the file is; None for other weights.
        earlier: pictures that they know already, where they come from a run.
    """

    weights: str
    run: Path | None = None
    earlier: Earlier = field(default_factory=Earlier, repr=False)


def find_start(weights: str) -> Start:
    """Find what `--weights` names: a weight set, a file or a run.

    Raises:
        InputError: the set's file is not on this machine, there is no such set, file or run, or the run is damaged.
    """
    record = find_set(weights)
    if record is not None:
        if record.depth != _DEPTH:
            raise InputError(
                f"the weight set {weights!r} is for a ResNet-{record.depth}: a training starts from a ResNet-{_DEPTH}"
            )
        require_cached(weights)
        return Start(weights)
    path = Path(weights).expanduser()
    if is_run(path):
        return Start(str(path / "model.keras"), run=path, earlier=earlier_of(path))
    if said := not_ended(path):
        raise InputError(f"weights {path}: {said}")
    if not path.exists():
        names = list(known_sets())
        raise InputError(
            f"weights (--weights, or weights=) must be one of {', '.join(names)}, a weight file or a run; {weights!r} "
            f"is none of them{nearest(weights, names)}"
        )
    _look_into(path)
    return Start(str(path), earlier=earlier_of(path))


def _look_into(path: Path) -> None:
    """Names and shapes of a weight file, before any picture is read for a network that it cannot fill."""
    from greffon.weights.identify import identify
    from greffon.weights.read import opened

    try:
        with opened(path) as contents:
            refusal = identify(contents).refusal
    except WeightFileError as error:
        if path.is_dir():
            raise InputError(f"weights {path}: the folder is no run of greffon train; {error}") from None
        raise
    if refusal:
        raise WeightFileError(f"weight file {path}: {refusal}")


def build_model(
    start: Start, recipe: Recipe, class_names: Sequence[str]
) -> tuple[keras.Model, Preprocessing, list[str]]:
    """Build the backbone, restore its weights, and graft the recipe's head onto it.

    Returns:
        The model; the record of the preprocessing that it does; notes for the user.
    """
    backbone, record, notes = build_backbone(start, recipe)
    model, more = graft_head(backbone, record, start, recipe.head, class_names)
    return model, record, notes + more


def build_backbone(start: Start, recipe: Recipe) -> tuple[keras.Model, Preprocessing, list[str]]:
    """Build the backbone and restore its weights.

    Returns:
        The backbone; the record of the preprocessing that it wants; notes for the user.
    """
    from greffon.backbone.resnet import build_resnet

    side = recipe.image_size
    told: list[str] = []
    backbone = build_resnet(_DEPTH, start.weights, input_shape=(side, side, 3), tell=told.append)
    restored = backbone.greffon_weights
    # Of a run, what becomes of its head is said later.
    notes = [] if start.run else [*told, *(f"weights: {note}" for note in restored.notes)]
    record = restored.preprocessing
    if recipe.preprocessing != "auto":
        record = PREPROCESSINGS[recipe.preprocessing]
    elif record is None:
        record = usual_preprocessing(restored.variant)
        if start.weights != "none":
            notes.append(
                f"the weight file does not say what preprocessing it was trained with; taking {record.name!r}, which "
                f"is usual for {restored.variant} (--preprocessing sets another)"
            )
    return backbone, record, notes


def graft_head(
    backbone: keras.Model, record: Preprocessing, start: Start, head: Head, class_names: Sequence[str]
) -> tuple[keras.Model, list[str]]:
    """Graft a head onto a backbone; where the pooling is still to be chosen, with the average.

    Returns:
        The model; notes for the user.
    """
    from greffon.backbone.graft import graft

    pool = "avg" if head.pool == "auto" else head.pool
    model = graft(backbone, len(class_names), head.replace(pool=pool), preprocessing=record, name="greffon")
    return model, [] if start.run is None else [_take_head(model, start.run, class_names)]


def _take_head(model: Any, run: Path, class_names: Sequence[str]) -> str:
    """Start from the head of a run as well, where it is one for the same classes."""
    from greffon.backbone.blocks import kept_channels
    from greffon.backbone.graft import split_parts
    from greffon.bundle.read import read_bundle

    bundle = read_bundle(run)
    ours = [variable for layer in split_parts(model).head for variable in layer.weights]
    theirs = [variable for layer in split_parts(bundle.model()).head for variable in layer.weights]
    if list(bundle.class_names) != list(class_names):
        return f"the backbone is that of {run}; its head is for other classes and is left out"
    alike = [(v.path, tuple(v.shape)) for v in ours] == [(v.path, tuple(v.shape)) for v in theirs]
    if not alike or kept_channels(model) != kept_channels(bundle.model()):
        return f"the backbone is that of {run}; its head is built otherwise and is left out"
    for mine, other in zip(ours, theirs, strict=True):
        mine.assign(other)
    return f"backbone and head are those of {run}"
