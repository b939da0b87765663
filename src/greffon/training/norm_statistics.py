"""Mean and variance of what reaches each BatchNormalization, over pictures: one pass of a network as it trains.

Each normalisation sees what those before it make of a batch with that batch's own statistics. Over the batches, means
are averaged, and variances with the spread of the means added.

Two things ask for it: statistics of the user's pictures before a training (`adapt_norms`), and weights that are a mean
of others. A mean of weights gives other activations than any of the weights it is of, so its statistics are not the
mean of theirs: stochastic weight averaging takes them anew (Izmailov et al. 2018, "Averaging Weights Leads to Wider
Optima and Better Generalization", section 3.2), and so do `ema` and `soup` here. Only where BatchNormalization is
unfrozen with `batch_norm: train`: frozen, its statistics are part of the network and stay what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.parts import batch_norms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.frozen.activations import Activations
    from greffon.training.samples import PictureRows
    from greffon.training.stage_tail import StageTail

    Array = np.ndarray[Any, Any]

MOST = 1024
"""Pictures that are looked at: more of them change the statistics by less than chance does."""

_BATCH = 64


def some_rows(rows: Array, *, seed: int) -> Array:
    """At most `MOST` of some rows, in an order that the seed decides.

    Example:
        >>> import numpy as np
        >>> from greffon.training.norm_statistics import some_rows
        >>> len(some_rows(np.arange(2000), seed=0)), sorted(some_rows(np.arange(3), seed=0).tolist())
        (1024, [0, 1, 2])
    """
    return np.random.default_rng(seed).permutation(rows)[:MOST]


def measure_norms(
    norms: Sequence[Any], rows: Array, forward: Callable[[Array], Any]
) -> list[tuple[Array, Array]]:  # fmt: skip
    """Mean and variance of what reaches each normalisation. They are left with those of the last batch.

    Args:
        norms: trainable, so that they compute with the statistics of the batch.
        rows: of the pictures.
        forward: runs the network on some of them as in training.

    Returns:
        For each normalisation: float32 (channels,), twice.
    """
    batches = np.array_split(rows, -(-len(rows) // _BATCH))
    momenta = [norm.momentum for norm in norms]
    seen: list[list[tuple[Array, Array]]] = []
    try:
        for norm in norms:
            norm.momentum = 0.0  # what is stored after a batch is the batch's own
        for batch in batches:
            forward(batch)
            seen.append([(_value(norm.moving_mean), _value(norm.moving_variance)) for norm in norms])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    shares = np.array([len(batch) for batch in batches]) / len(rows)
    return [_joined(shares, of_norm) for of_norm in zip(*seen, strict=True)]


def _joined(shares: Array, of_batches: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    means, variances = (np.array(values, np.float64) for values in zip(*of_batches, strict=True))
    mean = shares @ means
    return mean.astype(np.float32), (shares @ (variances + (means - mean) ** 2)).astype(np.float32)


class MovingStatistics:
    """Statistics of the BatchNormalization that a stage moves, of its pictures to learn from.

    Args:
        tail: of the stage.
        norms: those of its layers that compute with the statistics of a batch while it trains.
        source: gives what passes the cut, by row.
        rows: of the pictures, as they are (view 0).
    """

    def __init__(self, tail: StageTail, norms: Sequence[Any], source: Activations | PictureRows, rows: Array) -> None:
        self._tail, self._norms, self._source, self._rows = tail, list(norms), source, rows

    @classmethod
    def of(cls, tail: StageTail, source: Any, rows: Array, *, seed: int) -> MovingStatistics | None:
        """None where the stage moves no statistics."""
        norms = [norm for layer in tail.graph.layers for norm in batch_norms(layer) if norm.trainable]
        return cls(tail, norms, source, some_rows(rows, seed=seed)) if norms else None

    def values(self) -> list[Array]:
        """What they are now; for `restore`."""
        return [_value(variable) for variable in self._variables]

    def restore(self, values: Sequence[Array]) -> None:
        """Be as it was when `values` was called."""
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)

    def renew(self) -> None:
        """Give each normalisation the statistics that the weights as they are now make: one pass over the activations.

        Nothing else moves: no other state of a layer, no generator of dropout.
        """
        ours = {id(variable) for variable in self._variables}
        others = [variable for variable in self._tail.non_trainable_variables if id(variable) not in ours]
        before = [_value(variable) for variable in others]
        found = measure_norms(self._norms, self._rows, self._forward)
        for variable, value in zip(others, before, strict=True):
            variable.assign(value)
        self.restore([value for pair in found for value in pair])

    @property
    def _variables(self) -> list[Any]:
        return [variable for norm in self._norms for variable in (norm.moving_mean, norm.moving_variance)]

    def _forward(self, rows: Array) -> None:
        graph = self._tail.graph
        tensors = [
            keras.ops.cast(keras.ops.convert_to_tensor(array), graph.specs[tensor].dtype)
            for tensor, array in zip(graph.inputs, self._source.gather(rows), strict=True)
        ]
        graph.run(tensors, training=True)


def _value(variable: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(variable))
