"""The trainable part of a model, compiled to train in the model's place: training the tail is training the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.utils.tracking import DotNotTrackScope

from greffon.frozen.fold import fold_frozen
from greffon.frozen.graph import GraphModel, output_structure

if TYPE_CHECKING:
    from greffon.frozen.cut import Cut


def _of_the_model(name: str) -> property:
    """An attribute that callbacks set on the model and Keras' training loop reads on the tail."""

    def get(self: Any) -> Any:
        model = self.__dict__.get("_whole_model")
        return getattr(model(), name) if model else None

    def set_(self: Any, value: Any) -> None:
        model = self.__dict__.get("_whole_model")
        if model:
            setattr(model(), name, value)

    return property(get, set_)


class Tail(GraphModel):
    """What is left of a compiled model behind the cut.

    It shares the model's variables, optimizer, loss and metrics. Callbacks are given the model itself: what they
    save, restore, stop or slow down is the model, and the tail follows.

    Args:
        model: compiled.
        cut: where its trunk ends.
        jit_compile: whether XLA compiles the steps; by default as the model was compiled.
        augment: changes the activations in training; it is no part of the model.
    """

    steps_per_execution: Any  # Keras makes it, and these
    train_function: Any

    stop_training = _of_the_model("stop_training")
    history = _of_the_model("history")
    _initial_epoch = _of_the_model("_initial_epoch")

    def __init__(
        self,
        model: keras.Model,
        cut: Cut,
        *,
        jit_compile: bool | None = None,
        augment: keras.layers.Layer | None = None,
    ) -> None:
        super().__init__(
            fold_frozen(cut.tail),
            output=output_structure(model),
            name=f"{model.name}_tail",
            dtype=model.dtype_policy,
        )
        self.augment = augment
        self.__dict__["_whole_model"] = lambda: model
        with DotNotTrackScope():
            self.compile(
                optimizer=model.optimizer,
                run_eagerly=model.run_eagerly,
                steps_per_execution=model.steps_per_execution,
                jit_compile=model.jit_compile if jit_compile is None else jit_compile,
                auto_scale_loss=False,
            )
            # The objects themselves, not their configuration: what the tail counts, the model has counted.
            self.loss = model.loss
            self._compile_loss = model._compile_loss
            self._compile_metrics = model._compile_metrics
            self._loss_tracker = model._loss_tracker
        if not model.optimizer.built:
            # In the model's own order of variables, so that the optimizer's state can be saved and loaded with it.
            model.optimizer.build(model.trainable_variables)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the tail on activations, changed first where it trains and that was asked for."""
        if training and self.augment is not None:
            inputs = self.augment(keras.tree.map_structure(_in_float32, inputs), training=True)
        return super().call(inputs, training=training)

    @property
    def trainable_variables(self) -> list[Any]:
        """In the model's order, which is how the optimizer knows them."""
        ours = {id(variable) for variable in super().trainable_variables}
        return [variable for variable in self.__dict__["_whole_model"]().trainable_variables if id(variable) in ours]

    @property
    def trainable_weights(self) -> list[Any]:
        """The same."""
        return self.trainable_variables

    def train_on(  # not `train`, which is a method of torch's modules
        self, feed: Any, *, callbacks: Any, epochs: int, verbose: Any, steps: int | None, **options: Any
    ) -> keras.callbacks.History:
        """Run Keras' own training loop on activations.

        Args:
            feed: gives the batches.
            callbacks: a list, or one that has its model already.
            epochs: the last epoch.
            verbose: as in `model.fit`.
            steps: batches of an epoch, for the progress bar; None where they are not known.
            options: what else `fit` takes: validation_data, initial_epoch, steps_per_epoch, ...
        """
        model = self.__dict__["_whole_model"]()
        self._join_steps(model, feed, options.get("validation_data"), callbacks)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0,
                verbose=verbose,
                epochs=epochs,
                steps=steps,
                model=model,
            )
        return self.fit(feed, callbacks=callbacks, epochs=epochs, verbose=verbose, shuffle=False, **options)

    def _join_steps(self, model: keras.Model, feed: Any, validation: Any, callbacks: Any) -> None:
        """Where a step takes less time than calling it, make one call of a whole epoch."""
        specs = [self.graph.specs[tensor] for tensor in self.graph.inputs]
        small = all(None not in spec.shape[1:] and np.prod(spec.shape[1:]) <= _SMALL for spec in specs)
        lengths = [each.num_batches for each in (feed, validation) if each is not None]
        given = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
        if (
            small
            and None not in lengths
            and model.steps_per_execution == 1
            and keras.backend.backend() == "tensorflow"
            and not any(map(_looks_at_batches, keras.tree.flatten(given) if given else []))
        ):
            steps = max(1, *lengths)
            if steps != self.steps_per_execution:
                self.train_function = None  # where single steps were looked at before, it was made for these
            self.steps_per_execution = steps


def _in_float32(tensor: Any) -> Any:
    return keras.ops.cast(tensor, "float32")


# Numbers of an activation up to which training its tail takes less time than Python needs for each step.
_SMALL = 32_768
_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)


def _looks_at_batches(callback: Any) -> bool:
    """Whether a callback does something at a batch; Keras' progress bar may as well be told at the epoch's end."""
    plain = keras.callbacks.Callback
    if type(callback) is keras.callbacks.ProgbarLogger:
        return False
    if type(callback) is keras.callbacks.ModelCheckpoint and callback.save_freq == "epoch":
        return False
    return any(getattr(type(callback), name) is not getattr(plain, name) for name in _BATCH_HOOKS)
