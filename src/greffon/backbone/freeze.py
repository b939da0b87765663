"""Setting and reading what trains: the one place where Keras' trainable flags are changed.

What Keras 3.15.1 does, measured, and why this is more than setting `layer.trainable`:

- `model.trainable_variables` asks the model's own flag and each variable's flag, never the flags of the layers in
  between. So `bn.trainable = False` (stored statistics) goes together with `bn.gamma.trainable = True`: `fit` moves
  gamma and leaves the statistics bit for bit, although `bn.trainable_variables` is empty.
- `layer.trainable = value` sets the flags of all its variables; on the TensorFlow backend not if the value is the
  one that it has, so that flags of single variables may survive.
- A `.keras` file keeps the flags of layers and not those of variables: after `load_model`, gamma and beta of a
  BatchNormalization with stored statistics are frozen. `trainable_state` and `set_trainable_state` carry them over
  a save, `reapply` sets them by the rules. Load with `compile=False` and compile after that: an optimizer that is
  restored before them is built for fewer variables, and Keras drops its state with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.backbone.parts import (
    batch_norms,
    containers,
    learnable,
    leaves,
    split_parts,
    sublayers,
    variable_names,
)
from greffon.backbone.rules import FreezeRules, resolve
from greffon.backbone.table import FreezeTable, make_table
from greffon.errors import FreezeError, InputError
from greffon.recipe import Recipe
from greffon.weights.sets import find_set, known_sets

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

    from greffon.recipe import Unfreeze

__all__ = [
    "FreezeRules",
    "FreezeTable",
    "compiled_state_changed",
    "freeze",
    "layers",
    "reapply",
    "set_trainable_state",
    "trainable_state",
]


def freeze(model: keras.Model, unfreeze: Unfreeze = "none", *, batch_norm: str = "frozen") -> FreezeTable:
    """Freeze the backbone of a model but for what the rules name; the head always trains.

    Compile the model after this, not before.

    Args:
        model: grafted, a bare backbone, or anybody's; nested models are looked into.
        unfreeze: what trains of the backbone: "none" or 0, "all", the last N layers (without pooling and head), a
            block "conv5_block3", a group "conv5" (or "stem"), the beginning of names up to a "_", a glob
            "conv5_*_bn", "re:..." for whole names, an index range "120:175" into the backbone (as `layers` numbers
            it), or several of these in order: "!rule" freezes again, and the last one that matches decides. The head
            is frozen by a "!rule" that matches only layers of the head, such as "!head_*".
        batch_norm: of the backbone. "frozen": stored statistics always; gamma and beta train where a rule says so.
            "train": where a rule says so, statistics of each batch while training, which move the stored ones.

    Returns:
        The table of all layers. The model keeps the rules as `greffon_freeze`.

    Raises:
        FreezeError: a rule matches nothing, or nothing would train. The model is then as it was.

    Example:
        >>> import greffon
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(64, 64, 3)), classes=10)
        >>> greffon.freeze(model, "conv5_block3").trainable_count
        4486154
    """
    rules = FreezeRules.of(unfreeze, batch_norm)
    parts = split_parts(model)
    trains = resolve(parts, rules)
    before = trainable_state(model)
    _set_flags(model, trains)
    if rules.batch_norm == "frozen":
        for layer in parts.backbone:
            for norm in batch_norms(layer) if trains[id(layer)] else ():
                _use_stored_statistics(norm)
    if not model.trainable_variables:
        set_trainable_state(model, before)
        raise FreezeError(_nothing_trains(rules, has_head=any(learnable(layer) for layer in parts.head)))
    model.greffon_freeze = rules
    _remember_compiled(model, before)
    return make_table(model, rules)


def layers(model: keras.Model | str | Path) -> FreezeTable:
    """What trains in a model as it is, layer by layer.

    Args:
        model: any Keras model, a .keras file, a run's folder (as its last stage froze it), or a weight set's name.
            A file alone knows nothing of the flags of single variables: gamma and beta that trained beside stored
            statistics show as frozen.

    Returns:
        The table of all layers, nested models unfolded.

    Raises:
        InputError: the file cannot be opened by Keras.

    Example:
        >>> import greffon
        >>> print(greffon.layers(greffon.resnet50(weights=None, input_shape=(64, 64, 3))).describe())
        trains: the whole backbone, 23,534,592 of 23,534,592 backbone parameters
    """
    rules = None
    if isinstance(model, str | Path):
        model, rules = _named(model)
    return make_table(model, rules)


def reapply(model: keras.Model, rules: FreezeRules | None = None) -> FreezeTable:
    """Freeze a model again as it was, after it was loaded or its flags were changed.

    Args:
        model: the model.
        rules: None: those of the last `freeze` on this model.

    Raises:
        FreezeError: no rules are given or known, or they do not fit the model.
    """
    rules = rules or getattr(model, "greffon_freeze", None)
    if rules is None:
        raise FreezeError(
            f"model {model.name!r} knows no freeze rules: give them, or use greffon.freeze(model, ...). A .keras file "
            "does not keep them"
        )
    return freeze(model, rules.unfreeze, batch_norm=rules.batch_norm)


def trainable_state(model: keras.Model) -> dict[str, dict[str, bool]]:
    """Every trainable flag of a model, for a checkpoint; `set_trainable_state` sets them again.

    Returns:
        {"layers": flag by path, "variables": flag by path}, as JSON takes it; the model itself is the layer "".
    """
    flags = {"": bool(model.trainable)}
    flags.update((leaf.path, bool(leaf.layer.trainable)) for leaf in [*containers(model), *leaves(model)])
    for leaf in leaves(model):
        inner = sublayers(leaf.layer)[1:]
        flags.update((f"{leaf.path}/{number}", bool(layer.trainable)) for number, layer in enumerate(inner))
    variables = {name: bool(variable.trainable) for name, variable in variable_names(model)}
    return {"layers": flags, "variables": variables}


def set_trainable_state(model: keras.Model, state: Mapping[str, Mapping[str, bool]]) -> None:
    """Set the flags that `trainable_state` gave, on the same model or a copy of it.

    Raises:
        FreezeError: they are those of another model.
    """
    present = trainable_state(model)
    for kind, names in present.items():
        differ = sorted(set(names) ^ set(state.get(kind, {})))
        if differ:
            raise FreezeError(
                f"the trainable flags are those of another model than {model.name!r}: {len(differ)} of its {kind} "
                f"differ, such as {differ[0]!r}"
            )
    flags = state["layers"]
    model.trainable = flags[""]
    for leaf in [*containers(model), *leaves(model)]:
        _set_trainable(leaf.layer, flags[leaf.path])
    for leaf in leaves(model):
        for number, layer in enumerate(sublayers(leaf.layer)[1:]):
            _set_trainable(layer, flags[f"{leaf.path}/{number}"])
    for name, variable in variable_names(model):
        variable.trainable = state["variables"][name]


def compiled_state_changed(model: keras.Model) -> list[str]:
    """What trains now and did not when the model was compiled, or the reverse.

    Keras 3.15.1 has a warning for this, which stands behind a `raise` and cannot appear.

    Returns:
        Names of layers and variables; none if `fit` may go on, or the model is not compiled.
    """
    if not getattr(model, "compiled", False):
        return []
    changed: list[str] = []
    compiled = getattr(model, "_compiled_trainable_state", None) or {}  # since Keras 3.15
    changed += [layer.name for layer, flag in compiled.items() if bool(layer.trainable) != bool(flag)]
    held = optimizer_variables(model.optimizer)
    if held is not None:
        now = {id(variable): variable for variable in model.trainable_variables}
        then = {id(variable): variable for variable in held}
        changed += [(now | then)[key].path for key in now.keys() ^ then.keys()]
    note = getattr(model, "greffon_compiled_flags", None)
    if note is not None and note.compiled is getattr(model, "_compile_config", None):
        changed += _differences(note.state, trainable_state(model))
    return list(dict.fromkeys(changed))


def optimizer_variables(optimizer: Any) -> list[Any] | None:
    """The model's variables that an optimizer was built for; None if it is not built yet."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # the one inside a LossScaleOptimizer
    if optimizer is None or not optimizer.built:
        return None
    held: list[Any] | None = getattr(optimizer, "_trainable_variables", None)
    return held


@dataclass(frozen=True)
class _CompiledFlags:
    """The flags that a model was compiled with, taken before `freeze` first changed them after that."""

    compiled: Any
    state: dict[str, dict[str, bool]]


def _remember_compiled(model: Any, before: dict[str, dict[str, bool]]) -> None:
    """Keep the flags of before; what Keras keeps knows nothing of single variables, such as gamma."""
    compiled = getattr(model, "_compile_config", None) if getattr(model, "compiled", False) else None
    note = getattr(model, "greffon_compiled_flags", None)
    if compiled is not None and (note is None or note.compiled is not compiled):
        model.greffon_compiled_flags = _CompiledFlags(compiled, before)


def _differences(then: Mapping[str, Mapping[str, bool]], now: Mapping[str, Mapping[str, bool]]) -> list[str]:
    return [name for kind in now for name, flag in now[kind].items() if then[kind].get(name) != flag]


def _set_flags(model: Any, trains: Mapping[int, bool]) -> None:
    """Flags of every layer and its variables; a nested model trains if one of its layers does."""
    model.trainable = True
    for container in containers(model):
        inner = [trains[id(leaf.layer)] for leaf in leaves(container.layer)]
        _set_trainable(container.layer, any(inner))
    for leaf in leaves(model):
        _set_trainable(leaf.layer, trains[id(leaf.layer)])


def _set_trainable(layer: Any, value: bool) -> None:
    """Set a layer's flag and those of all its variables, whatever they were."""
    layer.trainable = not value  # on TensorFlow, setting the value that it has would leave the variables alone
    layer.trainable = value


def _use_stored_statistics(norm: Any) -> None:
    _set_trainable(norm, False)
    for variable in learnable(norm):
        variable.trainable = True


def _nothing_trains(rules: FreezeRules, *, has_head: bool) -> str:
    asked = ", ".join(repr(rule) for rule in rules.unfreeze)
    if has_head:
        return f"with unfreeze {asked} nothing is left to train: take out the '!' rule that freezes the head"
    return (
        f"with unfreeze {asked} nothing is left to train: this model has no head with weights. Put one on with "
        "greffon.graft(backbone, classes), or unfreeze a part (unfreeze=10, --unfreeze 10). To freeze a bare backbone "
        "for a model of your own, set backbone.trainable = False"
    )


def _named(name: str | Path) -> tuple[Any, FreezeRules | None]:
    """The model of a weight set, a run or a file, and the rules that it was last trained with, where known."""
    import keras

    path = Path(name)
    record = None if path.exists() else find_set(str(name))
    if record is not None:
        from greffon.backbone.resnet import build_resnet

        return build_resnet(record.depth, None, variant=record.variant), None
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"expected a .keras file, a run's folder or a weight set ({', '.join(known_sets())}), got {str(name)!r}"
        )
    try:
        model = keras.saving.load_model(file, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} cannot be opened as a Keras model: {error}") from error
    recipe = path / "recipe.yaml"
    if not recipe.is_file():
        return model, None
    stage = Recipe.from_yaml(recipe).stages[-1]
    reapply(model, FreezeRules.of(stage.unfreeze, stage.batch_norm))
    return model, model.greffon_freeze
