"""The backbone's BatchNormalization with statistics of the user's pictures, before anything is trained on them.

AdaBN (Li et al. 2017, "Revisiting Batch Normalization For Practical Domain Adaptation"): mean and variance come from
the new pictures, all weights stay. That is one pass, in Keras itself and in nobody's store; trunks are computed
afterwards, with the new statistics, under keys of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.freeze import freeze, set_trainable_state, trainable_state
from greffon.backbone.parts import batch_norms, split_parts
from greffon.errors import InputError
from greffon.training.norm_statistics import measure_norms, some_rows
from greffon.weights.statistics import norms_of, without_statistics

if TYPE_CHECKING:
    from greffon.training.samples import Samples

    Array = np.ndarray[Any, Any]


def adapt_norms(model: keras.Model, samples: Samples, *, seed: int) -> int:
    """Give every BatchNormalization of the backbone the statistics of the pictures to learn from.

    Args:
        model: grafted; its trainable flags are as before afterwards.
        samples: at most 1,024 of its pictures to learn from are looked at, as they are (view 0).
        seed: which ones, and in what batches.

    Returns:
        How many pictures were looked at.

    Raises:
        InputError: the backbone has no BatchNormalization, or one that was folded into the convolutions.
    """
    parts = split_parts(model)
    backbone = keras.Model(model.inputs, parts.backbone[-1].output)
    check_adaptable(backbone)
    norms = [norm for layer in parts.backbone for norm in batch_norms(layer)]
    rows = some_rows(samples.train, seed=seed)

    def forward(batch: Array) -> None:
        pixels = samples.load(batch)[0].astype(np.float32)
        backbone(keras.ops.convert_to_tensor(pixels), training=True)

    before = trainable_state(model)
    try:
        freeze(model, "all", batch_norm="train")
        found = measure_norms(norms, rows, forward)
    finally:
        set_trainable_state(model, before)
    for norm, (mean, variance) in zip(norms, found, strict=True):
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return len(rows)


def check_adaptable(backbone: keras.Model) -> None:
    """Refuse a network whose BatchNormalization cannot have other statistics.

    Raises:
        InputError: it has none, or one that was folded into the convolutions.
    """
    if not any(batch_norms(layer) for layer in backbone.layers):
        raise InputError(
            "norm_statistics 'adapted' (--norm-statistics): this backbone has no BatchNormalization; leave it at "
            "'pretrained'"
        )
    if without_statistics(norms_of(backbone), backbone) == "folded":
        raise InputError(
            "norm_statistics 'adapted' (--norm-statistics): BatchNorm of these weights is the identity: it was "
            "folded into the convolutions; statistics of other pictures would take away what is in them. Leave it at "
            "'pretrained', or take weights that have their own statistics (greffon weights list)"
        )
