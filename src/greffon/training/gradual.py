"""Gradual unfreezing: one stage that unfreezes much becomes several, each of which unfreezes one part more.

ULMFiT (Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification"): first the head, then the
last part of the network with it, and so on downwards. Each becomes a stage with a patience of its own, and what the one
before ended with counts as its epoch 0 (`carry_best`): so the best is never lost on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greffon.backbone.freeze import freeze, set_trainable_state, trainable_state
from greffon.backbone.parts import block_of, group_of, learnable, split_parts

if TYPE_CHECKING:
    import keras

    from greffon.recipe import FreezeRule, Recipe, Stage


def gradual_stages(recipe: Recipe, model: keras.Model) -> Recipe:
    """The recipe with every gradual stage replaced by its steps; the same recipe where there is none.

    Args:
        recipe: its stages say `gradual`.
        model: grafted; its trainable flags are as before afterwards.

    Raises:
        FreezeError: a stage's rule matches nothing.

    Example:
        >>> import greffon
        >>> from greffon.backbone.resnet import resnet
        >>> from greffon.training.gradual import gradual_stages
        >>> model = greffon.graft(resnet((1, 1, 1, 2), input_shape=(32, 32, 3)), 4, preprocessing="caffe")
        >>> stage = greffon.Stage(name="deep", unfreeze="conv5", gradual="block")
        >>> [(it.name, it.unfreeze) for it in gradual_stages(greffon.Recipe(stages=[stage]), model).stages]
        [('deep-head', 'none'), ('deep-conv5_block2', ('conv5', '!conv5_block1')), ('deep', 'conv5')]
    """
    stages: list[Stage] = []
    for stage in recipe.stages:
        stages += [stage] if stage.gradual == "no" else _steps(stage, model, is_first=not stages)
    return recipe if len(stages) == len(recipe.stages) else recipe.replace(stages=tuple(stages))


def _steps(stage: Stage, model: keras.Model, *, is_first: bool) -> list[Stage]:
    """The stages that a gradual one becomes; the last one has its name and its rules."""
    before = trainable_state(model)
    try:
        freeze(model, stage.unfreeze, batch_norm=stage.batch_norm)
        parts = _unfrozen_parts(stage, model)
    finally:
        set_trainable_state(model, before)
    given = stage.unfreeze if isinstance(stage.unfreeze, tuple) else (stage.unfreeze,)
    one = stage.replace(gradual="no")
    steps = []
    if is_first and parts:
        steps.append(one.replace(name=f"{stage.name}-head", unfreeze="none"))
    for number in range(1, len(parts)):
        rules: tuple[FreezeRule, ...] = (*given, *(f"!{part}" for part in parts[number:]))
        steps.append(one.replace(name=f"{stage.name}-{parts[number - 1]}", unfreeze=rules))
    steps.append(one)
    return [step if number == 0 and is_first else step.replace(carry_best=True) for number, step in enumerate(steps)]


def _unfrozen_parts(stage: Stage, model: keras.Model) -> list[str]:
    """Groups or blocks of the backbone that train, from the last one downwards."""
    name_of = group_of if stage.gradual == "group" else block_of
    training = [
        layer.name for layer in split_parts(model).backbone if any(variable.trainable for variable in learnable(layer))
    ]
    return list(dict.fromkeys(filter(None, map(name_of, reversed(training)))))
