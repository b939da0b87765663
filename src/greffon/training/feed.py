"""Activations in place of pictures, in the batches and the order that Keras itself would draw.

Keras shuffles and batches with a data adapter. The adapters here wrap the one that Keras would choose: for arrays it
is given row numbers instead of pictures, so the order is that of `model.fit` to the letter; any other source is read
as it comes and its pictures are recognised by their bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import xxhash
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from greffon.frozen.graph import flat_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.frozen.activations import Activations
    from greffon.frozen.trunk import Trunk

    Array = np.ndarray[Any, Any]

# A pass that brings fewer known pictures than this share, after one as long, comes from pictures that change.
_KNOWN_SHARE = 0.05


def are_arrays(x: Any, y: Any, sample_weight: Any) -> bool:
    """Whether Keras takes these as arrays, whose rows it draws itself."""
    return bool(can_convert_arrays((x, y, sample_weight)))


def content_keys(inputs: Sequence[Array]) -> list[bytes]:
    """16 bytes for each row that name its content: dtype, shape and bytes of all inputs."""
    rows = [np.ascontiguousarray(array) for array in inputs]
    kind = repr([(str(array.dtype), array.shape[1:]) for array in rows]).encode()
    keys = []
    for row in range(len(rows[0])):
        digest = xxhash.xxh3_128(kind)
        for array in rows:
            digest.update(array[row].data if array.ndim > 1 else array[row : row + 1].data)
        keys.append(digest.digest())
    return keys


class _Feed(DataAdapter):  # type: ignore[misc]  # Keras is not typed
    """Keras' adapter for a source, with what stands for the pictures swapped in every batch."""

    def __init__(self, source: Any, shapes: Sequence[tuple[int | None, ...]], dtypes: Sequence[np.dtype[Any]]) -> None:
        self.source = source
        self._shapes, self._dtypes = list(shapes), list(dtypes)
        # An error inside tf.data reaches the caller as text; the error itself waits here.
        self.error: Exception | None = None

    def swap(self, inputs: list[Array]) -> list[Array]:
        """Activations for the inputs of one batch."""
        raise NotImplementedError

    def flat(self, x: Any) -> list[Any]:
        """The inputs of one batch as a list."""
        return list(keras.tree.flatten(x))

    def _swapped(self, batch: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        arrays = self.swap([keras.ops.convert_to_numpy(leaf) for leaf in self.flat(x)])
        return keras.utils.pack_x_y_sample_weight(_one_or_tuple(arrays), y, sample_weight)

    def get_numpy_iterator(self) -> Iterator[Any]:
        return (self._swapped(batch) for batch in self.source.get_numpy_iterator())

    def get_jax_iterator(self) -> Iterator[Any]:
        return (self._swapped(batch) for batch in self.source.get_jax_iterator())

    def get_torch_dataloader(self) -> Any:
        return _Batches(self.source.get_torch_dataloader(), self._swapped)

    def get_tf_dataset(self) -> Any:
        import tensorflow as tf

        def in_graph(*elements: Any) -> Any:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(elements if len(elements) > 1 else elements[0])
            arrays = tf.numpy_function(self._guarded, self.flat(x), [tf.as_dtype(dtype) for dtype in self._dtypes])
            for array, shape in zip(arrays, self._shapes, strict=True):
                array.set_shape((None, *shape))
            return keras.utils.pack_x_y_sample_weight(_one_or_tuple(arrays), y, sample_weight)

        return self.source.get_tf_dataset().map(in_graph).prefetch(2)

    def _guarded(self, *inputs: Array) -> list[Array]:
        try:
            return self.swap(list(inputs))
        except Exception as error:
            self.error = error
            raise

    @property
    def num_batches(self) -> int | None:
        return self.source.num_batches

    @property
    def batch_size(self) -> int | None:
        return self.source.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        return self.source.has_partial_batch

    @property
    def partial_batch_size(self) -> int | None:
        return self.source.partial_batch_size

    def on_epoch_begin(self) -> None:
        self.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.source.on_epoch_end()


class RowFeed(_Feed):
    """Feeds the activations of a fixed list of pictures.

    Args:
        activations: of every row of the data.
        rows: which of them to feed, in the order of y; None: all.
        options: what `keras`' array adapter takes: y, sample_weight, class_weight, batch_size, shuffle, steps_per_epoch.
    """

    def __init__(self, activations: Activations, *, rows: Array | None = None, **options: Any) -> None:
        rows = np.arange(len(activations)) if rows is None else np.asarray(rows)
        super().__init__(get_data_adapter(rows, **options), activations.shapes, activations.dtypes)
        self.activations = activations

    def swap(self, inputs: list[Array]) -> list[Array]:
        return self.activations.gather(inputs[0])


class StreamFeed(_Feed):
    """Feeds the activations of pictures that come in batches, from any source that Keras takes.

    Args:
        trunk_for: gives the trunk for pictures of some shape.
        model: tells the order of the inputs.
        whole_passes: whether an epoch is a pass through all of the source.
        x: the source, with what else the adapter takes (class_weight, shuffle, ...).
    """

    def __init__(
        self,
        trunk_for: Callable[[Sequence[tuple[int, ...]]], Trunk],
        model: keras.Model,
        *,
        whole_passes: bool,
        x: Any,
        shapes: Sequence[tuple[int | None, ...]],
        dtypes: Sequence[np.dtype[Any]],
        check: Callable[[list[Array]], None],
        **options: Any,
    ) -> None:
        super().__init__(get_data_adapter(x, **options), shapes, dtypes)
        self._trunk_for, self._model, self._check = trunk_for, model, check
        self._whole_passes = whole_passes
        self._passes = 0
        self._known: set[bytes] = set()
        self._fresh: dict[bytes, Trunk] = {}
        self._seen = self._seen_before = 0
        self._lock = threading.Lock()
        self.changing = False

    def flat(self, x: Any) -> list[Any]:
        return flat_inputs(self._model, x)

    def swap(self, inputs: list[Array]) -> list[Array]:
        self._check(inputs)
        trunk = self._trunk_for([array.shape[1:] for array in inputs])
        keys = content_keys(inputs)
        with self._lock:
            self._note(keys, trunk)
            return trunk.fetch(keys, lambda rows: [array[rows] for array in inputs], store=not self.changing)

    def _note(self, keys: list[bytes], trunk: Trunk) -> None:
        if self.changing:
            return
        self._seen += len(keys)
        for key in keys:
            if key in self._known:
                self._seen_before += 1
                self._fresh.pop(key, None)
            else:
                self._fresh[key] = trunk

    def end_pass(self) -> bool:
        """Take note that an epoch has ended; True when this shows, for the first time, that the pictures change."""
        with self._lock:
            self._passes += 1
            found = (
                self._whole_passes
                and not self.changing
                and self._passes > 1
                and self._seen_before < _KNOWN_SHARE * self._seen
            )
            if found:
                self.changing = True
                for trunk in set(self._fresh.values()):
                    trunk.forget([key for key, owner in self._fresh.items() if owner is trunk])
                self._fresh.clear()
            self._known.update(self._fresh)
            self._seen = self._seen_before = 0
        return found


class _Batches:
    """Goes through a loader as often as asked, each batch changed on the way."""

    def __init__(self, loader: Any, change: Callable[[Any], Any]) -> None:
        self._loader, self._change = loader, change

    def __iter__(self) -> Iterator[Any]:
        return (self._change(batch) for batch in self._loader)

    def __len__(self) -> int:
        return len(self._loader)


def _one_or_tuple(arrays: Sequence[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
