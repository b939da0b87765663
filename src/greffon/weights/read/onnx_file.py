"""ONNX: the initialisers of a graph, and of its nodes what tells which weight belongs where. Nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Contents, Tensor
from greffon.weights.read.members import open_member
from greffon.weights.read.onnx_tensor import Stored, Tensors
from greffon.weights.read.wire import Field, Source, Span

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "ONNX"
_TOP = frozenset({2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_MOST_EXPANSION = 4  # one tensor may stand under several names
_SMALL = 1 << 26
# Operator -> what its inputs are called in `configs`, from the second on.
_INPUTS = {
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "MatMul": ("weight",),
    "BatchNormalization": ("weight", "bias", "mean", "variance"),
}
_SAME = ("Identity", "Cast")  # what comes out of them is the same weight
_LISTS = ("strides", "pads", "dilations", "kernel_shape")
_INTEGERS = ("group", "transA", "transB")


def recognises(head: bytes, path: Path) -> bool:
    """A model begins with its version, a small number, and one of the fields that a model has."""
    if len(head) < 4 or head[0] != 0x08 or not 3 <= head[1] < 0x80:
        return False
    return head[2] >> 3 in _TOP and head[2] & 7 in (0, 2)


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """An ONNX model, open for reading.

    Names, shapes and types are those of the file; kernels are (out, in, height, width). Tensors come in the order in
    which the nodes use them. `configs` has an entry for each weight of a convolution, a dense layer and a batch
    normalisation: `op`, the names of the other initialisers, `strides`, `input` and `output`.

    Raises:
        WeightFileError: it is damaged, or keeps tensors in files that it may not name.
    """
    with ExitStack() as stack:
        try:
            source = Source(*open_member(path, stack, named_by_user=True))
            yield _Model(source, path, stack).contents()
        except OSError as error:
            raise WeightFileError(f"it cannot be read: {error.strerror or error}") from None


class _Model:
    def __init__(self, source: Source, path: Path, stack: ExitStack) -> None:
        self._source = source
        self._result = Contents({}, NAME)
        self._tensors = Tensors(source, path, stack)
        self._stored: dict[str, Stored] = {}
        self._operators: Counter[str] = Counter()
        self._uses: dict[str, None] = {}
        self._same: dict[str, str] = {}

    def contents(self) -> Contents:
        """Everything but the numbers."""
        metadata = self._result.metadata
        for field in self._source.fields(self._source.all):
            if field.number in (2, 3):
                key = "producer_name" if field.number == 2 else "producer_version"
                metadata[key] = self._source.text(field.span)
            elif field.number == 14:
                parts = {it.number: it for it in self._source.fields(field.span)}
                if 1 in parts and 2 in parts and parts[2].span.size < 4096:
                    metadata.setdefault(self._source.text(parts[1].span), self._source.text(parts[2].span))
            elif field.number == 7:
                self._graph(field.span)
        metadata["operators"] = ", ".join(f"{count} {name}" for name, count in self._operators.most_common())
        if any(
            name.startswith(("QLinear", "DequantizeLinear")) or name.endswith("Integer") for name in self._operators
        ):
            self._result.notes.append("Its weights are quantised to 8 bits: the integers are given as they are.")
        self._add_all()
        return self._result

    def _graph(self, span: Span) -> None:
        for field in self._source.fields(span):
            if field.number == 5:
                self._take(self._tensors.described(field.span, ""))
            elif field.number == 1:
                self._node(field.span)
            elif field.number == 15:
                self._result.notes.append("A sparse initialiser is left out.")

    def _take(self, stored: Stored) -> None:
        if not stored.name or stored.name in self._stored:
            raise WeightFileError(f"it is damaged: two tensors are called {stored.name!r}")
        self._stored[stored.name] = stored

    def _node(self, span: Span) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        operator, attributes = "", []
        for field in self._source.fields(span):
            if field.number in (1, 2):
                (inputs if field.number == 1 else outputs).append(self._source.text(field.span))
            elif field.number == 4:
                operator = self._source.text(field.span)
            elif field.number == 5:
                attributes.append(field)
        self._operators[operator] += 1
        if operator not in _SAME:
            self._uses.update(dict.fromkeys(inputs))
        if operator == "Constant" and outputs:
            self._constant(attributes, outputs[0])
        elif operator in _SAME and inputs and outputs:
            self._same[outputs[0]] = inputs[0]
        elif operator in _INPUTS and len(inputs) > 1:
            roles = dict(zip(_INPUTS[operator], inputs[1:], strict=False))
            config: dict[str, Any] = {"op": operator, "input": inputs[0], "output": outputs[0] if outputs else ""}
            config |= {role: name for role, name in roles.items() if name and role != "weight"}
            self._result.configs[roles["weight"]] = config | self._attributes(attributes)

    def _constant(self, attributes: list[Field], name: str) -> None:
        for attribute in attributes:
            for field in self._source.fields(attribute.span):
                if field.number == 5:
                    self._take(self._tensors.described(field.span, name))

    def _attributes(self, attributes: list[Field]) -> dict[str, Any]:
        """The attributes of a node that say how it uses its weight."""
        found: dict[str, Any] = {}
        for attribute in attributes:
            name, number = "", None
            many: list[int] = []
            for field in self._source.fields(attribute.span):
                if field.number == 1:
                    name = self._source.text(field.span)
                elif field.number == 3:
                    number = field.signed
                elif field.number == 8:
                    many.extend(self._tensors.integers(field))
                elif field.number == 2 and isinstance(field.value, int):
                    found |= {"epsilon": self._tensors.single(field.value)} if name == "epsilon" else {}
            if name in _LISTS:
                found[name] = many
            elif name in _INTEGERS and number is not None:
                found[name] = number
        return found

    def _add_all(self) -> None:
        """The weights in the order of their use, under each name that is used, and behind them those never used."""
        left = _MOST_EXPANSION * (self._source.size + self._tensors.outside) + _SMALL
        used = {self._original(name) for name in self._uses}
        for name in [*self._uses, *(name for name in self._stored if name not in used)]:
            stored = self._stored.get(self._original(name))
            if stored is None or not _is_weight(stored):
                continue
            left -= math.prod(stored.shape) * stored.itemsize
            if left < 0:
                raise WeightFileError("it gives far more tensors than its size can hold. Refused")
            self._result.add(name, Tensor(stored.shape, stored.dtype, self._tensors.reader(stored)))
        for name in [name for name in self._result.configs if name not in self._result.tensors]:
            del self._result.configs[name]  # a product of two activations
        self._result.layer_names = tuple(dict.fromkeys(it.rpartition(".")[0] or it for it in self._result.tensors))
        unknown = [it.name for it in self._stored.values() if not it.dtype]
        if unknown:
            self._result.notes.append(f"{len(unknown)} tensors of types that no network here has are left out.")

    def _original(self, name: str) -> str:
        for _ in range(8):
            if name not in self._same or name in self._stored:
                break
            name = self._same[name]
        return name


def _is_weight(stored: Stored) -> bool:
    """Shapes, axes and other small integers are arguments of nodes."""
    numbers = math.prod(stored.shape)
    return bool(stored.dtype) and numbers > 0 and (stored.floating or len(stored.shape) > 1)
