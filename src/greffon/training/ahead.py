"""What no pictures could be trained on with, refused before they are read: that, and the frozen part, take long.

What depends on the recipe and the weights alone is tried on the network with a head of the same kind for two classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.backbone.blocks import EACH_BLOCK
from greffon.backbone.clone import Copier
from greffon.backbone.freeze import freeze, set_trainable_state, trainable_state
from greffon.backbone.head import grow, pool_layers
from greffon.frozen.cut import find_cut
from greffon.frozen.feature_augment import augments_features, check_pooled, is_pooled
from greffon.training.adapt_norms import check_adaptable
from greffon.training.gradual import gradual_stages

if TYPE_CHECKING:
    import keras

    from greffon.frozen.cut import Cut
    from greffon.recipe import Recipe


def refuse_early(backbone: keras.Model, recipe: Recipe) -> None:
    """Refuse freeze rules, a pooling or statistics that this network has no place for.

    Args:
        backbone: with its weights; as before afterwards.
        recipe: of the training. Rules may name the layers of a head that is the user's own: it is not looked into.

    Raises:
        InputError: something in the recipe does not go with the weights; a `FreezeError` where it is a freeze rule.

    Example:
        >>> import greffon
        >>> from greffon.backbone.resnet import resnet
        >>> from greffon.errors import FreezeError
        >>> from greffon.training.ahead import refuse_early
        >>> recipe = greffon.Recipe(stages=[greffon.Stage(unfreeze="conv9")])
        >>> try:
        ...     refuse_early(resnet((1, 1, 1, 1), input_shape=(32, 32, 3)), recipe)
        ... except FreezeError as error:
        ...     print(str(error).partition(" (")[0])
        freeze rule 'conv9' matches no layer
    """
    features = backbone.output
    if recipe.norm_statistics == "adapted":
        check_adaptable(backbone)
    if recipe.head.pool not in EACH_BLOCK and recipe.head.pool != "auto":
        pool_layers(recipe.head.pool, features.shape[1:3])
    if recipe.head.layer is None:
        _try_stages(backbone, recipe)


def _try_stages(backbone: keras.Model, recipe: Recipe) -> None:
    import keras

    # On the backbone's own layers: there is nothing to copy, and averages tell where it ends.
    outputs = grow(backbone.output, 2, recipe.head.replace(pool="avg", channels=None), Copier(taken=set()))
    model = keras.Model(backbone.input, outputs)
    before = trainable_state(model)
    try:
        cuts = [
            (stage.name, _cut(model, stage.unfreeze, stage.batch_norm))
            for stage in gradual_stages(recipe, model).stages
        ]
    finally:
        set_trainable_state(model, before)
    if augments_features(recipe) and not any(is_pooled(cut.shapes) for _, cut in cuts):
        name, first = cuts[0]
        check_pooled(recipe, first.shapes, stage=name, where=first.where)


def _cut(model: keras.Model, unfreeze: Any, batch_norm: str) -> Cut:
    freeze(model, unfreeze, batch_norm=batch_norm)
    cut = find_cut(model)
    return cut if cut.gains else cut.without_trunk()
