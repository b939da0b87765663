"""The pictures of a stage in an order that the seed and the epoch's number alone decide.

So an epoch can begin at any of its batches, in any process. Keras draws an order from generators that nobody can ask
where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from greffon.training.feed import RowFeed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Array = np.ndarray[Any, Any]

_ORDER, _VIEWS = 0, 1  # what is drawn, so that the two do not depend on each other


class StageFeed(RowFeed):
    """Feeds a stage; see `RowFeed`.

    Args:
        activations: of every row of the data.
        rows: int (pictures, views), or (pictures,): which of them to feed.
        y: float32 (pictures, classes).
        batch_size: pictures of a batch.
        shuffle: whether every epoch has an order of its own.
        seed: of order and views.
        sample_weight: float32 (pictures,), or None.
        fill_up: see `RowFeed`.
    """

    def __init__(
        self, activations: Any, *, rows: Array, y: Array, batch_size: int, shuffle: bool, seed: int,
        sample_weight: Array | None = None, fill_up: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            activations, rows=rows, seed=seed, fill_up=fill_up, y=y, sample_weight=sample_weight,
            batch_size=batch_size, shuffle=False,
        )  # fmt: skip
        self._seed, self._epoch, self._skipped = seed, 0, 0
        if shuffle:
            arrays = [np.arange(len(y)), y] if sample_weight is None else [np.arange(len(y)), y, sample_weight]
            self.source = _Batches(arrays, batch_size, self.order)

    def at(self, epoch: int, *, skipped: int = 0) -> None:
        """What comes next is this epoch, from 0, without its first batches. Else epochs are counted by Keras' calls."""
        self._epoch, self._skipped = epoch, skipped

    def order(self) -> Array:
        """Places of the pictures that this epoch shows, those of skipped batches left out: int64 (n,)."""
        size = int(self.source.batch_size)
        order = np.random.default_rng([self._seed, self._epoch, _ORDER]).permutation(len(self._views))
        return order[self._skipped * size :].astype(np.int64)

    def on_epoch_begin(self) -> None:
        """Draw the views of this epoch."""
        self._random = np.random.default_rng([self._seed, self._epoch, _VIEWS])
        super().on_epoch_begin()

    def on_epoch_end(self) -> None:
        """The next epoch has the next number. Keras calls this once before the first."""
        self._epoch, self._skipped = self._epoch + 1, 0
        super().on_epoch_end()


class _Batches(DataAdapter):
    """Keras' adapter for rows of arrays, in the order that is asked for when a pass begins."""

    def __init__(self, arrays: list[Array], batch_size: int, order: Callable[[], Array]) -> None:
        self._arrays, self._size, self._order = arrays, batch_size, order

    def get_numpy_iterator(self) -> Iterator[Any]:
        """Batches of places, targets and perhaps weights."""
        order = self._order()
        for start in range(0, len(order), self._size):
            rows = order[start : start + self._size]
            yield tuple(array[rows] for array in self._arrays)

    def get_jax_iterator(self) -> Iterator[Any]:
        """The same."""
        return self.get_numpy_iterator()

    def get_torch_dataloader(self) -> Any:
        """The same as tensors."""
        return _AsTensors(self.get_numpy_iterator, self.num_batches)

    def get_tf_dataset(self) -> Any:
        """The same for TensorFlow."""
        import tensorflow as tf

        def draw(_: Any) -> Any:
            order = tf.numpy_function(self._order, [], tf.int64)
            order.set_shape((None,))
            return order

        tables = [tf.constant(array) for array in self._arrays[1:]]
        places = tf.data.Dataset.range(1).map(draw).flat_map(tf.data.Dataset.from_tensor_slices).batch(self._size)
        return places.map(lambda rows: (rows, *(tf.gather(table, rows) for table in tables)))

    @property
    def num_batches(self) -> int:
        """Of a whole epoch."""
        return -(-len(self._arrays[0]) // self._size)

    @property
    def batch_size(self) -> int:
        """Pictures of a batch."""
        return self._size

    @property
    def has_partial_batch(self) -> bool:
        """Whether the last batch is smaller."""
        return self.partial_batch_size > 0

    @property
    def partial_batch_size(self) -> int:
        """Pictures of the last batch, if it is smaller."""
        return len(self._arrays[0]) % self._size


class _AsTensors:
    """Goes through batches as often as asked."""

    def __init__(self, batches: Callable[[], Iterator[Any]], count: int) -> None:
        self._batches, self._count = batches, count

    def __iter__(self) -> Iterator[Any]:
        return (tuple(map(keras.ops.convert_to_tensor, batch)) for batch in self._batches())

    def __len__(self) -> int:
        return self._count
