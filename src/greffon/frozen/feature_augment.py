"""Augmentation behind the trunk: pooled activations changed at random while the head trains.

After FroFA (Bär et al., CVPR 2024): activations are taken for pixels, scaled to 0..1, changed one by one, and scaled
back. Costs nothing beside the trunk, and no pass of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.recipe import Recipe


class FeatureAugment(keras.layers.Layer):
    """Changes pooled activations in training; in inference it gives what it gets.

    Each number is drawn anew for each picture, channel and step. Brightness comes first: what a picture's activations
    span is taken for the range from black to white, every channel is moved by at most `brightness` times that, and
    what leaves the range is clipped. Noise is normal, with a standard deviation of `noise` times that of the
    picture's own activations over its channels, and is not clipped. Nothing looks across the batch.

    Args:
        noise: at least 0; 0.1 is a tenth of the standard deviation.
        brightness: 0 to 1.
        seed: gives the same numbers in the same steps again, as long as XLA is on both times or off both times.

    Call arguments:
        inputs: float (batch, channels), or a list with such tensors.
        training: whether to change them.

    Example:
        >>> import numpy as np
        >>> from greffon.frozen.feature_augment import FeatureAugment
        >>> x = np.ones((2, 3), "float32") * [1, 2, 3]
        >>> augment = FeatureAugment(noise=0.0, brightness=0.5, seed=0)
        >>> y = np.asarray(augment(x, training=True))
        >>> bool(y.min() >= 1 and y.max() <= 3 and (y != x).any()), bool((np.asarray(augment(x)) == x).all())
        (True, True)
    """

    def __init__(self, noise: float = 0.0, brightness: float = 0.0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        if noise < 0 or not 0 <= brightness <= 1:
            raise InputError(
                f"noise must be at least 0 and brightness from 0 to 1, got noise={noise!r}, brightness={brightness!r}"
            )
        self.noise, self.brightness = float(noise), float(brightness)
        self.generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Change every tensor in `inputs` where `training` is true."""
        return keras.tree.map_structure(self._changed, inputs) if training else inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape that comes in."""
        return input_shape

    def _changed(self, x: Any) -> Any:
        if len(x.shape) != 2:
            raise InputError(f"pooled activations have the shape (batch, channels), got {tuple(x.shape)}")
        noise = self.noise * ops.std(x, axis=-1, keepdims=True) if self.noise else None
        if self.brightness:
            black, white = ops.min(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)
            moved = keras.random.uniform(
                ops.shape(x), -self.brightness, self.brightness, dtype=x.dtype, seed=self.generator
            )
            x = ops.clip(x + moved * (white - black), black, white)
        if noise is not None:
            x = x + noise * keras.random.normal(ops.shape(x), dtype=x.dtype, seed=self.generator)
        return x


def augments_features(recipe: Recipe) -> bool:
    """Whether a recipe asks for changes behind the trunk."""
    return recipe.feature_noise > 0 or recipe.feature_brightness > 0


def is_pooled(shapes: Sequence[tuple[int | None, ...]]) -> bool:
    """Whether what passes the cut is one vector per picture."""
    return [len(shape) for shape in shapes] == [1]


def check_pooled(recipe: Recipe, shapes: Sequence[tuple[int | None, ...]], *, stage: str, where: str) -> None:
    """Refuse a recipe that changes activations which are not pooled.

    Args:
        recipe: asks for such changes, or not.
        shapes: of what passes the cut for one picture, per tensor.
        stage: name of the stage.
        where: the layer behind which it is cut.

    Raises:
        InputError: it asks for changes, and there is more than one tensor or one that is no vector.

    Example:
        >>> from greffon.frozen.feature_augment import check_pooled
        >>> from greffon.recipe import Recipe
        >>> check_pooled(Recipe(feature_noise=0.1), [(1024,)], stage="head", where="head_pool")
        >>> check_pooled(Recipe(), [(7, 7, 1024)], stage="block", where="conv5_block2_out")
    """
    if not augments_features(recipe) or is_pooled(shapes):
        return
    asked = [
        f"{name} {value:g}"
        for name, value in (
            ("feature_noise", recipe.feature_noise),
            ("feature_brightness", recipe.feature_brightness),
        )
        if value
    ]
    got = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
    raise InputError(
        f"{' and '.join(asked)}: expected pooled activations, one number per channel, but stage {stage!r} trains from "
        f"{where or 'the picture'} on ({got} numbers per picture). Train the head alone (--unfreeze none), or take "
        "--views, which works at any depth"
    )
