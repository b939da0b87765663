"""Grafting: a backbone, its preprocessing and a new head as one flat Functional model; and taking it off again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from greffon.backbone.clone import Copier, as_graph
from greffon.backbone.guard import flatten_note, reject_scaled_pictures
from greffon.backbone.head import checked_classes, grow
from greffon.backbone.parts import HEAD_STARTS, PICTURES, Parts, name_in, output_shape, split_parts
from greffon.backbone.preprocessing import preprocessing_layers, preprocessing_of
from greffon.errors import InputError
from greffon.recipe import Head, nearest
from greffon.weights.sets import PREPROCESSING_LAYER, PREPROCESSINGS, Preprocessing

if TYPE_CHECKING:
    import keras
    import numpy as np

__all__ = ["Parts", "graft", "reject_scaled_pictures", "split_parts", "ungraft"]

_log = logging.getLogger("greffon")
_DEFAULT_HEAD = Head()
_OWN_NAMES = {PICTURES, *HEAD_STARTS, "head_hidden", "head_dropout", "head_output"}


def graft(
    backbone: keras.Model,
    classes: int,
    head: Head = _DEFAULT_HEAD,
    *,
    preprocessing: str | Preprocessing | None = None,
    name: str | None = None,
) -> keras.Model:
    """Put preprocessing in front of a backbone and a new head behind it.

    The backbone is copied, layer by layer, and stays as it is. Its layers keep their names; nested models are
    unfolded. Where the weights want BGR, the input channels of the first convolution's kernel are reversed, which
    is exact. Initial weights of the head follow `keras.utils.set_random_seed`.

    Args:
        backbone: a Functional or Sequential model from pictures (n, height, width, channels) to a feature map
            (n, h, w, channels), without pooling and classifier.
        classes: how many there are; at least 2 with softmax.
        head: what is grafted on. A layer of the user's own is copied too, and keeps its name.
        preprocessing: a name (`caffe`, `torch`, `tf`, `open_nsfw`, `none`) or a record. None or `auto`: that of
            `backbone.greffon_weights`; if nothing is known of it, the model takes what the backbone takes, and the
            `greffon` logger says so.
        name: of the model.

    Returns:
        A flat Functional model. Input `pictures`: (n, height, width, 3), RGB, 0..255, float32 (uint8 arrays are
        converted). Output: (n, classes), float32, probabilities. `ungraft` gives the backbone's weights back.

    Raises:
        InputError: the backbone cannot be grafted onto, the head does not fit it, or an argument is out of range.

    Example:
        >>> import greffon
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(64, 64, 3)), classes=10)
        >>> model.input.name, model.output_shape
        ('pictures', (None, 10))
    """
    import keras

    graph = as_graph(backbone, "the backbone")
    classes = checked_classes(classes, head)
    shape = _checked_shape(backbone, graph)
    record = _resolve_preprocessing(backbone, preprocessing, channels=shape[-1])
    x = pictures = keras.Input(shape=shape, dtype="float32", name=PICTURES)
    for layer in preprocessing_layers(record) if record else ():
        x = layer(x)
    copier = Copier(taken=_OWN_NAMES)
    features = copier.run(graph, x)
    outputs = grow(features, classes, head, copier)
    model = keras.Model(pictures, outputs, name=name or f"{backbone.name}_grafted")
    copier.fill()
    if record and record.channel_order == "BGR":
        for conv in _first_convolutions(model):
            conv.kernel.assign(keras.ops.flip(conv.kernel, axis=2))  # torch knows no negative steps
    if hasattr(backbone, "greffon_weights"):
        model.greffon_weights = backbone.greffon_weights
    note = flatten_note(model)
    if note:
        _log.warning("%s", note)
    return model


def ungraft(model: keras.Model) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of the bare backbone inside a grafted model; the inverse of `graft`.

    Args:
        model: a grafted model, also one that was saved and loaded; of another model, the backbone's weights as
            they are.

    Returns:
        Arrays by "layer/weight", such as "conv1_conv/kernel", with the first kernel's input channels in the order
        that the weights were trained with.

    Raises:
        InputError: two layers of the backbone have the same name.

    Example:
        >>> import greffon
        >>> from greffon.backbone.graft import ungraft
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(64, 64, 3)), classes=10)
        >>> ungraft(model)["conv1_conv/kernel"].shape
        (7, 7, 3, 64)
    """
    import keras

    record = preprocessing_of(model)
    folded = [id(conv) for conv in _first_convolutions(model)] if record and record.channel_order == "BGR" else []
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for layer in split_parts(model).backbone:
        for variable in layer.weights:
            key = f"{layer.name}/{name_in(layer, variable)}"
            if key in arrays:
                raise InputError(f"two layers of the backbone are called {layer.name!r}: their weights have one name")
            array = keras.ops.convert_to_numpy(variable)
            flip = id(layer) in folded and variable is layer.kernel
            arrays[key] = array[:, :, ::-1, :].copy() if flip else array.copy()
    return arrays


def _checked_shape(backbone: Any, graph: Any) -> tuple[int | None, ...]:
    """The shape of one picture, once the backbone is known to be one."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"the backbone must have one input and one output, got {len(graph.inputs)} and {len(graph.outputs)}"
        )
    given, features = graph.inputs[0].shape, graph.outputs[0].shape
    if len(features) != 4:
        raise InputError(_why_no_features(backbone, tuple(features)))
    if len(given) != 4 or features[-1] is None or given[-1] is None:
        raise InputError(
            "the backbone must take pictures (batch, height, width, channels) and give a feature map of as many "
            f"dimensions, channels last, got {tuple(given)} and {tuple(features)}"
        )
    return tuple(given[1:])


def _why_no_features(backbone: Any, shape: tuple[int | None, ...]) -> str:
    parts = split_parts(backbone)
    ends = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in parts.head) or "vectors"
    message = (
        "the backbone must end in a feature map (batch, height, width, channels), without pooling and classifier. "
        f"Got one that ends in {ends} with output {shape}. Build it with include_top=False and pooling=None"
    )
    maps = [layer for layer in parts.backbone if len(output_shape(layer) or ()) == 4]
    if maps and maps[-1] in backbone.layers:
        message += f", or cut it: keras.Model(m.input, m.get_layer({maps[-1].name!r}).output)"
    return message


def _resolve_preprocessing(
    backbone: Any, wanted: str | Preprocessing | None, *, channels: int | None
) -> Preprocessing | None:
    inside = preprocessing_of(backbone)
    if wanted in {None, "auto"}:
        record = getattr(getattr(backbone, "greffon_weights", None), "preprocessing", None)
        if inside is not None:
            return None
        if record is None:
            _log.warning(
                "nothing is known of the preprocessing that %r was trained with: the grafted model takes what the "
                "backbone takes. graft(..., preprocessing='caffe') puts it in (%s)",
                backbone.name,
                ", ".join(PREPROCESSINGS),
            )
            return None
    elif isinstance(wanted, Preprocessing):
        record = wanted
    else:
        record = PREPROCESSINGS.get(str(wanted))
        if record is None:
            raise InputError(
                f"preprocessing must be auto, {', '.join(PREPROCESSINGS)} or a Preprocessing, got {wanted!r}"
                f"{nearest(str(wanted), PREPROCESSINGS)}"
            )
    if inside is not None:
        raise InputError(f"the backbone has preprocessing {inside.name!r} inside already, got {record.name!r} as well")
    if channels != 3:
        raise InputError(f"preprocessing {record.name!r} is for RGB pictures, got a backbone of {channels} channels")
    return record


def _first_convolutions(model: Any) -> list[Any]:
    """The convolutions that read the picture's channels, with nothing in front that mixes or weights channels.

    Raises:
        InputError: something else reads them, so that the channel order cannot be folded into kernels.
    """
    from keras import layers

    passing = (
        layers.ZeroPadding2D,
        layers.Cropping2D,
        layers.Resizing,
        layers.MaxPooling2D,
        layers.AveragePooling2D,
        layers.Dropout,
        layers.Identity,
    )
    graph = as_graph(model, "the model")
    calls = [call for depth in sorted(graph._nodes_by_depth, reverse=True) for call in graph._nodes_by_depth[depth]]
    channels: set[int] = set()
    found: list[Any] = []
    for call in calls:
        layer = call.operation
        if layer.name.startswith(PREPROCESSING_LAYER):
            channels = {id(tensor) for tensor in call.outputs}
        elif any(id(tensor) in channels for tensor in call.input_tensors):
            if isinstance(layer, passing):
                channels.update(id(tensor) for tensor in call.outputs)
            elif isinstance(layer, layers.Conv2D) and layer.groups == 1 and _calls(calls, layer) == 1:
                found.append(layer)
            else:
                raise InputError(
                    "the channel order BGR can only be put into a convolution that reads the picture, but "
                    f"{layer.name!r} ({type(layer).__name__}) reads it"
                )
    return found


def _calls(calls: list[Any], layer: Any) -> int:
    return sum(call.operation is layer for call in calls)
