"""`greffon layers`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from greffon.cli.output import Json, print_json, show
from greffon.errors import InputError

if TYPE_CHECKING:
    from greffon.backbone.freeze import FreezeTable


def layers(
    thing: Annotated[str, Parameter(help="a weight set's name, a run, a .keras file, or another weight file")],
    /,
    *,
    unfreeze: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="show what these freeze rules would do: all, a number of layers, a block, a group, a glob; "
            "repeat it or put commas for an ordered list",
        ),
    ] = None,
    batch_norm: Annotated[
        Literal["frozen", "train"], Parameter(help="BatchNorm under --unfreeze: stored statistics, or the batch's")
    ] = "frozen",
    every: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False, help="one line per layer, frozen ones too")
    ] = False,
    json: Json = False,
) -> None:
    """Show a network's layers and which of them train.

    Example: greffon layers thin --unfreeze 10
    """
    from greffon.cli.flags import split_rules

    rules = None if unfreeze is None else split_rules(unfreeze)
    table = _table(thing, rules, batch_norm)
    if json:
        print_json(table.to_dict())
    else:
        table = table.full() if every else table
        # A pipe has no width to fit into, and plain lines are what `grep` and `less` like.
        show(table if sys.stdout.isatty() else str(table))


def _table(thing: str, rules: tuple[str | int, ...] | None, batch_norm: str) -> "FreezeTable":
    model = _model(thing)
    from greffon.backbone.freeze import freeze
    from greffon.backbone.freeze import layers as layers_of

    return layers_of(model) if rules is None else freeze(model, rules, batch_norm=batch_norm)


def _model(thing: str) -> Any:
    from greffon.recipe import nearest
    from greffon.weights.sets import find_set, known_sets

    record = find_set(thing)
    if record is not None:
        from greffon.backbone.resnet import build_resnet

        # The layers are the variant's: no weight file has to be there to show them.
        return build_resnet(record.depth, None, variant=record.variant, name=thing)
    path = Path(thing)
    if not path.exists():
        raise InputError(
            f"expected a weight set ({', '.join(known_sets())}), a run, a .keras file or a weight file. "
            f"Got {thing!r}, which is none and no file{nearest(thing, list(known_sets()))}"
        )
    if path.is_dir() or path.suffix == ".keras":
        return _load(path)
    from greffon.backbone.resnet import resnet50

    return resnet50(weights=path, name=path.name.partition(".")[0])


def _load(path: Path) -> Any:
    if path.is_dir():
        from greffon.bundle.read import read_bundle

        return read_bundle(path).model()
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be opened by Keras: {error}") from error
