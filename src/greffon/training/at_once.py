"""Several small tails trained in one step: the same activations, each with weights and a learning rate of its own.

All see the same batches in the same order, so that each gets what it would get alone, to rounding. TensorFlow alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.recipe import Stage
    from greffon.training.feed import RowFeed
    from greffon.training.tail import Tail

    Array = np.ndarray[Any, Any]

# Numbers that the weights of a tail may hold: beyond it, one step takes as long as its models together.
_SMALL = 4_000_000


def fits_at_once(tail: Tail) -> bool:
    """Whether steps of several such tails can be one: a few dense layers on vectors, all of whose state trains.

    Args:
        tail: compiled for one of the models.
    """
    plain = (keras.layers.Dense, keras.layers.Dropout, keras.layers.Activation, keras.layers.ReLU)
    specs = [tail.graph.specs[tensor] for tensor in tail.graph.inputs]
    return (
        keras.backend.backend() == "tensorflow"
        and tail.augment is None
        and all(type(node.operation) in plain for node in tail.graph.nodes)
        and [len(spec.shape) for spec in specs] == [2]
        and len(tail.trainable_variables) == len(tail.weights)
        and sum(math.prod(variable.shape) for variable in tail.weights) <= _SMALL
    )


class AtOnce:
    """Trains the same small tail with several learning rates.

    Args:
        tail: of a model that is compiled with the optimizer's kind; its weights are where every model starts.
        stages: one for each model; they differ in name, learning rate, epochs, patience and keep_best alone.

    Attributes:
        models: what became of each.
    """

    def __init__(self, tail: Tail, stages: Sequence[Stage]) -> None:
        import tensorflow as tf

        self.models = [_Model(stage) for stage in stages]
        self._tail = tail
        start = [keras.ops.convert_to_numpy(variable) for variable in tail.trainable_variables]
        self._weights = [keras.Variable(np.stack([value] * len(stages))) for value in start]
        self._state = tail.non_trainable_variables
        self._optimizer = _stacked(tail.optimizer, [float(stage.learning_rate) for stage in stages])
        self._optimizer.build(self._weights)
        self._steps = tf.function(self._run_steps)

    def run(self, feed: RowFeed, validation: RowFeed) -> None:
        """Train every model to its end."""
        dataset, held_out = feed.get_tf_dataset(), validation.get_tf_dataset()
        while any(model.runs for model in self.models):
            feed.on_epoch_begin()
            train = self._steps(iter(dataset), feed.num_batches, training=True)
            iter(dataset)  # as Keras' loop does at the end of an epoch, so that the next order is the same
            feed.on_epoch_end()
            test = self._steps(iter(held_out), validation.num_batches, training=False)
            for number, values in enumerate(np.concatenate([train, test]).T):
                self.models[number].end_epoch(values, [np.array(w.value[number]) for w in self._weights])

    def _run_steps(self, batches: Any, steps: int, *, training: bool) -> Any:
        """Loss and accuracy of every model over so many batches: (2, models)."""
        import tensorflow as tf

        totals, rows = tf.zeros([2, len(self.models)]), tf.zeros([])
        for _ in tf.range(steps):
            x, y = next(batches)
            count = tf.cast(tf.shape(x)[0], tf.float32)
            losses, hits = self._step(x, y) if training else self._measured(x, y, training=False)
            totals += tf.stack([losses * count, hits])
            rows += count
        return totals / rows

    def _step(self, x: Any, y: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        values = [weight.value for weight in self._weights]
        with tf.GradientTape() as tape:
            losses, hits = self._measured(x, y, training=True)
            whole = tf.reduce_sum(losses)  # no model's loss depends on another's weights
        self._optimizer.apply(tape.gradient(whole, values), self._weights)
        return losses, hits

    def _measured(self, x: Any, y: Any, *, training: bool) -> tuple[Any, Any]:
        """Mean loss and number of right answers of every model."""
        import tensorflow as tf

        state = [tf.convert_to_tensor(variable.value) for variable in self._state]

        def one(weights: list[Any]) -> Any:
            outputs, after = self._tail.stateless_call(weights, state, x, training=training)
            right = tf.equal(tf.argmax(outputs, axis=-1), tf.argmax(y, axis=-1))
            # The loss right here: Keras takes it from what the softmax was given, as long as it sees the softmax.
            loss = self._tail.loss(y, outputs)
            return loss, tf.reduce_sum(tf.cast(right, tf.float32)), [tf.convert_to_tensor(value) for value in after]

        losses, hits, after = tf.vectorized_map(one, [weight.value for weight in self._weights])
        if training:
            for variable, value in zip(self._state, after, strict=True):
                variable.assign(value[0])
        return losses, hits


class _Model:
    """One of the models.

    Attributes:
        stage: its options.
        rows: one per epoch, as `StageWatch` writes them.
        best: number of its best epoch, 0 before there is one.
        weights: values of the tail's trainable variables: of the best epoch where the stage says so, else the last.
        runs: whether it has not come to its end.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.rows: list[dict[str, Any]] = []
        self.best, self.runs = 0, True
        self.weights: list[Array] = []
        self._lowest = math.inf

    def end_epoch(self, values: Array, weights: list[Array]) -> None:
        """Note an epoch down: loss, accuracy, and the same of the validation; it counts until the model's end."""
        if not self.runs:
            return
        number = len(self.rows) + 1
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        measured = dict(zip(names, map(float, values), strict=True))
        self.rows.append(
            {"stage": self.stage.name, "epoch": number, "learning_rate": self.stage.learning_rate, **measured}
        )
        better = measured["val_loss"] < self._lowest
        if better:
            self.best, self._lowest = number, measured["val_loss"]
        if better or not self.stage.keep_best:
            self.weights = weights
        finite = math.isfinite(measured["loss"]) and math.isfinite(measured["val_loss"])
        patient = self.stage.patience is None or number - self.best < self.stage.patience
        self.runs = finite and patient and number < self.stage.epochs


def _stacked(optimizer: keras.optimizers.Optimizer, rates: Sequence[float]) -> keras.optimizers.Optimizer:
    """An optimizer of the same kind for variables whose first axis counts models, each with its learning rate.

    Keras' optimizers change every number by itself; so only the rate has to be one for each model.
    """
    kind: Any = type(optimizer)

    class Stacked(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            shaped = keras.ops.reshape(self.rates, (-1,) + (1,) * (len(variable.shape) - 1))
            super().update_step(gradient, variable, shaped * learning_rate)

        def _apply_weight_decay(self, variables: Any) -> None:
            for variable in variables if self.weight_decay is not None else ():
                if len(variable.shape) > 2:  # alone, one with a single axis does not decay
                    shaped = keras.ops.reshape(self.rates, (-1,) + (1,) * (len(variable.shape) - 1))
                    variable.assign(variable - variable * self.weight_decay * shaped)

    stacked = Stacked.from_config({**optimizer.get_config(), "learning_rate": 1.0})
    stacked.rates = keras.ops.convert_to_tensor(rates, "float32")
    return stacked
