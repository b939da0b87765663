"""Which network a weight file is, who wrote it, and which preprocessing goes with it: from names and shapes alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.identity import Identity, Naming
from greffon.weights.naming import writers
from greffon.weights.naming.dialect import TOP
from greffon.weights.naming.judge import Verdict, called, judge
from greffon.weights.naming.order import Ordered, read_order
from greffon.weights.naming.others import is_bit, is_densenet, is_optimizer, slim_depth, what_else
from greffon.weights.naming.prefixes import Reading, plain, read_names
from greffon.weights.naming.variants import keras_variant, tell_variant
from greffon.weights.read.arrays import Contents, WeightArrays
from greffon.weights.sets import PREPROCESSING_LAYER, PREPROCESSINGS, Preprocessing, Variant, preprocessing_in_layer
from greffon.weights.structure import DEPTHS, Shapes, shapes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.weights.structure import Shape

__all__ = ["Identity", "identify", "unfold_preprocessing", "variant_of"]

_LISTED = 5
_ARCH = ("arch", "architecture", "args.model", "args.arch")  # where checkpoints of training scripts say it
_ANTI_ALIASED = re.compile(r"resnet(?:aa|blur)|resnext\w*aa")


def identify(contents: Contents) -> Identity:
    """Say which network a file is, from its names, shapes and what it says of itself; no tensor is read.

    Args:
        contents: an open file.

    Example:
        >>> from greffon.weights.identify import identify
        >>> from greffon.weights.read import opened
        >>> from greffon.weights.sets import embedded_path, weight_set
        >>> with opened(embedded_path(weight_set("thin").file())) as contents:
        ...     found = identify(contents)
        >>> found.network, found.variant, found.variant_sure, found.preprocessing.name
        ('ResNet-50 v1, half width (thin)', 'thin', True, 'open_nsfw')
    """
    known = _known_by_names(contents)
    if known is not None:
        return known
    reading = read_names([name for name in contents.tensors if not is_optimizer(name)])
    if reading is not None and not is_densenet(contents.tensors):
        return _from_reading(contents, reading)
    ordered = read_order(contents)
    if ordered is not None:
        return _from_order(contents, ordered)
    what = what_else({plain(name): tensor.shape for name, tensor in contents.tensors.items()})
    unknown = what.startswith("its tensors")
    network = f"{'an unknown network' if unknown else 'not a ResNet'}: {what}"
    # Keras' layers may have names of the user's own; then the matching by order has the last word.
    open_ended = unknown and any(name.endswith("/kernel") for name in contents.tensors)
    return Identity(network, refusal="" if open_ended else f"it is {network}", preprocessing_why="it is no ResNet")


def variant_of(weights: WeightArrays | Contents) -> tuple[bool, Variant]:
    """The variant of a file with Keras' names, and whether the file says so itself (else its shapes suggest it).

    Shapes cannot tell v1 from v1.5, but biases can: v1 has them, v1.5 has none.
    """
    arrays = weights.tensors if isinstance(weights, Contents) else weights.arrays
    sure, variant, _ = keras_variant(shapes_of(arrays), weights.metadata, weights.configs)
    return sure, variant


def unfold_preprocessing(weights: WeightArrays | Contents) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """Undo what grafting did to a backbone's first convolution, where the file is of a grafted model.

    A grafted model takes RGB; where the backbone was trained on BGR, its first kernel's input channels were
    swapped, and are swapped back here, in `weights`.

    Returns:
        The preprocessing inside the model, and a note; None and none where there is no such layer.

    Raises:
        WeightFileError: the preprocessing is the user's own and the file does not hold its values.
    """
    names = [name for name in weights.layer_names if name.startswith(PREPROCESSING_LAYER)]
    if not names:
        return None, ()
    try:
        preprocessing = preprocessing_in_layer(names[0], weights.configs.get(names[0], {}))
    except KeyError:
        raise WeightFileError(
            f"the file is of a grafted model with a preprocessing of its own ({names[0]}), whose values it does "
            "not hold: use the whole model (.keras)"
        ) from None
    if preprocessing.channel_order == "BGR":
        _swap_channels(weights)
    return preprocessing, (f"The file is of a grafted model with the preprocessing {preprocessing.name!r}.",)


def _swap_channels(weights: WeightArrays | Contents) -> None:
    name = "conv1_conv/kernel"
    if name not in (weights.tensors if isinstance(weights, Contents) else weights.arrays):
        raise WeightFileError("the file is of a grafted model, but has no conv1_conv/kernel")
    if isinstance(weights, Contents):
        tensor = weights.tensors[name]
        weights.tensors[name] = replace(tensor, read=lambda: tensor.read()[:, :, ::-1, :])
    else:
        weights.arrays[name] = weights.arrays[name][:, :, ::-1, :].copy()


def _known_by_names(contents: Contents) -> Identity | None:
    """Networks that only their names tell from a ResNet that Greffon builds."""
    names = contents.tensors
    arch = next((contents.metadata[key] for key in _ARCH if key in contents.metadata), "")
    if _ANTI_ALIASED.search(arch):
        return _refused(
            f"{arch}, a ResNet with anti-aliased pooling",
            replace(writers.TIMM, variant=None),
            f"it is {arch}: it smooths before it halves the picture, which its tensors do not show; Greffon builds no "
            "such network",
        )
    depth = slim_depth(names)
    if depth is not None:
        reason = "it halves the picture in the last block of a stage, not in the first; Greffon builds no such network"
        network = f"TF-slim's ResNet-{depth} V1"
        return _refused(network, writers.SLIM, f"it is {network}: {reason}")
    if is_bit(names):
        network = "BiT ResNet V2"
        return _refused(
            f"not a ResNet V1: it looks like {network} (Big Transfer)",
            writers.BIT,
            f"it is a {network}, with GroupNorm before standardised convolutions; Greffon builds V1 and V1.5",
        )
    return None


def _refused(network: str, writer: writers.Writer, refusal: str) -> Identity:
    preprocessing = PREPROCESSINGS.get(writer.preprocessing or "")
    return Identity(
        network,
        writer=writer.name,
        preprocessing=preprocessing,
        preprocessing_why=writer.because,
        refusal=refusal,
    )


def _from_reading(contents: Contents, reading: Reading) -> Identity:
    torch_axes = reading.dialect.torch_axes
    tops = {name for name, place in reading.places.items() if place.startswith(f"{TOP}/")}
    layout = _layout(contents, reading.places, torch_axes=torch_axes)
    classes = _classes(layout)
    writer = writers.writer_of(reading, classes=classes)
    if contents.format.startswith("ONNX"):
        writer = replace(writer, name=f"{writer.name}, exported to ONNX")
    takes = layout.get(TOP, {}).get("kernel", ())[:-1]
    aside = tops if writer.projection or classes is None or not _takes_features(layout, takes) else set()
    places = {name: place for name, place in reading.places.items() if name not in aside}
    verdict = judge({layer: it for layer, it in layout.items() if layer != TOP}, reading.extras)
    if reading.dialect.name == "Keras" and not reading.prefix and all(plain(name) == name for name in places):
        naming = Naming({})
    else:
        naming = Naming(places, torch_axes, _naming_notes(reading, sorted(aside)))
    identity = _filled(contents, verdict, writer, naming, layout=layout, places=reading.places)
    return replace(identity, prefix=reading.prefix, **_top_of(None if aside else classes))


def _from_order(contents: Contents, ordered: Ordered) -> Identity:
    layout = _layout(contents, ordered.places, torch_axes=ordered.torch_axes, as_is=ordered.as_is)
    shapes = layout or shapes_of({plain(name): it for name, it in contents.tensors.items()})
    verdict = Verdict(called(ordered.blocks), ordered.blocks, ordered.width, "7x7")
    note = "The tensors' names do not tell what they are; their order and shapes do, and every shape agrees."
    naming = Naming(ordered.places, ordered.torch_axes, (note,) if ordered.places else (), ordered.as_is)
    identity = _filled(contents, verdict, _writer_by_order(contents), naming, layout=shapes, places=ordered.places)
    if ordered.problem:
        identity = replace(identity, refusal=f"it is {identity.network}, but {ordered.problem}")
    return replace(identity, **_top_of(_classes(layout)))


def _filled(
    contents: Contents,
    verdict: Verdict,
    writer: writers.Writer,
    naming: Naming,
    *,
    layout: Shapes,
    places: Mapping[str, str],
) -> Identity:
    sure, variant, why = tell_variant(contents, writer, layout, places)
    refusal = verdict.refusal
    if not refusal and variant != "thin" and verdict.width == 32:
        refusal = (
            f"it is {verdict.network} at half width, but not the network that Greffon calls thin: that has v1's "
            "strides and biases"
        )
    if "greffon" in contents.metadata.get("writer", "").lower():
        writer = replace(writers.GREFFON, note=writer.note)
    elif "open_nsfw" in contents.metadata.get("source", ""):
        writer = writers.OPEN_NSFW
    preprocessing, because = _preprocessing(contents, writer)
    return Identity(
        verdict.network if refusal else _with_variant(verdict.network, variant),
        None if refusal else variant,
        sure and not refusal,
        "" if refusal else why,
        blocks=verdict.blocks,
        depth=DEPTHS.get(verdict.blocks),
        width=verdict.width,
        stem=verdict.stem,
        writer=writer.name,
        preprocessing=preprocessing,
        preprocessing_why=because,
        refusal=refusal,
        notes=(writer.note,) if writer.note else (),
        naming=Naming({}) if refusal else naming,
    )


def _with_variant(network: str, variant: Variant) -> str:
    kind, of, blocks = network.partition(" of blocks")
    words = {"v1": "v1", "v1.5": "v1.5", "thin": "v1, half width (thin)"}[variant]
    return f"{kind} {words}{of}{blocks}" if variant != "thin" or not of else f"{kind} v1{of}{blocks}, half width (thin)"


def _top_of(classes: int | None) -> dict[str, Any]:
    return {"include_top": classes is not None, "classes": classes}


def _preprocessing(contents: Contents, writer: writers.Writer) -> tuple[Preprocessing | None, str]:
    said = PREPROCESSINGS.get(contents.metadata.get("preprocessing", ""))
    if said is not None:
        return said, "the file says so"
    layers = [name for name in contents.layer_names if name.startswith(PREPROCESSING_LAYER)]
    if layers:
        try:
            return preprocessing_in_layer(layers[0], contents.configs.get(layers[0], {})), "it is a layer of the model"
        except KeyError:
            return None, "cannot be known from the file: it is the user's own, and the file does not hold its values"
    return PREPROCESSINGS.get(writer.preprocessing or ""), writer.because


def _writer_by_order(contents: Contents) -> writers.Writer:
    names = contents.tensors
    if any("stage1_conv0" in name for name in names):
        return writers.MXNET
    if any(name.startswith("base_model/") for name in names):
        return writers.SIMCLR_TF
    if contents.format.startswith("TensorFlow"):
        return writers.TENSORFLOW
    return writers.KERAS if any(plain(name).endswith("/kernel") for name in names) else writers.ONNX


def _layout(
    contents: Contents, places: Mapping[str, str], *, torch_axes: bool, as_is: frozenset[str] = frozenset()
) -> Shapes:
    """The shapes by Keras' names and with Keras' axes."""
    shapes: Shapes = {}
    for name, place in places.items():
        layer, _, weight = place.rpartition("/")
        shapes.setdefault(layer, {})[weight] = _turned(
            contents.tensors[name].shape, torch_axes=torch_axes and name not in as_is
        )
    return shapes


def _turned(shape: Shape, *, torch_axes: bool) -> Shape:
    if not torch_axes or len(shape) not in {2, 4}:
        return shape
    return (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else (shape[1], shape[0])


def _classes(layout: Shapes) -> int | None:
    kernel = layout.get(TOP, {}).get("kernel", ())
    return kernel[-1] if len(kernel) == 2 or (len(kernel) == 4 and kernel[:2] == (1, 1)) else None


def _takes_features(layout: Shapes, takes: Shape) -> bool:
    """Whether a classifier takes what the last block gives, as far as the file tells."""
    kernels = [it.get("kernel", ()) for layer, it in layout.items() if layer.endswith("_3_conv")]
    last = [kernel[-1] for kernel in kernels if len(kernel) == 4]
    return not last or takes[-1:] == (max(last),)


def _naming_notes(reading: Reading, aside: Sequence[str]) -> tuple[str, ...]:
    notes = [f"The names are those of {reading.dialect.name}; they were translated into Keras'."]
    if reading.prefix:
        notes = [f"The names are those of {reading.dialect.name} behind {reading.prefix!r}; they were translated."]
    if reading.others:
        others = ", ".join(map(repr, reading.others))
        notes.append(
            f"The file holds more than one such network; {reading.prefix!r} is taken, which its authors evaluate, and "
            f"not {others}."
        )
    outside = [*aside, *reading.outside]
    if outside:
        shown = ", ".join(outside[:_LISTED])
        more = f" and {len(outside) - _LISTED} more" if len(outside) > _LISTED else ""
        notes.append(f"Set aside, being no part of the network: {shown}{more}.")
    if reading.dropped:
        notes.append(f"{reading.dropped} counters of training steps (num_batches_tracked) are not needed.")
    return tuple(notes)
