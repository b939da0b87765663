"""From what does not fit to the sentence that a user needs: what kind of file this probably is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from greffon.weights.naming.others import what_else
from greffon.weights.structure import DEPTHS, blocks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.weights.match import Match
    from greffon.weights.structure import Shape

_LISTED = 20  # layers in one sentence
_HEAD_LAYERS = 8  # more than any head that is put behind a backbone has
_PYTORCH = re.compile(r"(^|\.)(layer[1-4]|stages?|encoder|conv1|bn1|fc|downsample)(\.|/|$)")


def likely_cause(found: Match, file: Mapping[str, Mapping[str, Any]], network: Mapping[str, Any]) -> str:
    """One sentence: the first cause, of those seen in practice, that explains what does not fit."""
    for cause in (_other_network, _head_alone, _layout, _width, _depth, _biases, _ends, _damaged):
        sentence = cause(found, file, network)
        if sentence:
            return sentence
    return ""


def left_out_note(left_out: Sequence[str], file: Mapping[str, Mapping[str, Shape]]) -> str:
    """What to say of layers of a file that are no part of the network that was asked for.

    Args:
        left_out: the layers.
        file: layer -> weight -> shape of all of the file.

    Example:
        >>> from greffon.weights.causes import left_out_note
        >>> left_out_note(["predictions"], {"predictions": {"kernel": (2048, 1000), "bias": (1000,)}})
        'This is a whole classifier with 1,000 classes: its top is left out (predictions).'
    """
    names = ", ".join(left_out[:_LISTED]) + (f", and {len(left_out) - _LISTED} more" * (len(left_out) > _LISTED))
    kernel = file.get("predictions", {}).get("kernel", ())
    if list(left_out) == ["predictions"] and kernel:
        return f"This is a whole classifier with {kernel[-1]:,} classes: its top is left out ({names})."
    return f"Left out, being no part of the backbone (the file's own head): {names}."


def _head_alone(found: Match, file: Mapping[str, Mapping[str, Shape]], network: Mapping[str, Any]) -> str:
    layers = [layer for layer, weights in file.items() if weights]
    flat = all(len(shape) <= 2 for weights in file.values() for shape in weights.values())
    if not layers or not flat or len(layers) > _HEAD_LAYERS or len(network) <= _HEAD_LAYERS:
        return ""
    many = "this is one layer" if len(layers) == 1 else f"these are {len(layers)} layers"
    return f"{many}: a head alone ({', '.join(layers)}); the backbone's weights are in another file."


def _other_network(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    if any(layer.endswith("preact_bn") for layer in file):
        return "the file is a ResNet V2, a different network; Greffon builds V1 and V1.5."
    if any(layer in network and layer.startswith("conv") for layer in file):
        return ""
    if _head_alone(found, file, network):
        return ""
    names = [f"{layer}.{weight}" if layer else weight for layer in file for weight in file[layer]]
    if any(_PYTORCH.search(name) and name.endswith((".weight", ".running_mean")) for name in names):
        return (
            "the names are PyTorch's, and these arrays come without translation: give the file itself "
            "(greffon.resnet50 and greffon weights translate it)."
        )
    what = what_else({f"{layer}/{weight}": shape for layer in file for weight, shape in file[layer].items()})
    looks = f"; {what}" if what.startswith("it looks") else ""
    return (
        f"the file holds another network; its layers are called {_first(file)}, the network's {_first(network)}{looks}."
    )


def _layout(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    kernels = [it for it in found.wrong_shape if len(it.expected) == 4 and len(it.found) == 4]
    if kernels and all(it.found == tuple(it.expected[place] for place in (3, 2, 0, 1)) for it in kernels):
        return (
            "the kernels are in the order (out, in, height, width) of PyTorch or Theano, not (height, width, in, out)."
        )
    return ""


def _width(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    for other in found.wrong_shape:
        if other.name == "conv2_block1_1_conv/kernel":
            ours, theirs = other.expected[-1], other.found[-1]
            hint = {32: '; the variant "thin" has that width', 64: '; the variants "v1" and "v1.5" have that width'}
            return (
                f"the file's network has another width ({theirs} filters in conv2, not {ours}){hint.get(theirs, '')}."
            )
    return ""


def _depth(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    theirs, ours = blocks_of(file), blocks_of(network)
    if theirs == ours or not theirs:
        return ""
    if all(there <= here for there, here in zip(theirs, ours, strict=False)) and theirs not in DEPTHS:
        return ""  # rather a part of this network than another
    return f"the file is {_called(theirs)}, the network {_called(ours)}."


def _biases(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    convs = {layer for layer in network if layer.endswith("_conv")}
    if found.missing and {f"{layer}/bias" for layer in convs} <= set(found.missing):
        return (
            "the file's convolutions have no biases, as in v1.5 (torchvision, timm, Hugging Face), whose strides are "
            'in other places too: pass variant="v1.5".'
        )
    extra = {name.rpartition("/")[0] for name in found.unexpected if name.endswith("/bias")}
    if convs and convs <= extra:
        folded = any("/moving_" in name for name in found.missing)
        if folded:
            return "BatchNorm is folded into the file's convolutions, and this variant's convolutions take no bias."
        return 'the file\'s convolutions have biases, as in v1 (Keras): pass variant="v1".'
    return ""


def _ends(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    wrong = {it.name: it for it in found.wrong_shape}
    if wrong and set(wrong) <= {"predictions/kernel", "predictions/bias"}:
        classes = next(iter(wrong.values())).found[-1]
        return f"the file's classifier has {classes} classes: pass classes={classes}, or include_top=False."
    if set(wrong) == {"conv1_conv/kernel"}:
        channels = wrong["conv1_conv/kernel"].found[2]
        return f"the file's network takes pictures of {channels} channels: the last number in input_shape."
    if found.missing and set(found.missing) <= {"predictions/kernel", "predictions/bias"}:
        return "the file has no classifier: pass include_top=False."
    return ""


def _damaged(found: Match, file: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    if found.unusable and not (found.missing or found.unexpected or found.wrong_shape):
        return "the network in the file was damaged, or its training had diverged, before it was saved."
    if found.missing and len(found.matched) > len(found.missing):
        return "the file holds only a part of the network."
    return ""


def _called(blocks: tuple[int, ...]) -> str:
    name = f"ResNet-{DEPTHS[blocks]}" if blocks in DEPTHS else "a ResNet"
    return f"{name} with {', '.join(map(str, blocks))} blocks"


def _first(layers: Mapping[str, Any]) -> str:
    return ", ".join(list(layers)[:3]) + ", ..."
