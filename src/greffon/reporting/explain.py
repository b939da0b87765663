"""Where a network looks: which places of a picture speak for a class.

Grad-CAM (Selvaraju et al. 2017): the gradient of the class's score by the last feature map says how much each channel
speaks for the class. It is multiplied with the map place by place (HiResCAM, Draelos and Carin 2020): behind an average
over all places, where the gradient is the same everywhere, that is Grad-CAM itself; behind a grid or a flattened map
Grad-CAM's mean of the gradients would mix what speaks for the class on the left with what does on the right.

The score is what stands in front of the last softmax or sigmoid: a probability near 1 has no slope left. A softmax
takes no notice of what is added to all of its inputs, so neither does the map: the scores' mean is taken off first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from greffon.frozen.graph import FlatGraph

    Array = np.ndarray[Any, Any]

_BATCH = 16


class Explainer:
    """Says which places of pictures speak for a class, for one model.

    Args:
        model: a Functional or Sequential Keras model with a feature map (n, height, width, channels) in it, pictures
            RGB 0..255 in and (n, classes) out.

    Raises:
        InputError: the model is subclassed, or has no feature map in front of its head.

    Example:
        >>> import greffon, numpy as np
        >>> from greffon.backbone.resnet import resnet
        >>> from greffon.reporting.explain import Explainer
        >>> model = greffon.graft(resnet((1, 1, 1, 1), input_shape=(64, 64, 3)), 3, preprocessing="caffe")
        >>> explainer = Explainer(model)
        >>> features = explainer.features(np.zeros((2, 64, 64, 3), np.float32))
        >>> explainer.maps(features, [0, 2]).shape
        (2, 2, 2)
    """

    def __init__(self, model: keras.Model) -> None:
        from greffon.frozen.graph import flatten

        graph = flatten(model)
        tensor = _feature_map(model, graph)
        self._front = graph.between(graph.inputs, (tensor,))
        try:
            self._head, self._finish = _to_scores(graph, tensor)
        except ValueError:
            raise InputError(
                f"the answers of {model.name!r} come from earlier feature maps too, such as those of all blocks: a map "
                "of the last one would show a part of what they rest on"
            ) from None

    def features(self, pictures: Array) -> Array:
        """The last feature map: float32 (n, height, width, channels).

        Args:
            pictures: (n, size, size, 3), RGB, 0..255.
        """
        import keras

        parts = []
        for start in range(0, len(pictures), _BATCH):
            given = keras.ops.convert_to_tensor(np.asarray(pictures[start : start + _BATCH], np.float32))
            (found,) = self._front.run([given], training=False)
            parts.append(keras.ops.convert_to_numpy(found).astype(np.float32))
        shape = self._front.specs[self._front.outputs[0]].shape
        return np.concatenate(parts) if parts else np.zeros((0, *(side or 0 for side in shape[1:])), np.float32)

    def maps(self, features: Array, classes: Sequence[int]) -> Array:
        """How much each place speaks for a class.

        Args:
            features: what `features` gave, (n, height, width, channels).
            classes: for each picture the number of the class that is asked for.

        Returns:
            float32 (n, height, width), 0..1: 1 at the place that speaks most for it; all 0 where no place does.

        Raises:
            InputError: a class has no such output, or Keras' backend gives no gradients.
        """
        numbers = np.asarray(classes, np.int64).reshape(-1)
        if len(numbers) != len(features):
            raise InputError(f"one class for each of {len(features)} pictures is expected, got {len(numbers)}")
        if not len(features):
            return np.zeros(features.shape[:3], np.float32)
        gradients = _gradients(lambda values: self._score(values, numbers), features)
        raw = np.maximum((gradients * features).sum(axis=-1), 0.0)
        most = raw.max(axis=(1, 2), keepdims=True)
        return np.asarray(raw / np.where(most > 0, most, 1.0), np.float32)

    def _score(self, values: Any, classes: Array) -> Any:
        """The sum over pictures of the score of each one's class; pictures do not touch one another."""
        import keras

        (out,) = self._head.run([values], training=False)
        scores = self._finish(out)
        if classes.size and not 0 <= classes.min() <= classes.max() < scores.shape[1]:
            raise InputError(f"classes must be numbers below {scores.shape[1]}, got {classes.tolist()}")
        chosen = keras.ops.convert_to_tensor(np.eye(scores.shape[1], dtype=np.float32)[classes])
        return keras.ops.sum(keras.ops.multiply(keras.ops.cast(scores, "float32"), chosen))


def _feature_map(model: keras.Model, graph: FlatGraph) -> int:
    """The tensor that the backbone gives to the head."""
    from greffon.backbone.parts import split_parts

    backbone = split_parts(model).backbone
    last = backbone[-1] if backbone else None
    for node in reversed(graph.nodes):
        if node.operation is last and len(graph.specs[node.outputs[0]].shape) == 4:
            return node.outputs[0]
    raise InputError(f"{model.name!r} has no feature map (n, height, width, channels) in front of its head")


def _to_scores(graph: FlatGraph, tensor: int) -> tuple[FlatGraph, Callable[[Any], Any]]:
    """The head up to what the scores are made of, and the rest.

    Where there is no softmax or sigmoid to be seen, the logarithm of the output is taken.
    """
    import keras

    node = next(node for node in graph.nodes if graph.outputs[0] in node.outputs)
    layer = node.operation
    softmax = isinstance(layer, keras.layers.Softmax) or _activation(layer) is keras.activations.softmax
    if softmax or _activation(layer) is keras.activations.sigmoid:
        dense = isinstance(layer, keras.layers.Dense)

        def finish(x: Any) -> Any:
            scores = _dense(layer, x) if dense else x
            return scores - keras.ops.mean(scores, axis=1, keepdims=True) if softmax else scores

        return graph.between((tensor,), node.inputs), finish
    return graph.between((tensor,), graph.outputs), lambda x: keras.ops.log(keras.ops.maximum(x, 1e-12))


def _activation(layer: Any) -> Any:
    """The activation of a layer that does nothing else behind its weights; None for any other."""
    import keras

    return layer.activation if isinstance(layer, keras.layers.Dense | keras.layers.Activation) else None


def _dense(layer: Any, x: Any) -> Any:
    import keras

    logits = keras.ops.matmul(keras.ops.cast(x, layer.compute_dtype), layer.kernel)
    return logits if layer.bias is None else logits + layer.bias


def _gradients(score: Callable[[Any], Any], values: Array) -> Array:
    """The gradient of a score by an array, with whatever Keras' backend is."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.convert_to_tensor(values)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            total = score(tensor)
        return np.asarray(tape.gradient(total, tensor, unconnected_gradients=tf.UnconnectedGradients.ZERO))
    if backend == "jax":
        from importlib import import_module

        jax = import_module("jax")  # by its name, as most who check the types of this have no JAX
        return np.asarray(jax.grad(score)(jax.numpy.asarray(values)))
    if backend == "torch":
        import torch

        with torch.enable_grad():
            tensor = keras.ops.convert_to_tensor(values).detach().requires_grad_()
            (found,) = torch.autograd.grad(score(tensor), [tensor])
        return np.asarray(found.detach().cpu().numpy())
    raise InputError(f"gradients need Keras on tensorflow, jax or torch, this is {backend}")
