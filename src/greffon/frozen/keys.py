"""Pictures as a model takes them, and their names: 16 bytes that stand for what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    Array = np.ndarray[Any, Any]


def as_taken(inputs: Sequence[Array], specs: Sequence[keras.KerasTensor]) -> list[Array]:
    """Inputs in the rank that a model takes: Keras adds or drops a last axis of length 1, and so does this.

    Args:
        inputs: one array of shape (n, ...) per input.
        specs: of the model's inputs.
    """
    taken = []
    for array, spec in zip(inputs, specs, strict=True):
        missing = len(spec.shape) - array.ndim
        if missing == 1 and spec.shape[-1] == 1:
            array = array[..., np.newaxis]  # noqa: PLW2901
        elif missing == -1 and array.shape[-1] == 1:
            array = array[..., 0]  # noqa: PLW2901
        taken.append(array)
    return taken


def content_keys(inputs: Sequence[Array], dtypes: Sequence[str]) -> list[bytes]:
    """16 bytes for each row that name its content: dtype, shape and bytes of all inputs.

    Args:
        inputs: one array of shape (n, ...) per input of a model.
        dtypes: what the model converts them to. The same picture as uint8 and as float has the same key.

    Returns:
        One key per row.

    Example:
        >>> import numpy as np
        >>> from greffon.frozen.keys import content_keys
        >>> a = content_keys([np.array([[1, 2], [3, 4]], np.uint8)], ["float32"])
        >>> b = content_keys([np.array([[3.0, 4.0]])], ["float32"])
        >>> a[1] == b[0], a[0] == b[0]
        (True, False)
    """
    dtypes = ["float32" if dtype == "bfloat16" else dtype for dtype in dtypes]  # which NumPy does not have
    kind = repr([(dtype, array.shape[1:]) for array, dtype in zip(inputs, dtypes, strict=True)]).encode()
    keys = []
    with np.errstate(invalid="ignore"):  # what Keras makes of a number that does not fit, the key need not know
        for row in range(len(inputs[0])):
            digest = xxhash.xxh3_128(kind)
            for array, dtype in zip(inputs, dtypes, strict=True):
                digest.update(np.ascontiguousarray(array[row], dtype).reshape(-1).view(np.uint8).data)
            keys.append(digest.digest())
    return keys
