"""What a network makes of pictures: what the store holds is read, and the rest is computed once and kept there."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from greffon.backbone.head import pool_layers
from greffon.backbone.parts import split_parts
from greffon.errors import InputError
from greffon.frozen.activations import Activations
from greffon.frozen.cut import Cut, find_cut
from greffon.frozen.even import at_even_positions
from greffon.frozen.graph import flatten, is_graph, with_calls
from greffon.frozen.trunk import DoesNotFitFloat16, Trunk
from greffon.training.int8 import probabilities
from greffon.weights.sets import PREPROCESSING_LAYER, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from greffon.evaluation.evaluate import Bars
    from greffon.frozen.graph import FlatGraph
    from greffon.frozen.store import ActivationStore
    from greffon.training.samples import Samples

    Array = np.ndarray[Any, Any]


class Network:
    """A model at work on some pictures.

    Args:
        model: grafted; its trainable flags are read as they are.
        record: of the preprocessing inside it.
        samples: the pictures.
        store: where activations are kept.
        progress: shows how far it is.

    Raises:
        InputError: the model is no graph of layers.
    """

    def __init__(
        self,
        model: keras.Model,
        record: Preprocessing,
        samples: Samples,
        store: ActivationStore | None,
        progress: Bars,
    ) -> None:
        if not is_graph(model):
            raise InputError(f"{model.name!r} is no graph of layers, so it cannot be cut where it was frozen")
        self.model, self.record, self.samples, self._store, self._progress = model, record, samples, store, progress

    @cached_property
    def graph(self) -> FlatGraph:
        """Its calls, as a training runs them."""
        return at_even_positions(flatten(self.model))

    @cached_property
    def cut(self) -> Cut:
        """Where its frozen part ends, by the flags of its last stage."""
        return find_cut(self.model, graph=self.graph)

    @cached_property
    def activations(self) -> Activations:
        """What passes the cut, of all pictures."""
        return self._filled(self.cut, "frozen part")

    @cached_property
    def answers(self) -> Array:
        """float32 (n, classes): its probabilities, before any calibration."""
        return probabilities(self.cut, [self.activations], np.arange(len(self.samples)))[0]

    @cached_property
    def features(self) -> Array:
        """float32 (n, channels): the averages of the backbone's feature map."""
        found = self._filled(self._pooled()[0], "features")
        return np.asarray(found.gather(np.arange(len(self.samples)))[0], np.float32)

    def features_as(self, record: Preprocessing, rows: Array) -> Array:
        """The features of some pictures, had they been prepared in another way.

        Args:
            record: the other preprocessing.
            rows: of the samples.

        Raises:
            InputError: the network has no preprocessing layer.
        """
        import xxhash

        trunk = self._behind_preprocessing
        flip = record.channel_order != self.record.channel_order  # the order of now is in the first kernel
        what = f"{record.scale} {record.mean} {record.std} {flip}"
        keys = [xxhash.xxh3_128_digest(self.samples.keys[row] + what.encode()) for row in rows]

        def load(places: Array) -> list[Array]:
            pixels = np.asarray(self.samples.load(rows[places])[0], np.float32)
            prepared = (pixels * record.scale - np.array(record.mean, np.float32)) / np.array(record.std, np.float32)
            return [np.asarray(prepared[..., ::-1] if flip else prepared, np.float32)]

        found = Activations(trunk, keys, load)
        with self._progress.bar(f"prepared as {record.name}", total=len(rows)) as advance:
            found.fill(advance)
        return np.asarray(found.gather(np.arange(len(rows)))[0], np.float32)

    @cached_property
    def _behind_preprocessing(self) -> Trunk:
        cut = self._pooled(behind_preprocessing=True)[0]
        return Trunk(cut, [self.samples.shape], store=self._store, dtype="float32", label="diagnose, other pictures")

    def _filled(self, cut: Cut, name: str) -> Activations:
        """Activations behind a cut, in float16 as a training keeps them, in float32 where they do not fit."""
        for dtype in ("float16", "float32"):
            trunk = Trunk(
                cut, [self.samples.shape], store=self._store, dtype=dtype, label=f"diagnose, {cut.where}, {dtype}"
            )
            found = Activations(trunk, self.samples.keys, self.samples.load)
            try:
                with self._progress.bar(name, total=len(self.samples)) as advance:
                    found.fill(advance)
            except DoesNotFitFloat16:
                continue
            return found
        raise AssertionError  # float32 holds every number

    def _pooled(self, *, behind_preprocessing: bool = False) -> tuple[Cut, int]:
        """A cut behind the feature map, averaged; from the pictures on, or from behind what prepares them."""
        last = split_parts(self.model).backbone[-1]
        graph = self.graph
        [tensor] = [node.outputs[0] for node in graph.nodes if node.operation is last]
        graph, output = with_calls(graph, pool_layers("avg", graph.specs[tensor].shape[1:3]), tensor)
        inputs: Sequence[int] = graph.inputs
        if behind_preprocessing:
            inputs = [
                node.outputs[0]
                for node in graph.nodes
                if str(getattr(node.operation, "name", "")).startswith(PREPROCESSING_LAYER)
            ]
            if len(inputs) != 1:
                raise InputError("the network has no preprocessing of its own that could be replaced")
        trunk = graph.between(inputs, [output])
        return Cut(trunk, graph.between([output], [output]), (), 0), output


def numbers_of(model: keras.Model) -> int:
    """Parameters of a model's head."""
    head = split_parts(model).head
    return sum(int(np.prod(cast("Sequence[int]", weight.shape))) for layer in head for weight in layer.weights)
