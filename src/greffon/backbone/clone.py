"""Copying the layers of a model into another graph: new layers, same weights, same calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.errors import InputError

if TYPE_CHECKING:
    import keras


def as_graph(model: Any, what: str) -> Any:
    """The Functional model that a Functional or Sequential model is or holds.

    Raises:
        InputError: it is neither, or has not been built.
    """
    import keras

    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise InputError(
                f"{what} {model.name!r} does not know its input shape yet: begin the Sequential with keras.Input(...)"
            )
        return model._functional
    if not isinstance(model, keras.Model) or not hasattr(model, "_run_through_graph"):
        raise InputError(
            f"{what} must be a Functional or Sequential Keras model, whose layers can be copied. "
            f"Got {type(model).__name__}"
        )
    return model


class Copier:
    """Copies layers, each once, and calls the copies as the originals were called.

    Attributes:
        copies: pairs of (original, copy), in the order of the first call.
    """

    def __init__(self, taken: set[str]) -> None:
        """Start with no copies.

        Args:
            taken: names that are in use in the new graph.
        """
        self.copies: list[tuple[Any, Any]] = []
        self._by_id: dict[int, Any] = {}
        self._names = set(taken)

    def run(self, graph: Any, inputs: Any, prefix: str = "") -> Any:
        """Call copies of the layers of a Functional model on other inputs; nested models are unfolded.

        Args:
            graph: the Functional model.
            inputs: a tensor, or what the model takes.
            prefix: put in front of a name that is taken.

        Returns:
            The outputs, as the model gives them.
        """
        return graph._run_through_graph(inputs, operation_fn=lambda operation: self._callable(operation, prefix))

    def copy(self, layer: Any, prefix: str = "") -> Any:
        """The copy of a layer, without its weights until `fill`."""
        if id(layer) not in self._by_id:
            self._by_id[id(layer)] = copied = _from_config(layer, self._free_name(layer.name, prefix))
            self.copies.append((layer, copied))
        return self._by_id[id(layer)]

    def fill(self) -> None:
        """Give the copies the weights and the trainable flags of the originals; call it once they are built."""
        import keras
        import numpy as np

        for original, copied in self.copies:
            if not getattr(original, "built", True):
                continue  # a layer for the head that was never called: the copy has its own initial weights
            for new, old in zip(_weights(copied), _weights(original), strict=True):
                # Through an array of its own: JAX would share the buffer, and take it away from the original as soon
                # as the copy is trained.
                new.assign(np.array(keras.ops.convert_to_numpy(old)))
                new.trainable = old.trainable
            if hasattr(copied, "finalize_state"):
                copied.finalize_state()  # an adapted Normalization computes with constants made from its weights

    def _callable(self, operation: Any, prefix: str) -> Any:
        import keras

        if isinstance(operation, keras.Model):
            inner = as_graph(operation, "the nested model")
            return lambda inputs, **_: self.run(inner, inputs, f"{prefix}{operation.name}_")
        return self.copy(operation, prefix)

    def _free_name(self, name: str, prefix: str) -> str:
        free = name if name not in self._names else prefix + name
        if free in self._names:
            raise InputError(f"two layers would be called {free!r} in the grafted model: rename one of them")
        self._names.add(free)
        return free


def _from_config(layer: Any, name: str) -> Any:
    try:
        config = layer.get_config()
        copied = type(layer).from_config({**config, "name": name} if "name" in config else config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be copied, and so not be saved either: "
            f"give its class a get_config() that holds what its constructor takes. Keras said: {error}"
        ) from error
    if copied.name != name:  # Keras' own get_config leaves the name out where the constructor does not name it
        copied.name = name
    return copied


def _weights(layer: Any) -> list[keras.Variable]:
    return list(getattr(layer, "weights", ()))  # a bare operation (x + y) has none
