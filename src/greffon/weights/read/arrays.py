"""What a reader gives: named arrays, and what else the file tells about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greffon.errors import WeightFileError

Array = NDArray[Any]


@dataclass
class WeightArrays:
    """The arrays of a weight file, by name.

    Attributes:
        arrays: `layer/weight` -> array, in the file's order. Names of weights are Keras' own: `kernel`, `bias`,
            `gamma`, `beta`, `moving_mean`, `moving_variance`. Kernels are (height, width, in, out). Floating
            point numbers are float32 whatever the file holds.
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

    def add(self, layer: str, weight: str, array: Array) -> None:
        """Take in one array; floating point becomes float32.

        Raises:
            WeightFileError: the name is taken already, or the array does not hold numbers.
        """
        name = f"{layer}/{weight}"
        if name in self.arrays:
            raise WeightFileError(
                f"two arrays in the file are called {name!r}: it holds two networks with the same layer names, "
                "and which one is meant cannot be told. Save the backbone alone (backbone.save_weights)."
            )
        self.arrays[name] = numbers(array, name)


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
