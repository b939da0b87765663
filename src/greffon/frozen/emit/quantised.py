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

_OBSERVED = ("GlobalMaxPool", "GlobalAveragePool", "GlobalMaxPool")


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
    """Finds what can be held in bytes in a graph that was emitted in float32, and writes that graph's other forms.

    Args:
        build: the emitted nodes and constants; left as they are.
        inputs: as the builder declared them.
        outputs: likewise.

    Attributes:
        held: the tensors that can be held in bytes, by their name in the graph, in the order of computing.
    """

    def __init__(self, build: Builder, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        self._float32, self._inputs, self._outputs = build, inputs, outputs
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

    def observing(self) -> bytes:
        """The float32 model with more outputs, of shape (batch, channels, 1, 1), for each tensor that is held.

        They are its largest number in each channel, the mean, and, where it may be negative, the largest of it
        negated: operators that ONNX Runtime computes in the layout that convolutions have. `observed` reads them.
        """
        build, outputs = self._float32.copy(), list(self._outputs)
        for name, held in self.held.items():
            read = [name, name, *([build.node("Neg", name)] if held.low < 0 else [])]
            for kind, tensor in zip(_OBSERVED, read, strict=False):
                output = build.node(kind, tensor, name=f"observed_{len(outputs)}")
                sizes = ["batch", f"{output}_channels", 1, 1]
                outputs.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, sizes))
        return build.model(self._inputs, outputs)

    def observed(self, values: Sequence[Array]) -> dict[str, Observed]:
        """What the model's additional outputs say of each tensor, by key; it need not be finite.

        Args:
            values: what the model gave, (pictures, channels, 1, 1) each.
        """
        found, rest = {}, [value.reshape(len(value), -1) for value in values[len(self._outputs) :]]
        with np.errstate(all="ignore"):
            for held in self.held.values():
                high, means = rest.pop(0).max(axis=1), rest.pop(0).mean(axis=0)
                low = -rest.pop(0).max(axis=1) if held.low < 0 else np.zeros(1, np.float32)
                ends, typical = (float(low.min()), float(high.max())), (float(low.mean()), float(high.mean()))
                found[held.key] = Observed(*ends, *typical, means=means)
        return found

    # --- rewriting ---------------------------------------------------------------------------------------------

    def quantised(self, how: Quantisation) -> bytes:
        """The model with integer operators in the place of float32 ones."""
        build = self._float32.copy()
        build.nodes = []
        dropped = set(self._gives.values())
        scales: dict[str, tuple[float, int]] = {}
        for name, held in self.held.items():
            scales[name] = scales[held.like] if held.like else _scale(held, how)
        turned: dict[str, str] = {}
        for node in self._float32.nodes:
            if node.output[0] in dropped:
                continue
            gives = self._gives.get(node.output[0], node.output[0])
            integer = gives in self.held and self.held[gives].given
            for name in node.input:
                if name in self.held and name not in turned and (integer or self.held[name].given):
                    turned[name] = _by_way_of_bytes(build, name, *scales[name])
            inputs = [
                turned[name] if name in self.held and (integer or self.held[name].given) else name
                for name in node.input
            ]
            if integer and node.op_type == "Conv":
                inputs[1:] = self._weights(build, node, scales[node.input[0]][0], how)
            _copy(build, node, inputs, gives)
        build.drop_unread()
        return build.model(self._inputs, self._outputs)

    def _weights(self, build: Builder, node: onnx.NodeProto, input_scale: float, how: Quantisation) -> list[str]:
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
        parts = (whole, np.int8, scales), (whole_bias, np.int32, bias_scales)
        return [_turned_back(build, *part) for part in parts]

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name])


def _by_way_of_bytes(build: Builder, name: str, scale: float, zero: int) -> str:
    parts = build.constant(scale), build.constant(zero, np.uint8)
    whole = _add(build, "QuantizeLinear", name, *parts, name=f"{name}_bytes")
    return _add(build, "DequantizeLinear", whole, *parts, name=f"{name}_held")


def _turned_back(build: Builder, whole: Array, dtype: npt.DTypeLike, scales: Array) -> str:
    parts = build.constant(whole, dtype), build.constant(scales), build.constant(np.zeros(len(scales)), dtype)
    return _add(build, "DequantizeLinear", *parts, axis=0)


def _copy(build: Builder, node: onnx.NodeProto, inputs: Sequence[str], gives: str) -> None:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"q{len(build.nodes)}"
    del copy.input[:], copy.output[:]
    copy.input.extend(inputs)
    copy.output.append(gives)
    build.nodes.append(copy)


def _add(build: Builder, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
    number = len(build.nodes)
    output = name or f"q{number}_held"
    build.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"q{number}", **attributes))
    return output


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
