"""BatchNorm gap: the same batches through the run's network as it trained and as it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.diagnosing.compare import compared
from greffon.diagnosing.result import Finding, not_tested
from greffon.say import counted
from greffon.training.solved import picture_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.diagnosing.subject import Subject
    from greffon.frozen.graph import FlatGraph, Node

    Array = np.ndarray[Any, Any]

CAUSE = "BatchNorm gap"
_LOOKED_AT = 256
_FEWEST = 8  # pictures in a batch below which its statistics say nothing


def try_modes(subject: Subject) -> Finding:
    """Whether the run answers better with the statistics of each batch, as while training, than with stored ones."""
    network = subject.network
    rows = subject.val[:: max(1, len(subject.val) // _LOOKED_AT)]
    if len(rows) < _FEWEST:
        return not_tested(CAUSE, f"{len(rows)} pictures were held out, too few for the statistics of a batch")
    # Mixed: pictures lie class by class, and a batch of one class has other statistics than any in training.
    rows = np.random.default_rng(0).permutation(rows)
    size = max(_FEWEST, *(stage.batch_size for stage in subject.bundle.recipe.stages[-1:]))
    batches = np.array_split(rows, max(1, round(len(rows) / size)))
    trained = np.concatenate([_as_trained(network.cut.tail, network.activations.gather(batch)) for batch in batches])
    stored, targets = network.answers[rows], subject.targets[rows]
    several = subject.several
    losses = tuple(picture_losses(it, targets, several_labels=several) for it in (stored, trained))
    change = compared(
        subject.rightness(stored, targets), subject.rightness(trained, targets), losses=(losses[0], losses[1])
    )
    norms = len(_batch_norms(network.cut.tail))
    apart = float(np.abs(stored - trained).max())
    details = {"batch_norms_on_batch_statistics": norms, "largest_difference": apart, "batches": len(batches)}
    many = "1 batch" if len(batches) == 1 else f"{len(batches)} batches"
    said = (
        f"{counted(len(rows), 'held-out picture')} in {many}: {change.now:.3f} with stored statistics, "
        f"{change.without:.3f} with those of each batch; probabilities differ by up to {apart:.2g}. {norms} BatchNorm "
        "layers trained on batch statistics."
    )
    if not change.helps:
        return Finding(CAUSE, "not found", said, change, details=details)
    advice = (
        "The stored statistics are not those of these pictures: train with --batch-norm frozen, or for more steps, or "
        "unfreeze less."
    )
    return Finding(CAUSE, "found", said, change, advice, details=details)


def _as_trained(tail: FlatGraph, arrays: Sequence[Array]) -> Array:
    """The tail's answers with BatchNorm as in training and everything else as in inference; nothing stays changed."""
    import keras

    norms = _batch_norms(tail)
    before = [[keras.ops.convert_to_numpy(weight) for weight in node.operation.weights] for node in norms]
    training = {id(node) for node in norms}
    tensors = [
        keras.ops.cast(keras.ops.convert_to_tensor(array), tail.specs[tensor].dtype)
        for array, tensor in zip(arrays, tail.inputs, strict=True)
    ]
    values: dict[int, Any] = dict(zip(tail.inputs, tensors, strict=True))
    try:
        for node in tail.nodes:
            outputs = node.run(values, training=id(node) in training)
            values.update(zip(node.outputs, outputs, strict=True))
    finally:
        for node, weights in zip(norms, before, strict=True):
            for weight, value in zip(node.operation.weights, weights, strict=True):
                weight.assign(value)
    return np.asarray(keras.ops.convert_to_numpy(values[tail.outputs[0]]), np.float32)


def _batch_norms(tail: FlatGraph) -> list[Node]:
    """The calls of BatchNorm layers that use the statistics of each batch while training."""
    import keras

    kinds = keras.layers.BatchNormalization
    return [node for node in tail.nodes if isinstance(node.operation, kinds) and node.operation.trainable]
