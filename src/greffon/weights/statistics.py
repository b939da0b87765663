"""Whether the weights of a network can be those of a trained one, and whether its BatchNorm layers fit their places.

The tests of BatchNorm rest on a passage in which every BatchNorm renews its statistics: what reaches a layer then
depends little on the kind of pictures, so that the stored means of a network trained on photographs agree with those
of rendered pictures; and little on what is wrong in front of it, so that only the layer itself is accused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from greffon.weights.passage import Moments, is_convolution, is_norm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from greffon.weights.passage import Floats, Passage

Severity = Literal["fault", "odd"]

# Measured on re-estimated networks: those in order agree to 0.78 or more, layers in each other's place to 0.55 or less.
_AGREES = 0.65
_FEWEST = 16  # channels, below which agreement says little
_SAMPLE = 4096  # values of a kernel that are looked at
_LISTED = 5


@dataclass(frozen=True)
class Finding:
    """Something about loaded weights that is wrong, or that a user should look at.

    Attributes:
        severity: `fault`: these weights cannot be right; `odd`: they may be.
        layer: that it is about; empty where it is about the network.
        sentence: what was found, for the user.
        numbers: what was measured.
    """

    severity: Severity
    layer: str
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


class Norm(NamedTuple):
    """A BatchNorm's weights; gamma and beta are ones and zeros where the layer has none."""

    gamma: Floats
    beta: Floats
    mean: Floats
    variance: Floats
    epsilon: float


def norms_of(model: Any) -> dict[str, Norm]:
    """The BatchNorm layers of a flat network over the last axis, by name, in the network's order."""
    found = {}
    for layer in model.layers:
        if is_norm(layer):
            mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
            gamma = np.ones_like(mean) if layer.gamma is None else _array(layer.gamma)
            beta = np.zeros_like(mean) if layer.beta is None else _array(layer.beta)
            found[layer.name] = Norm(gamma, beta, mean, variance, float(layer.epsilon))
    return found


def kernels_of(model: Any) -> dict[str, Floats]:
    """The kernels of a flat network's convolutions (height, width, in, out), by the layer's name."""
    return {layer.name: _array(layer.kernel) for layer in model.layers if is_convolution(layer)}


def impossible_norms(norms: Mapping[str, Norm]) -> list[Finding]:
    """BatchNorm layers whose weights no training leaves."""
    found = []
    for name, norm in norms.items():
        bad = sum(int((~np.isfinite(values)).sum()) for values in norm[:4])
        negative, zero = int((norm.variance < 0).sum()), int((norm.variance == 0).sum())
        channels = len(norm.variance)
        if bad:
            found.append(Finding("fault", name, f"{name}: {bad:,} of its values are NaN or infinite", {"bad": bad}))
        elif negative:
            said = f"{name}: {negative} of {channels} stored variances are negative, which no variance can be"
            found.append(Finding("fault", name, said, {"negative": negative, "channels": channels}))
        elif zero == channels:
            found.append(Finding("fault", name, f"{name}: all {channels} stored variances are 0", {"zero": zero}))
        elif not norm.gamma.any():
            said = f"{name}: its gamma is 0 in every channel, so nothing passes it but its beta"
            found.append(Finding("odd", name, said, {"channels": channels}))
    return found


def without_statistics(norms: Mapping[str, Norm], model: Any) -> Literal["", "folded", "untrained"]:
    """Why the stored means and variances tell nothing: all are 0 and 1; empty where they tell something.

    `folded`: scale and offset are in gamma, beta or the convolutions' biases; `untrained`: they are nowhere.
    """
    if not norms or any(norm.mean.any() or not _one(norm.variance, norm.epsilon) for norm in norms.values()):
        return ""
    moved = any(norm.beta.any() or not _one(norm.gamma, norm.epsilon) for norm in norms.values())
    biases = (layer.bias for layer in model.layers if is_convolution(layer) and layer.bias is not None)
    return "folded" if moved or any(_array(bias).any() for bias in biases) else "untrained"


def initial_kernels(kernels: Mapping[str, Floats]) -> list[str]:
    """Convolutions whose kernels are spread exactly as libraries spread random ones before training."""
    return [name for name, kernel in kernels.items() if kernel.size >= _SAMPLE and _as_initialised(kernel)]


def agreement(stored: Norm | Moments, seen: Moments) -> float | None:
    """How well a BatchNorm's stored means agree with those of what reaches it, over its channels.

    Returns:
        Rank correlation, -1..1: 1 is perfect, 0 is chance; None where there are too few live channels to tell.
    """
    alive = _alive(stored.variance)
    if alive.sum() < _FEWEST:
        return None
    mean, other = stored.mean[alive], seen.mean[alive]
    scaled, other_scaled = mean / _deviation(stored.variance[alive]), other / _deviation(seen.variance[alive])
    values = [_rank_correlation(mean, other), _rank_correlation(scaled, other_scaled)]
    return None if any(value is None for value in values) else float(np.mean([it for it in values if it is not None]))


def misplaced(model: Any, norms: Mapping[str, Norm], seen: Passage) -> list[Finding]:
    """BatchNorm layers that do not fit what reaches them, and blocks that would fit better in each other's place.

    Means are compared, not variances: those depend on the kind of pictures. So a kernel whose height and width are
    exchanged is not seen here, as the mean of what it gives is the same.

    Args:
        model: the flat network.
        norms: its BatchNorm layers; that which the pictures reach first is left out, for its mean is the pictures'.
        seen: a passage with renewed statistics.
    """
    first = next(iter(norms), "")
    found = {
        name: value
        for name, norm in norms.items()
        if name != first and name in seen.norms and (value := agreement(norm, seen.norms[name])) is not None
    }
    low = {name: value for name, value in found.items() if value < _AGREES}
    if len(low) > max(len(found) // 3, 2):
        return [_everywhere(low, len(found))]
    swapped = list(_exchanged(kernels_of(model), norms, seen.arriving, model))
    inside = tuple(f"{block}_" for pair in swapped for block in pair[:2])
    findings = [_swap_sentence(*pair) for pair in swapped]
    findings += [_misfit(name, value) for name, value in low.items() if not name.startswith(inside)]
    return findings


def _misfit(name: str, value: float) -> Finding:
    said = (
        f"{name}: its stored means do not fit what reaches it (agreement {value:.2f}; 1 is perfect, 0 is chance): "
        "is a layer in another one's place, or a kernel transposed?"
    )
    return Finding("odd", name, said, {"agreement": value})


def _everywhere(low: Mapping[str, float], tested: int) -> Finding:
    names = list(low)
    shown = ", ".join(names[:_LISTED]) + (f", and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    typical = float(np.median(list(low.values())))
    said = (
        f"{len(low)} of {tested} BatchNorm layers have stored means that do not fit what reaches them (median "
        f"agreement {typical:.2f}; 1 is perfect, 0 is chance): {shown}. Are the weights in the wrong places, or these "
        "statistics from another network?"
    )
    return Finding("odd", "", said, {"layers": len(low), "tested": tested, "agreement": typical})


def _swap_sentence(one: str, other: str, ratio: float) -> Finding:
    said = (
        f"{one} and {other} would fit better in each other's place: their stored means are {ratio:.1f} times as far "
        "from what reaches them where they are. Are the two blocks swapped?"
    )
    return Finding("odd", one, said, {"times": ratio})


def _exchanged(
    kernels: Mapping[str, Floats], norms: Mapping[str, Norm], arriving: Mapping[str, Floats], model: Any
) -> Iterable[tuple[str, str, float]]:
    """Pairs of blocks that fit better in each other's place, each block once: (one, other, times better)."""
    alike: dict[Any, list[str]] = defaultdict(list)
    for name in arriving:
        block = re.fullmatch(r"(.+)_block\d+_1_conv", name)
        if block and name.removesuffix("_conv") + "_bn" in norms:
            alike[block[1], kernels[name].shape].append(name)
    pairs = []
    for names in alike.values():
        far = _distances(names, kernels, norms, arriving, model)
        for i in range(len(names)):
            for j in range(i):
                here, there = far[i, i] + far[j, j], far[i, j] + far[j, i]
                if here > 1.05 * there and here > 0.2:
                    pairs.append((here / max(there, 1e-6), names[j], names[i]))
    taken: set[str] = set()
    for ratio, one, other in sorted(pairs, reverse=True):
        if not taken & {one, other}:
            taken |= {one, other}
            yield one.removesuffix("_1_conv"), other.removesuffix("_1_conv"), float(ratio)


def _distances(
    names: list[str],
    kernels: Mapping[str, Floats],
    norms: Mapping[str, Norm],
    arriving: Mapping[str, Floats],
    model: Any,
) -> Floats:
    """How far the stored means of a block (column) are from what it would get in a place (row), in deviations.

    A 1x1 convolution is linear, so the mean of what arrives in a place is all that is needed.
    """
    far = np.zeros((len(names), len(names)))
    places = np.stack([arriving[name] for name in names])
    for column, name in enumerate(names):
        norm, bias = norms[name.removesuffix("_conv") + "_bn"], model.get_layer(name).bias
        means = places @ kernels[name][0, 0] + (0 if bias is None else _array(bias))
        alive = _alive(norm.variance)
        off = np.abs(means - norm.mean)[:, alive] / _deviation(norm.variance[alive])
        far[:, column] = np.minimum(off, 3).mean(axis=1)
    return far


def _as_initialised(kernel: Floats) -> bool:
    """Uniform within Glorot's or Kaiming's bounds, or normal with the standard deviation of He's initialisers."""
    values = kernel.reshape(-1)[:: max(kernel.size // _SAMPLE, 1)].astype(np.float64)
    area, (ins, outs) = int(np.prod(kernel.shape[:-2])), kernel.shape[-2:]
    deviation = float(values.std())
    if not np.isfinite(deviation) or deviation == 0:
        return False
    tails = float(((values / deviation) ** 4).mean())
    largest = float(np.abs(values).max())
    if abs(tails - 1.8) < 0.1:
        bounds = (np.sqrt(6 / (area * (ins + outs))), np.sqrt(6 / (area * ins)), np.sqrt(1 / (area * ins)))
        return any(0.99 * bound < largest <= bound * (1 + 1e-3) for bound in bounds)
    close = any(abs(deviation / np.sqrt(2 / (area * fan)) - 1) < 0.03 for fan in (ins, outs))
    return close and abs(tails - 3) < 0.3


def _rank_correlation(one: Floats, other: Floats) -> float | None:
    if one.std() == 0 or other.std() == 0 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    rank, other_rank = (np.argsort(np.argsort(values)).astype(np.float64) for values in (one, other))
    return float(np.corrcoef(rank, other_rank)[0, 1])


def _alive(variance: Floats) -> Any:
    """Channels that vary: dead ones agree, or do not, by chance."""
    return variance > 1e-3 * float(np.median(variance))


def _deviation(variance: Floats) -> Floats:
    return np.sqrt(np.maximum(variance, 1e-12))


def _one(values: Floats, epsilon: float) -> bool:
    """Whether all are 1, or the 1 minus epsilon that makes a BatchNorm the identity."""
    return bool((np.abs(values - 1) <= 1.01 * max(epsilon, 1e-6)).all())


def _array(value: Any) -> Floats:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(value), np.float32)
