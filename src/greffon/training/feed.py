"""Activations in place of pictures, in the batches and the order that Keras itself would draw.

Keras shuffles and batches with a data adapter. The adapters here wrap the one that Keras would choose: for arrays it
is given row numbers instead of pictures, so the order is that of `model.fit` to the letter; any other source is read
as it comes and its pictures are recognised by their bytes.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from greffon.frozen.graph import flat_inputs
from greffon.frozen.keys import as_taken
from greffon.frozen.trunk import kept_dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from greffon.frozen.trunk import Trunk
    from greffon.frozen.trunks import Trunks

    Array = np.ndarray[Any, Any]

# A pass that brings fewer known pictures than this share, after one as long, comes from pictures that change.
_KNOWN_SHARE = 0.05
# Activations up to so many bytes are given to TensorFlow once, as one tensor, so that an epoch needs no Python.
_TABLE_BYTES = 256 * 2**20


def are_arrays(x: Any, y: Any, sample_weight: Any) -> bool:
    """Whether Keras takes these as arrays, whose rows it draws itself."""
    return bool(can_convert_arrays((x, y, sample_weight)))


class Feed(DataAdapter):
    """Keras' adapter for a source, with what stands for the pictures swapped in every batch.

    Attributes:
        source: the adapter that Keras would take.
        error: an error of ours inside tf.data reaches the caller as text; the error itself waits here.
    """

    def __init__(self, source: Any, shapes: Sequence[tuple[int | None, ...]], dtypes: Sequence[np.dtype[Any]]) -> None:
        self.source = source
        self._shapes, self._dtypes = list(shapes), list(dtypes)
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
        """Batches for any backend."""
        return (self._swapped(batch) for batch in self.source.get_numpy_iterator())

    def get_jax_iterator(self) -> Iterator[Any]:
        """Batches for JAX."""
        return (self._swapped(batch) for batch in self.source.get_jax_iterator())

    def get_torch_dataloader(self) -> Any:
        """Batches for torch."""
        return _Batches(self.source.get_torch_dataloader(), self._swapped)

    def get_tf_dataset(self) -> Any:
        """Batches for TensorFlow."""
        import tensorflow as tf

        def in_graph(*elements: Any) -> Any:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(elements if len(elements) > 1 else elements[0])
            arrays = tf.numpy_function(self._guarded, self.flat(x), [tf.as_dtype(dtype) for dtype in self._dtypes])
            rows = self.flat(x)[0].shape[0]
            for array, shape in zip(arrays, self._shapes, strict=True):
                array.set_shape((rows, *shape))
            return keras.utils.pack_x_y_sample_weight(_one_or_tuple(arrays), y, sample_weight)

        return self._source_dataset().map(in_graph).prefetch(2)

    def _source_dataset(self) -> Any:
        return self.source.get_tf_dataset()

    def _guarded(self, *inputs: Array) -> list[Array]:
        try:
            return self.swap(list(inputs))
        except Exception as error:
            self.error = error
            raise

    @property
    def num_batches(self) -> int | None:
        """Batches of a pass; None where it is not known."""
        return self.source.num_batches

    @property
    def batch_size(self) -> int | None:
        """Pictures of a batch; None where it is not known."""
        return self.source.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        """Whether the last batch is smaller."""
        return self.source.has_partial_batch

    @property
    def partial_batch_size(self) -> int | None:
        """Pictures of the last batch, if it is smaller."""
        return self.source.partial_batch_size

    def on_epoch_begin(self) -> None:
        """Tell the source."""
        self.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the source."""
        self.source.on_epoch_end()


class RowFeed(Feed):
    """Feeds the activations of a fixed list of pictures.

    Args:
        activations: of every row of the data.
        rows: which of them to feed, in the order of y; None: all. With shape (pictures, views), one view of each
            picture is drawn in every epoch.
        seed: drives which view it is.
        fill_up: give every batch the same size: the last one gets rows of weight 0 (TensorFlow alone).
        options: what Keras' array adapter takes: y, sample_weight, class_weight, batch_size, shuffle, steps_per_epoch.
    """

    def __init__(
        self, activations: Any, *, rows: Array | None = None, seed: int = 0, fill_up: bool = False, **options: Any
    ) -> None:
        rows = np.arange(len(activations)) if rows is None else np.asarray(rows)
        super().__init__(get_data_adapter(np.arange(len(rows)), **options), activations.shapes, activations.dtypes)
        self.activations, self.targets = activations, options.get("y")
        self._views = rows.reshape(len(rows), -1)
        self._fill_up = fill_up
        self._drawn: Array | None = None
        self._random = np.random.default_rng(seed)

    @property
    def rows(self) -> Array:
        """Row of each picture; of its first view where there are several."""
        return self._views[:, 0]

    def swap(self, inputs: list[Array]) -> list[Array]:
        """Activations of the pictures whose places in `rows` are in `inputs`."""
        return self.activations.gather(self._views.reshape(-1)[self._places(inputs[0])])

    def on_epoch_begin(self) -> None:
        """Draw the views of this epoch."""
        if self._views.shape[1] > 1:
            self._drawn = self._random.integers(self._views.shape[1], size=len(self._views))
        super().on_epoch_begin()

    def get_tf_dataset(self) -> Any:
        """Batches for TensorFlow, out of one tensor where all activations are small."""
        sizes = [math.prod(shape) for shape in self.activations.shapes]
        each = sum(size * dtype.itemsize for size, dtype in zip(sizes, self._dtypes, strict=True))
        if not self.activations.in_memory or each * self._views.size > _TABLE_BYTES:
            return _untuned(super().get_tf_dataset())
        import tensorflow as tf

        tables = [tf.convert_to_tensor(array) for array in self.activations.gather(self._views.reshape(-1))]

        def look_up(*elements: Any) -> Any:
            places, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
                elements if len(elements) > 1 else elements[0]
            )
            if self._views.shape[1] > 1:
                places = tf.numpy_function(self._places, [places], tf.int64)
                places.set_shape((None,))
            return keras.utils.pack_x_y_sample_weight(
                _one_or_tuple([tf.gather(table, places) for table in tables]), y, sample_weight
            )

        return _untuned(self._source_dataset().map(look_up).prefetch(2))

    def _source_dataset(self) -> Any:
        """Batches of places; with weights where they are filled up."""
        dataset = self.source.get_tf_dataset()
        return dataset.map(_filler(self.source.batch_size)) if self._fill_up else dataset

    def _places(self, pictures: Array) -> Array:
        """Where the views that are drawn for some pictures stand in the flat list of all views."""
        first = pictures.astype(np.int64) * self._views.shape[1]
        return first if self._drawn is None else first + self._drawn[pictures]


class StreamFeed(Feed):
    """Feeds the activations of pictures that come in batches, from any source that Keras takes.

    Args:
        trunks: give the activations.
        model: tells the order of the inputs.
        x: the source.
        guard: its `look` is called with the inputs of every batch before anything is computed, its `close` at the
            end of a pass; both raise for what they refuse.
        keep: how many of the first pictures to keep in `kept`.
        options: what else Keras' adapter for this source takes: class_weight, shuffle, steps_per_epoch, ...

    Attributes:
        changing: whether it was found that the source changes its pictures from pass to pass.
        kept: inputs of the model, batch by batch.
    """

    def __init__(
        self, trunks: Trunks, model: keras.Model, x: Any, *, guard: Any, keep: int = 0, **options: Any
    ) -> None:
        # Only this one looks at `shuffle`; the others warn that they do not.
        options["shuffle"] = bool(options.get("shuffle")) and isinstance(x, keras.utils.PyDataset)
        # Activations of any precision are given out as float32: should they change it, the pipeline goes on.
        super().__init__(get_data_adapter(x, **options), trunks.cut.shapes, kept_dtypes(trunks.cut, "float32"))
        self._trunks, self._model, self._guard = trunks, model, guard
        steps = options.get("steps_per_epoch")
        self._passes = _Passes(whole=steps is None or steps == self.num_batches)
        self._lock = threading.Lock()
        self._keep = keep
        self.kept: list[list[Array]] = []
        self._kept_keys: set[bytes] = set()
        self.changing = False

    def flat(self, x: Any) -> list[Any]:
        """The inputs of one batch in the order of the model's."""
        return flat_inputs(self._model, x)

    def swap(self, inputs: list[Array]) -> list[Array]:
        """Activations of the pictures in `inputs`."""
        inputs = as_taken(inputs, self._model.inputs)
        self._guard.look(inputs)
        keys = self._trunks.keys(inputs)
        with self._lock:
            self._keep_some(keys, inputs)
            if not self.changing:
                self._passes.note(keys, self._trunks.of(inputs))
            arrays = self._trunks.fetch(keys, inputs, store=not self.changing)
        return [array.astype(dtype, copy=False) for array, dtype in zip(arrays, self._dtypes, strict=True)]

    def _keep_some(self, keys: list[bytes], inputs: list[Array]) -> None:
        """Keep the first pictures, each once: a source is read more than once."""
        new = [row for row, key in enumerate(keys) if key not in self._kept_keys]
        new = new[: self._keep - len(self._kept_keys)]
        if new:
            self.kept.append([np.array(array[new]) for array in inputs])
            self._kept_keys.update(keys[row] for row in new)

    def end_pass(self) -> bool:
        """Take note that an epoch has ended; True when this shows, for the first time, that the pictures change."""
        self._guard.close()
        with self._lock:
            if self.changing or not self._passes.end():
                return False
            self.changing = True
            self._passes.forget()
            return True


class _Passes:
    """What a source brought in its passes: whether it brings the same pictures again, and which ones nobody will."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole  # an epoch is a pass through all of the source
        self._ended = 0
        self._first = self._seen = self._known = 0
        self._before: set[bytes] = set()
        self._now: set[bytes] = set()
        self._ours: dict[bytes, Trunk] = {}  # stored for this source, and seen in one pass only so far

    def note(self, keys: list[bytes], trunk: Trunk) -> None:
        """Pictures of this pass, before they are looked up in the store."""
        new = [key for key in keys if key not in self._before and key not in self._now]
        self._ours.update((new[row], trunk) for row in trunk.missing(new).tolist())
        self._seen += len(keys)
        for key in self._before.intersection(keys):
            self._ours.pop(key, None)
        self._known += sum(key in self._before for key in keys)
        self._now.update(new)

    def end(self) -> bool:
        """End a pass; whether it shows that the source changes its pictures."""
        if not self._seen:  # a validation that was not due
            return False
        self._ended += 1
        self._first = self._first or self._seen
        long = 2 * self._seen >= self._first
        changing = self._whole and self._ended > 1 and long and self._known < _KNOWN_SHARE * self._seen
        self._before |= self._now
        self._now.clear()
        self._seen = self._known = 0
        return changing

    def forget(self) -> None:
        """Remove from the store what was put there for this source and can never be asked for again."""
        for trunk in set(self._ours.values()):
            trunk.forget([key for key, owner in self._ours.items() if owner is trunk])
        self._ours.clear()
        self._before.clear()


def _untuned(dataset: Any) -> Any:
    """The dataset without TensorFlow's tuning thread, of which there is nothing to tune here.

    That thread sleeps for up to a minute, and sometimes misses that its iterator is gone: the next epoch then waits for
    the end of its sleep, 3 to 4 seconds with nothing running (TensorFlow 2.21).
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _filler(size: int) -> Callable[..., Any]:
    """Fills a batch of places, targets and perhaps weights up to a size, in TensorFlow's graph."""
    import tensorflow as tf

    def fill(*batch: Any) -> Any:
        places, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        rows = tf.shape(places)[0]
        weight = tf.ones([rows]) if sample_weight is None else tf.cast(sample_weight, tf.float32)

        def filled(tensor: Any) -> Any:
            full = tf.pad(tensor, [[0, size - rows]] + [[0, 0]] * (len(tensor.shape) - 1))
            return tf.ensure_shape(full, (size, *tensor.shape[1:]))

        return tuple(keras.tree.map_structure(filled, part) for part in (places, y, weight))

    return fill


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
