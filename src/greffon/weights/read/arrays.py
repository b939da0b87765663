"""What a reader gives: tensors by name, each with its shape and the way to its numbers, and what the file tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array = NDArray[Any]
Shape = tuple[int, ...]

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(frozen=True)
class Tensor:
    """One tensor of an open weight file: what the file says it is, and how to get its numbers.

    Attributes:
        shape: as the file says.
        dtype: as stored, in NumPy's words or "bfloat16".
        read: gives the numbers as they are stored, read from the open file. Only `load` calls it.
    """

    shape: Shape
    dtype: str
    read: Callable[[], Array]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether it holds floating point numbers, of any width."""
        return self.dtype in _FLOATS

    def load(self) -> Array:
        """The numbers: float32 for floating point of any width, else integers or booleans as stored.

        Raises:
            WeightFileError: they cannot be read, are of another shape than was said, or are no numbers.
        """
        array = numbers(self.read(), "of a tensor")
        if array.shape != self.shape:
            raise WeightFileError(f"a tensor of shape {self.shape} was announced, and {array.shape} came")
        return array

    def transposed(self, axes: Sequence[int]) -> Tensor:
        """The same numbers with their axes in another order; nothing is read yet."""
        shape = tuple(self.shape[axis] for axis in axes)
        return replace(self, shape=shape, read=lambda: np.transpose(self.read(), axes))


def in_memory(array: Array) -> Tensor:
    """An array as a tensor."""
    return Tensor(array.shape, array.dtype.name, lambda: array)


@dataclass
class Contents:
    """What an open weight file holds.

    Attributes:
        tensors: name -> tensor, in the file's order. A reader of Keras' files names them `layer/weight`, with
            Keras' own words for weights (`kernel`, `bias`, `gamma`, `beta`, `moving_mean`, `moving_variance`)
            and kernels (height, width, in, out); any other reader keeps the names and the order of axes of the
            file, and `naming` translates them.
        format: what the file is, in words.
        notes: what the user should know about how it is read, one sentence each.
        metadata: what the file says about itself, such as the version of Keras that wrote it.
        layer_names: every layer that the file names, those without weights too; Keras' files only.
        configs: layer name -> its stored configuration, as data; empty for files that hold weights alone.
    """

    tensors: dict[str, Tensor]
    format: str
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    layer_names: tuple[str, ...] = ()
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in one tensor.

        Raises:
            WeightFileError: the name is taken already.
        """
        if name in self.tensors:
            raise WeightFileError(
                f"two arrays in the file are called {name!r}: it holds two networks with the same layer names, "
                "and which one is meant cannot be told. Save the backbone alone (backbone.save_weights)."
            )
        self.tensors[name] = tensor

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    def load(self) -> WeightArrays:
        """All of it in memory; the file may be closed then.

        Raises:
            WeightFileError: a tensor cannot be read; it is named.
        """
        arrays = {name: _named(name, tensor) for name, tensor in self.tensors.items()}
        return WeightArrays(arrays, self.format, self.notes, self.metadata, self.layer_names, self.configs)


@dataclass
class WeightArrays:
    """The arrays of a weight file, in memory.

    Attributes:
        arrays: name -> array, named and ordered as in `Contents`. Floating point numbers are float32 whatever
            the file holds.
        format: what the file is, in words.
        notes: what the user should know about how it was read, one sentence each.
        metadata: what the file says about itself, such as the version of Keras that wrote it.
        layer_names: every layer that the file names, those without weights too.
        configs: layer name -> its stored configuration, as data; empty for files that hold weights alone.
    """

    arrays: dict[str, Array]
    format: str
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    layer_names: tuple[str, ...] = ()
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)


def numbers(array: Array, name: str) -> Array:
    """The array as float32 if it is floating point of any width, as it is if it holds integers.

    Raises:
        WeightFileError: it holds something else.
    """
    # bfloat16 comes as a dtype of ml_dtypes, whose kind is "V" like that of any opaque type.
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # too large for float32 becomes inf, which is refused by name later
            return np.asarray(array, dtype=np.float32)
    if array.dtype.kind in "iub":
        return array
    raise WeightFileError(f"the array {name!r} holds {array.dtype}, expected numbers")


def _named(name: str, tensor: Tensor) -> Array:
    try:
        return tensor.load()
    except WeightFileError as error:
        raise WeightFileError(f"{name}: {error}") from error
