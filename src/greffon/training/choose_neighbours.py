"""The training pictures that a run keeps: small, and with what the trained network sees in them.

Features come from the activations that the last stage trained on, through what of the backbone lies behind them: for
few pictures, and for a pooled cut next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.neighbours import SIDE, Neighbours, chosen_rows, small, thumbnail
from greffon.bundle.onnx_looks import feature_map_of
from greffon.frozen.activations import chunks
from greffon.frozen.build import build_engine
from greffon.frozen.graph import with_calls
from greffon.frozen.kept_rows import fill_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from greffon.frozen.activations import Activations
    from greffon.frozen.cut import Cut
    from greffon.frozen.engine import Engine
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.store import ActivationStore
    from greffon.training.samples import PictureRows, Samples

    Array = np.ndarray[Any, Any]

_BATCH = 32
_CHECKED = 4
_ROUNDING = 0.01  # float16, and 8 bits where the trunk ran in them, are nearer


def choose_neighbours(
    model: keras.Model,
    cut: Cut,
    source: Activations | PictureRows,
    samples: Samples,
    paths: Sequence[str],
    *,
    before: Callable[[Array], Array] | None = None,
    store: ActivationStore | None = None,
) -> Neighbours | None:
    """Choose pictures to keep, make them small, and compute their features.

    Args:
        model: trained; `cut` shares its variables.
        cut: of the last stage.
        source: what passed it, by row of the samples.
        samples: the pictures.
        paths: of the pictures to learn from, in the order of their rows.
        before: gives averaged features of the backbone as it was before the training, for some of `paths`; taken where
            the cut lies behind another pooling and the backbone is still what it was.
        store: where small copies are kept, for trainings to come; None: nowhere.

    Returns:
        None where the features are not to be had without another pass over the pictures.
    """
    chosen = chosen_rows(samples.targets[samples.train])
    rows = samples.train[chosen]
    features = _features(model, cut, source, rows)
    if features is None and before is not None:
        known = np.asarray(before(chosen), np.float32)
        features = known if _is_still(model, known[:_CHECKED], samples.load(rows[:_CHECKED])) else None
    if features is None or not np.isfinite(features).all():
        return None
    thumbnails = tuple(thumbnail(pixels) for pixels in _small(samples, rows, store))
    return Neighbours(features, samples.targets[rows] > 0, tuple(str(paths[row]) for row in chosen), thumbnails)


def _small(samples: Samples, rows: Array, store: ActivationStore | None) -> Array:
    """Small copies, uint8 (rows, side, side, 3); of the pictures that the store knows, without decoding them."""
    side = min(SIDE, samples.shape[0])
    copies = np.empty((len(rows), side, side, 3), np.uint8)

    def make(missing: Array) -> None:
        for places in chunks(missing, _BATCH):
            copies[places] = [small(pixels) for pixels in samples.load(rows[places])[0]]

    fill_rows(store, "small copies, for nearest pictures", [samples.keys[row] for row in rows], copies, make)
    return copies


def _features(model: keras.Model, cut: Cut, source: Any, rows: Array) -> Array | None:
    """The mean of the last feature map, float32 (n, channels); None where the cut lies behind another pooling."""
    import keras

    trunk, tail = cut.trunk, cut.tail
    seen = feature_map_of(model, trunk)
    if seen is not None and trunk.outputs != (seen,):
        (node, *others) = [node for node in trunk.nodes if trunk.outputs[0] in node.outputs]
        averaged = isinstance(node.operation, keras.layers.GlobalAveragePooling2D) and node.inputs == (seen,)
        return _gathered(source, rows) if averaged and not others and len(trunk.outputs) == 1 else None
    tensor = seen if seen is not None else feature_map_of(model, tail)
    return None if tensor is None else _gathered(source, rows, build_engine(_averaged(tail, tensor)))


def _is_still(model: keras.Model, known: Array, pictures: Sequence[Array]) -> bool:
    """Whether these are the features that the model has now, but for the rounding of what is kept."""
    from greffon.frozen.agreement import norm_difference
    from greffon.frozen.graph import flatten

    graph = flatten(model)
    tensor = feature_map_of(model, graph)
    if tensor is None:
        return False
    (now,) = build_engine(_averaged(graph, tensor), check=False).run(pictures)
    return now.shape == known.shape and norm_difference(known, now) < _ROUNDING


def _averaged(graph: FlatGraph, tensor: int) -> FlatGraph:
    """The part of a graph from its inputs to the mean of a feature map over its places."""
    import keras

    pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last")
    whole, pooled = with_calls(graph, [pool], tensor)
    return whole.between(graph.inputs, (pooled,))


def _gathered(source: Any, rows: Array, engine: Engine | None = None) -> Array:
    parts = []
    for some in chunks(rows, _BATCH):
        arrays = [np.asarray(array, np.float32) for array in source.gather(some)]
        parts.append(arrays[0] if engine is None else engine.run(arrays)[0])
    return np.concatenate(parts)
