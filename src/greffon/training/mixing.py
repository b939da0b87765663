"""Mixup and CutMix at the cut: pictures to learn from are mixed in pairs of one batch, and their labels with them.

- mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"): a blend of two. Behind a trunk it blends
  activations and not pixels, as manifold mixup does (Verma et al. 2019). It acts on activations of any shape, pooled
  ones included. The larger share is the picture's own, which changes nothing but which of the two is called first.
- CutMix (Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers"): a box of one in the other. It
  needs places, so it does nothing where the cut is pooled. Where several tensors pass the cut, the box is one of the
  coarsest, laid over the others.

With both, each picture has one of them, by a toss of a coin. Shares, pairs and boxes are drawn for each picture anew.
Cross-entropy is linear in its labels; so weights of pictures are mixed exactly, and rows of weight 0, with which a
batch is filled up for XLA, are nobody's partner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    Shapes = Sequence[tuple[int | None, ...]]

_QUANTILES = 4096


class Mixing(keras.layers.Layer):
    """Mixes the activations of a batch in training, then its labels and weights in the same way.

    Args:
        shapes: of the activations of one picture, per tensor.
        mixup: both parameters of the Beta distribution that shares are drawn from; 0: none.
        cutmix: the same for the share of the area that stays the picture's own; 0, or nothing with places: none.
        seed: gives the same numbers in the same steps again, as long as XLA is on both times or off both times.

    Example:
        >>> import numpy as np
        >>> from greffon.training.mixing import Mixing
        >>> mixing = Mixing([(1,)], mixup=1.0, seed=0)
        >>> x = mixing.mix(np.array([[0.0], [1.0]], "float32"), None)
        >>> y, weight = mixing.labels(np.eye(2, dtype="float32"), None)
        >>> bool(np.allclose(np.asarray(y)[:, 1:], np.asarray(x))), weight
        (True, None)
    """

    def __init__(self, shapes: Shapes, *, mixup: float = 0.0, cutmix: float = 0.0, seed: int = 0) -> None:
        super().__init__(trainable=False, name="mixing")
        self.grid = grid_of(shapes)
        self.mixup, self.cutmix = mixup, cutmix if self.grid else 0.0
        self.generator = keras.random.SeedGenerator(seed)
        self._shares = {alpha: _beta_quantiles(alpha) for alpha in (self.mixup, self.cutmix) if alpha}
        self.built = True

    def mix(self, inputs: Any, weights: Any) -> Any:
        """Mix the activations of a batch; what was drawn is kept for `labels`.

        Args:
            inputs: float32 (batch, ...), or a structure of such.
            weights: float (batch,) or None: of each picture in the loss.
        """
        tensors = keras.tree.flatten(inputs)
        rows = ops.shape(tensors[0])[0]
        partner = _partners(self._uniform(rows), weights)
        own, masks = self._shares_of(rows)
        # Plain attributes: tensors of the graph that this is traced into, read again while it is.
        self.__dict__["_drawn"] = partner, own if masks is None else masks[1]
        mixed = [_blend(tensor, partner, self._own_of(tensor, own, masks)) for tensor in tensors]
        return keras.tree.pack_sequence_as(inputs, mixed)

    def labels(self, y: Any, weights: Any) -> tuple[Any, Any]:
        """Labels and weights of the batch that was mixed last: float32 (batch, classes), float32 (batch,) or None."""
        partner, own = self.__dict__["_drawn"]
        y = ops.cast(y, "float32")
        own = ops.expand_dims(own, -1)
        if weights is None:
            return y * own + ops.take(y, partner, axis=0) * (1.0 - own), None
        weight = ops.reshape(ops.cast(weights, "float32"), (-1, 1))
        mine, theirs = own * weight, (1.0 - own) * ops.take(weight, partner, axis=0)
        both = mine + theirs
        mixed = (y * mine + ops.take(y, partner, axis=0) * theirs) / ops.maximum(both, 1e-12)
        return mixed, ops.reshape(both, (-1,))

    def _uniform(self, rows: Any) -> Any:
        return keras.random.uniform((rows,), seed=self.generator)

    def _beta(self, alpha: float, rows: Any) -> Any:
        table = ops.convert_to_tensor(self._shares[alpha])
        place = ops.cast(ops.floor(self._uniform(rows) * _QUANTILES), "int32")
        return ops.take(table, ops.minimum(place, _QUANTILES - 1))

    def _shares_of(self, rows: Any) -> tuple[Any, Any]:
        """Own share of a blend; with CutMix the own places (batch, height, width) as well, and the own share there."""
        if self.mixup:
            own = self._beta(self.mixup, rows)
            own = ops.maximum(own, 1.0 - own)
        if not self.cutmix:
            return own, None
        box = self._boxes(rows)
        if not self.mixup:
            return None, (1.0 - box, 1.0 - ops.mean(box, axis=(1, 2)))
        is_cut = self._uniform(rows) < 0.5
        places = ops.where(ops.reshape(is_cut, (-1, 1, 1)), 1.0 - box, ops.reshape(own, (-1, 1, 1)))
        return own, (places, ops.mean(places, axis=(1, 2)))

    def _boxes(self, rows: Any) -> Any:
        """1 in a box and 0 elsewhere: float32 (batch, height, width)."""
        height, width = self.grid or (1, 1)
        side = ops.sqrt(1.0 - self._beta(self.cutmix, rows))

        def inside(length: int) -> Any:
            centre, places = self._uniform(rows) * length, np.arange(length, dtype=np.float32) + 0.5
            away = ops.abs(ops.expand_dims(centre, 1) - ops.convert_to_tensor(places[None, :]))
            return ops.cast(away < ops.expand_dims(side, 1) * (length / 2), "float32")

        return ops.expand_dims(inside(height), 2) * ops.expand_dims(inside(width), 1)

    def _own_of(self, tensor: Any, own: Any, masks: Any) -> Any:
        """Own share of each number of a tensor, to be broadcast."""
        rank = len(tensor.shape)
        if masks is None or rank != 4:
            share = own if masks is None else masks[1]
            return ops.reshape(share, (-1,) + (1,) * (rank - 1))
        places = masks[0]
        for axis, length in ((1, tensor.shape[1]), (2, tensor.shape[2])):
            coarse = places.shape[axis]
            places = ops.take(places, np.minimum(np.arange(length) * coarse // length, coarse - 1), axis=axis)
        return ops.expand_dims(places, -1)


def grid_of(shapes: Shapes) -> tuple[int, int] | None:
    """Height and width of the coarsest activations; None where none has more than one place each way."""
    maps = [(shape[0], shape[1]) for shape in shapes if len(shape) == 3 and None not in shape]
    grid = min(((int(h or 1), int(w or 1)) for h, w in maps), default=(1, 1))
    return grid if min(grid) > 1 else None


def _partners(order: Any, weights: Any) -> Any:
    """For each row another one at random, as far as there is one: int32 (batch,). Those of weight 0 have themselves."""
    rows = ops.shape(order)[0]
    if weights is None:
        real = rows
    else:
        counts = ops.reshape(weights, (-1,)) > 0
        order = ops.where(counts, order, order + 2.0)
        real = ops.sum(ops.cast(counts, "int32"))
    sequence = ops.cast(ops.argsort(order), "int32")
    place = ops.cast(ops.argsort(sequence), "int32")
    behind = ops.where(place < real, (place + 1) % ops.maximum(real, 1), place)
    return ops.take(sequence, behind)


def _blend(tensor: Any, partner: Any, own: Any) -> Any:
    return tensor * own + ops.take(tensor, partner, axis=0) * (1.0 - own)


def _beta_quantiles(alpha: float) -> np.ndarray[Any, Any]:
    """A Beta(alpha, alpha) distribution as equally likely values: its gamma functions do not run under XLA."""
    from scipy.special import betaincinv

    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.asarray(betaincinv(alpha, alpha, middles), np.float32)
