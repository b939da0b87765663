"""The tail as a stage of `greffon.train` runs it: with XLA where that pays, its last batch filled up for it.

XLA compiles a step for one size of batch, for seconds each time; so the smaller last batch of an epoch is filled up
with pictures of weight 0. Loss and accuracy are those of the real pictures, to rounding.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.utils.tracking import DotNotTrackScope

from greffon.frozen import remembered
from greffon.frozen.cost import macs
from greffon.frozen.steady import why_unsteady
from greffon.training.estimate import XLA_PAYS, XLA_TRIED
from greffon.training.optimizers import make_optimizer
from greffon.training.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.frozen.cut import Cut
    from greffon.frozen.graph import FlatGraph
    from greffon.recipe import Stage
    from greffon.training.mixing import Mixing
    from greffon.training.optimizers import Pretrained

_TIMED_STEPS = 3
_SLOW = 2e9  # multiply-accumulates per second that any processor trains with
_CALL = 0.01  # seconds for the call of a step, whatever is in it
_FIRST_RATE = 1e-4  # until the one that suits is found


def compile_stage(
    model: keras.Model, stage: Stage, *, several_labels: bool, steps: int = 1, pretrained: Pretrained | None = None
) -> None:
    """Give a model the optimizer of a stage, cross-entropy and accuracy.

    Both average by weight, since a batch that XLA compiles may be filled up with pictures of weight 0.

    Args:
        model: frozen for the stage.
        stage: a solved one is compiled like any other, so that the model can be trained on.
        several_labels: whether a picture may have several.
        steps: of an epoch.
        pretrained: what `l2_sp` draws towards.
    """
    rate = stage.learning_rate if isinstance(stage.learning_rate, float) else _FIRST_RATE
    optimizer = make_optimizer(stage, model, rate=rate, steps=steps, pretrained=pretrained)
    kind = keras.losses.BinaryCrossentropy if several_labels else keras.losses.CategoricalCrossentropy
    accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    loss = kind(reduction="mean_with_sample_weight")
    model.compile(optimizer=optimizer, loss=loss, weighted_metrics=[accuracy])


class StageTail(Tail):
    """A tail whose batches may hold pictures of weight 0.

    Args:
        model: compiled by `compile_stage`.
        cut: where its trunk ends.
        jit_compile: whether XLA compiles the steps.
        augment: changes the activations in training; it is no part of the model.
        smoothing: share of each label that is spread over all classes, in training alone (Szegedy et al. 2016,
            "Rethinking the Inception Architecture").
        mixing: mixes activations, labels and weights of a batch in training alone; no part of the model.
    """

    def __init__(
        self,
        model: keras.Model,
        cut: Cut,
        *,
        jit_compile: bool,
        augment: keras.layers.Layer | None = None,
        smoothing: float = 0.0,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__(model, cut, jit_compile=jit_compile, augment=augment)
        self._smoothing = smoothing
        self.mixing = mixing
        with DotNotTrackScope():
            self._loss_tracker = self.by_weight = _MeanByWeight(name="loss")

    def train_step(self, *arguments: Any) -> Any:
        """Keras' own step, JAX's included; notes the weights of the batch, which say who may be mixed with whom."""
        weights = keras.utils.unpack_x_y_sample_weight(arguments[-1])[2]
        self.__dict__["_weights_of_batch"] = weights
        return super().train_step(*arguments)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the tail on activations, mixed first where it trains and that was asked for."""
        if training and self.mixing is not None:
            inputs = keras.tree.map_structure(lambda tensor: keras.ops.cast(tensor, "float32"), inputs)
            inputs = self.mixing.mix(inputs, self.__dict__.get("_weights_of_batch"))
        return super().call(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of a batch; notes how many pictures it is of."""
        if training and self.mixing is not None:
            y, sample_weight = self.mixing.labels(y, sample_weight)
        rows = keras.ops.shape(y)[0] if sample_weight is None else keras.ops.sum(sample_weight)
        self.by_weight.weight = keras.ops.cast(rows, "float32")
        if training and self._smoothing:
            y = self._smoothed(y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _smoothed(self, y: Any) -> Any:
        """Labels that are less sure; of several ones, each by itself."""
        one_of_two = isinstance(self.loss, keras.losses.BinaryCrossentropy)
        shared = 0.5 if one_of_two else 1.0 / y.shape[-1]
        return y * (1.0 - self._smoothing) + self._smoothing * shared


class _MeanByWeight(keras.metrics.Mean):
    """Counts a batch by the weight of its pictures, where Keras counts its rows."""

    weight: Any = None

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add the loss of a batch."""
        super().update_state(values, sample_weight=sample_weight if self.weight is None else self.weight)


def can_fill_up(graph: FlatGraph) -> bool:
    """Whether pictures of weight 0 change nothing for the others: no layer looks across the batch.

    Args:
        graph: of the tail, its layers frozen or not as the stage has them.
    """
    return keras.backend.backend() == "tensorflow" and not any(
        map(_looks_across, graph.nodes, [graph] * len(graph.nodes))
    )


def _looks_across(node: Any, graph: FlatGraph) -> bool:
    why = why_unsteady(node, graph)
    # Dropout is unsteady too, yet leaves every picture to itself.
    return why is not None and type(node.operation) is not keras.layers.Dropout


def xla_pays(make: Callable[[bool], Tail], feed: Callable[[bool], Any], *, steps: int) -> bool:
    """Whether XLA shortens a stage on this machine, by trying both ways; what it found is remembered.

    Weights, optimizer and random state are as before afterwards; the generators that `keras.utils.set_random_seed`
    sets are not. What was compiled stays so: a tail that was tried need not be compiled again.

    Args:
        make: gives the tail, compiled with XLA or without.
        feed: gives what it trains on, filled up for XLA or not.
        steps: how many steps the stage may take.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    plain = make(False)
    if _is_short(plain.graph, feed(False).batch_size, steps):
        return False
    key = remembered.key("xla", remembered.structure(plain.graph), feed(False).batch_size, _versions())
    known = remembered.get(key)
    if isinstance(known, bool):
        return known
    before = values_of(plain)
    try:
        seconds = _seconds_of_a_step(plain, feed(False))
        if seconds * steps < XLA_TRIED:
            return False
        pays = _seconds_of_a_step(make(True), feed(True)) < XLA_PAYS * seconds
    finally:
        for variable, value in before:
            variable.assign(value)
    remembered.put(key, pays)
    return pays


def _is_short(graph: FlatGraph, batch_size: int, steps: int) -> bool:
    """Whether the steps take less than is worth a trial even on a slow machine; so nothing has to be tried."""
    return steps * (_CALL + 3 * batch_size * macs(graph) / _SLOW) < XLA_TRIED


def _seconds_of_a_step(tail: Tail, feed: Any) -> float:
    """The shortest of a few, compiling left out."""
    feed.on_epoch_begin()
    batches = iter(feed.get_tf_dataset().repeat())
    tail.make_train_function()
    tail.train_function(batches)
    seconds = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        float(tail.train_function(batches)["loss"])
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def values_of(tail: Tail) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Everything that a step may move, with its value: weights, statistics, optimizer, metrics."""
    variables = [*tail.variables, *tail.optimizer.variables, *tail.metrics_variables]
    unique = {id(variable): variable for variable in variables}.values()
    return [(variable, np.array(keras.ops.convert_to_numpy(variable))) for variable in unique]


def _versions() -> str:
    import tensorflow as tf

    return f"keras {keras.__version__}, tensorflow {tf.__version__}"
