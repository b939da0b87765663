"""An emitted graph with 8-bit convolutions, in the form (QDQ) that ONNX Runtime fuses into integer operators.

Convolutions, the additions of residual blocks, joins and maxima of them read and give unsigned bytes; every other
operator stays float32 and reads bytes turned back. Weights are signed and symmetric with a factor per channel, biases
32-bit. A ReLU behind an integer operator costs nothing: bytes that begin at zero cannot be negative.

What is known of a tensor goes by a key, the digest of all that computes it. So two cuts of one network share what they
have in common; and whether a tensor is held in bytes does not depend on where the network is cut either, so that a
layer gives the same numbers in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import xxhash
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from greffon.frozen.emit.builder import Builder

    Array = npt.NDArray[Any]

# To be raised when the same ranges and weights would give other numbers than before.
QUANTISATION_VERSION = 1

# Sums of products are 32-bit; a bias takes at most half of what they hold.
_LARGEST_BIAS = 2**30

_OBSERVED = ("GlobalMaxPool", "GlobalAveragePool")


@dataclass(frozen=True)
class Observed:
    """What a tensor was on some pictures, in float32.

    Attributes:
        low: the smallest number in it.
        high: the largest.
        typical_low: the mean over pictures of each one's smallest.
        typical_high: the mean over pictures of each one's largest.
        means: the mean of each channel.
    """

    low: float
    high: float
    typical_low: float
    typical_high: float
    means: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantisation:
    """All that turns a float32 graph into an integer one.

    Attributes:
        observed: what is known of the tensors that are held in bytes, by key.
        typical: whether bytes cover the typical range; otherwise the whole one.
        weight_bits: 8, or 7 where products of bytes are summed in 16 bits first, which 8 bits could exceed.
    """

    observed: Mapping[str, Observed]
    typical: bool
    weight_bits: int

    def range(self, key: str) -> tuple[float, float]:
        """Lowest and highest number that bytes have to stand for."""
        seen = self.observed[key]
        return (seen.typical_low, seen.typical_high) if self.typical else (seen.low, seen.high)

    def digest(self) -> str:
        """What tells its numbers apart from those after another calibration."""
        digest = xxhash.xxh3_128()
        for key in self.observed:
            digest.update(f"{key} {self.range(key)}".encode() + self.observed[key].means.tobytes())
        return f"version {QUANTISATION_VERSION}, {self.weight_bits} bits, {digest.hexdigest()}"


@dataclass(frozen=True)
class Held:
    """A tensor held in bytes.

    Attributes:
        key: digest of what computes it: names do not count.
        low: the smallest number that its operator can give, where that is known.
        high: the largest.
        like: the tensor whose range it takes over, as it holds no other numbers; otherwise nothing.
        given: whether an integer operator gives it; otherwise float32 is turned into bytes for those who read it.
    """

    key: str
    low: float = -np.inf
    high: float = np.inf
    like: str | None = None
    given: bool = True


class Quantiser:
    """Finds what can be held in bytes in a graph that was emitted in float32; observes or rewrites it.

    Args:
        build: the emitted nodes and constants, outputs included.

    Attributes:
        held: the tensors that can be held in bytes, by their name in the graph, in the order of computing.
    """

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.constants = {constant.name: constant for constant in build.constants}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in build.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.held: dict[str, Held] = {}
        self._keys = _keys(build)
        self._gives: dict[str, str] = {}  # what an operator gives, to what is left of it once its activation is dropped
        for node in build.nodes:
            self._hold(node)

    @property
    def keys(self) -> list[str]:
        """The keys of what is held in bytes, each once."""
        return list(dict.fromkeys(held.key for held in self.held.values()))

    @property
    def stem(self) -> str | None:
        """The key of the first integer operator's output; nothing where there is no such operator."""
        return next((held.key for held in self.held.values() if held.given), None)

    # --- finding -----------------------------------------------------------------------------------------------

    def _hold(self, node: onnx.NodeProto) -> None:
        data = [name for name in node.input if name not in self.constants]
        all_held = all(name in self.held for name in data)
        if node.op_type == "Conv" and len(data) == 1:
            if not all_held:
                self.held[data[0]] = Held(self._keys[data[0]], given=False)
            self._give(node)
        elif node.op_type in ("Add", "Concat") and len(data) == len(node.input) > 1 and all_held:
            self._give(node)
        elif node.op_type == "MaxPool" and all_held:
            self.held[node.output[0]] = Held(self._keys[node.output[0]], like=self.held[data[0]].like or data[0])

    def _give(self, node: onnx.NodeProto) -> None:
        output, low, high = node.output[0], -np.inf, np.inf
        readers = self.readers.get(output, [])
        if len(readers) == 1 and (limits := self._limits(readers[0])) is not None:
            (low, high), output = limits, readers[0].output[0]
            self._gives[node.output[0]] = output
        self.held[output] = Held(self._keys[output], low, high)

    def _limits(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """What an activation lets through, where it does no more than cut off below zero, or above a number too."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        if node.op_type == "Clip" and all(name in self.constants for name in node.input[1:3]):
            low, high = (float(self._array(name)) for name in node.input[1:3])
            return (low, high) if low == 0 < high else None
        return None

    # --- observing ---------------------------------------------------------------------------------------------

    def observe(self) -> list[onnx.ValueInfoProto]:
        """Add outputs of shape (batch, channels, 1, 1) to the float32 graph: three for each tensor that is held.

        These are its largest number in each channel, the mean, and the largest of it negated: operators that ONNX
        Runtime computes in the layout that convolutions have.
        """
        outputs: list[onnx.ValueInfoProto] = []
        for name in self.held:
            negated = self.build.node("Neg", name)
            for kind, read in ((_OBSERVED[0], name), (_OBSERVED[1], name), (_OBSERVED[0], negated)):
                output = self.build.node(kind, read, name=f"observed_{len(outputs)}")
                sizes = ["batch", f"{output}_channels", 1, 1]
                outputs.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, sizes))
        return outputs

    # --- rewriting ---------------------------------------------------------------------------------------------

    def rewrite(self, how: Quantisation) -> None:
        """Put integer operators in the place of float32 ones, in the builder that was given."""
        nodes, self.build.nodes = self.build.nodes, []
        dropped = set(self._gives.values())
        scales: dict[str, tuple[float, int]] = {}
        for name, held in self.held.items():
            scales[name] = scales[held.like] if held.like else _scale(held, how)
        turned: dict[str, str] = {}
        for node in nodes:
            if node.output[0] in dropped:
                continue
            gives = self._gives.get(node.output[0], node.output[0])
            integer = gives in self.held and self.held[gives].given
            for name in node.input:
                if name in self.held and name not in turned and (integer or self.held[name].given):
                    turned[name] = self._by_way_of_bytes(name, *scales[name])
            inputs = [
                turned[name] if name in self.held and (integer or self.held[name].given) else name
                for name in node.input
            ]
            if integer and node.op_type == "Conv":
                inputs[1:] = self._weights(node, scales[node.input[0]][0], how)
            self._copy(node, inputs, gives)
        self.build.drop_unread()

    def _by_way_of_bytes(self, name: str, scale: float, zero: int) -> str:
        parts = self.build.constant(scale), self.build.constant(zero, np.uint8)
        whole = self._add("QuantizeLinear", name, *parts, name=f"{name}_bytes")
        return self._add("DequantizeLinear", whole, *parts, name=f"{name}_held")

    def _weights(self, node: onnx.NodeProto, input_scale: float, how: Quantisation) -> list[str]:
        """Names of kernel and bias of a convolution, as integers turned back."""
        kernel = self._array(node.input[1]).astype(np.float64)
        bias = self._array(node.input[2]).astype(np.float64) if len(node.input) > 2 else np.zeros(len(kernel))
        each = (-1, *(1,) * (kernel.ndim - 1))
        largest = 2 ** (how.weight_bits - 1) - 1
        scales = np.abs(kernel).reshape(len(kernel), -1).max(axis=1) / largest
        scales = np.maximum(scales, np.abs(bias) / input_scale / _LARGEST_BIAS)  # nearly no weights, but a bias
        scales = np.where(scales > np.finfo(np.float32).tiny, scales, 1).astype(np.float32)
        whole = np.clip(np.rint(kernel / scales.astype(np.float64).reshape(each)), -largest, largest)
        # Rounded weights shift what a channel gives on the average; that much goes off the bias.
        shift = _expected(whole * scales.reshape(each) - kernel, how.observed[self.held[node.input[0]].key].means)
        bias_scales = (np.float32(input_scale) * scales).astype(np.float32)
        whole_bias = np.clip(np.rint((bias - shift) / bias_scales), -_LARGEST_BIAS, _LARGEST_BIAS)
        return [self._turned_back(whole, np.int8, scales), self._turned_back(whole_bias, np.int32, bias_scales)]

    def _turned_back(self, whole: Array, dtype: npt.DTypeLike, scales: Array) -> str:
        zeros = self.build.constant(np.zeros(len(scales)), dtype)
        return self._add(
            "DequantizeLinear", self.build.constant(whole, dtype), self.build.constant(scales), zeros, axis=0
        )

    def _copy(self, node: onnx.NodeProto, inputs: Sequence[str], gives: str) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"q{len(self.build.nodes)}"
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.append(gives)
        self.build.nodes.append(copy)

    def _add(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        number = len(self.build.nodes)
        output = name or f"q{number}_held"
        self.build.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"q{number}", **attributes))
        return output

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name])


def observed(arrays: Sequence[Array], keys: Sequence[str]) -> dict[str, Observed]:
    """What the outputs that `Quantiser.observe` added say.

    Args:
        arrays: their values, (pictures, channels, 1, 1) each.
        keys: of the tensors that are held, in order.
    """
    found = {}
    with np.errstate(all="ignore"):  # the caller looks for what is not finite
        for place, key in enumerate(keys):
            highs, means, lows = (array.reshape(len(array), -1) for array in arrays[3 * place : 3 * place + 3])
            high, low = highs.max(axis=1), -lows.max(axis=1)
            numbers = map(float, (low.min(), high.max(), low.mean(), high.mean()))
            found[key] = Observed(*numbers, means.mean(axis=0))
    return found


def _scale(held: Held, how: Quantisation) -> tuple[float, int]:
    """Factor and zero point: zero itself is always one of the bytes, and an activation ends where bytes end."""
    low, high = how.range(held.key)
    low, high = min(max(low, held.low), 0.0), max(min(high, held.high), 0.0)
    scale = float(np.float32((high - low) / 255))
    if scale < np.finfo(np.float32).tiny:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def _expected(kernel: Array, means: Array) -> Array:
    """What a convolution gives for channels that have their mean everywhere; what is padded is left out of account."""
    groups = len(means) // kernel.shape[1]
    of_group = np.repeat(means.astype(np.float64).reshape(groups, -1), len(kernel) // groups, axis=0)
    return np.asarray((kernel.reshape(*kernel.shape[:2], -1).sum(axis=2) * of_group).sum(axis=1))


def _keys(build: Builder) -> dict[str, str]:
    """A digest for every tensor: of its operator, of the constants and tensors that this reads."""
    keys = {constant.name: _digest(constant.raw_data, str(list(constant.dims))) for constant in build.constants}
    for node in build.nodes:
        read = " ".join(keys.get(name, name) for name in node.input)
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        keys[node.output[0]] = _digest(b"".join(attributes), node.op_type, read)
    return keys


def _digest(data: bytes, *parts: str) -> str:
    digest = xxhash.xxh3_128(data)
    digest.update("\n".join(parts).encode())
    return digest.hexdigest()
