"""The backbone's BatchNormalization with statistics of the user's pictures, before anything is trained on them.

AdaBN (Li et al. 2017, "Revisiting Batch Normalization For Practical Domain Adaptation"): mean and variance come from
the new pictures, all weights stay. Each normalisation sees what those before it make of a batch with that batch's own
statistics; over the batches, means are averaged, and variances with the spread of the means added. That is one pass, in
Keras itself and in nobody's store; trunks are computed afterwards, with the new statistics, under keys of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.freeze import freeze, set_trainable_state, trainable_state
from greffon.backbone.parts import batch_norms, split_parts
from greffon.errors import InputError

if TYPE_CHECKING:
    from greffon.training.samples import Samples

    Array = np.ndarray[Any, Any]

MOST = 1024
"""Pictures that are looked at: more of them change the statistics by less than chance does."""

_BATCH = 64


def adapt_norms(model: keras.Model, samples: Samples, *, seed: int) -> int:
    """Give every BatchNormalization of the backbone the statistics of the pictures to learn from.

    Args:
        model: grafted; its trainable flags are as before afterwards.
        samples: at most `MOST` of its pictures to learn from are looked at, as they are (view 0).
        seed: which ones, and in what batches.

    Returns:
        How many pictures were looked at.

    Raises:
        InputError: the backbone has no BatchNormalization.
    """
    parts = split_parts(model)
    norms = [norm for layer in parts.backbone for norm in batch_norms(layer)]
    if not norms:
        raise InputError("norm_statistics 'adapted': this backbone has no BatchNormalization; leave it at 'pretrained'")
    rows = np.random.default_rng(seed).permutation(samples.train)[:MOST]
    batches = np.array_split(rows, -(-len(rows) // _BATCH))
    backbone = keras.Model(model.inputs, parts.backbone[-1].output)
    before, momenta = trainable_state(model), [norm.momentum for norm in norms]
    try:
        freeze(model, "all", batch_norm="train")
        for norm in norms:
            norm.momentum = 0.0  # what is stored after a batch is the batch's own
        seen = [_of_batch(backbone, norms, samples.load(batch)[0]) for batch in batches]
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        set_trainable_state(model, before)
    shares = np.array([len(batch) for batch in batches]) / len(rows)
    for norm, batches_of_norm in zip(norms, zip(*seen, strict=True), strict=True):
        means, variances = (np.array(values, np.float64) for values in zip(*batches_of_norm, strict=True))
        mean = shares @ means
        norm.moving_mean.assign(mean.astype(np.float32))
        norm.moving_variance.assign((shares @ (variances + (means - mean) ** 2)).astype(np.float32))
    return len(rows)


def _of_batch(backbone: keras.Model, norms: list[Any], pixels: Array) -> list[tuple[Array, Array]]:
    """Mean and variance that each normalisation sees of a batch."""
    backbone(keras.ops.convert_to_tensor(pixels.astype(np.float32)), training=True)
    return [
        (
            np.array(keras.ops.convert_to_numpy(norm.moving_mean)),
            np.array(keras.ops.convert_to_numpy(norm.moving_variance)),
        )
        for norm in norms
    ]
