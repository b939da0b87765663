"""NumPy arrays as they are pickled, among the tensors of a checkpoint or instead of them. Checked, not read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import WeightFileError
from greffon.weights.read.pickled_values import Known, Name, Opaque, Span, Stateful
from greffon.weights.read.torch_arrays import READABLE, StoredArray, checked_size, integers, numpy_dtype, swap_bytes

if TYPE_CHECKING:
    from greffon.weights.read.arrays import Array

_KINDS = {"f": "float", "i": "int", "u": "uint"}


class NumpyDtype(Stateful):
    """A type of numbers; its name is empty where it is no plain one."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.name = _dtype_name(arguments[0] if arguments else None)
        self.size = READABLE.get(self.name, 0)
        self.big_endian = False

    def take_state(self, state: Any) -> None:
        """(version, byte order, ...)."""
        if type(state) is tuple and len(state) > 1 and type(state[1]) in (str, bytes):
            self.big_endian = state[1] in (">", b">")


def _dtype_name(word: Any) -> str:
    if isinstance(word, Name):
        return "bfloat16" if word.full == "ml_dtypes.bfloat16" else ""
    if type(word) is not str:
        return ""
    if word in ("b1", "?", "|b1"):
        return "bool"
    found = re.fullmatch(r"[<=|]?([fiu])([1248])", word)
    name = f"{_KINDS[found[1]]}{8 * int(found[2])}" if found else ""
    return name if name in READABLE else ""


class Latin:
    """Bytes that Python 3 pickled as text, because the protocol has no bytes."""

    def __init__(self, span: Span) -> None:
        self.span = span


class NumpyArray(StoredArray, Stateful):
    """An array whose numbers lie in the pickle itself."""

    def __init__(self) -> None:
        self._raw: Any = None
        self._big_endian = False
        self._fortran = False

    def take_state(self, state: Any) -> None:
        """(version, shape, type, whether in Fortran's order, bytes)."""
        if type(state) is not tuple or len(state) != 5:
            raise WeightFileError("its pickle is damaged: an array is not described as NumPy does")
        _, shape, dtype, fortran, raw = state
        self.fill(shape, dtype, raw, fortran=bool(fortran))

    def fill(self, shape: Any, dtype: Any, raw: Any, *, fortran: bool) -> None:
        """Take what describes the array; an array of anything but plain numbers stays unusable."""
        # Of an array that is described twice nothing of the first description may stay: sizes were checked for that.
        self._raw, self.dtype, self.cost = None, "", 0
        self.shape = integers(shape)
        size = checked_size(self.shape)
        if not isinstance(dtype, NumpyDtype) or not dtype.name:
            return
        self._raw, self._big_endian, self._fortran = raw, dtype.big_endian, fortran
        self.cost = size * dtype.size
        if not _may_hold(raw, self.cost):
            raise WeightFileError(f"an array of shape {self.shape} claims {self.cost:,} bytes, and others are there")
        self.dtype = dtype.name

    def read(self) -> Array:
        """The numbers, as stored."""
        data = np.array(np.frombuffer(_bytes(self._raw), np.uint8))
        if data.size != self.cost:
            raise WeightFileError(f"an array of shape {self.shape} has {data.size:,} bytes, not {self.cost:,}")
        if READABLE[self.dtype] > 1 and self._big_endian:
            swap_bytes(data, READABLE[self.dtype], big_endian=True)
        return data.view(numpy_dtype(self.dtype)).reshape(self.shape, order="F" if self._fortran else "C")


def _may_hold(raw: Any, size: int) -> bool:
    if isinstance(raw, Span):
        return not raw.text and raw.size == size
    if isinstance(raw, Latin):  # half of the characters take two bytes
        return size <= raw.span.size <= 2 * size
    return type(raw) in (bytes, str) and len(raw) == size


def _bytes(raw: Any) -> bytes:
    try:
        if isinstance(raw, Span):
            return raw.read()
        if isinstance(raw, Latin):
            return raw.span.read().decode("utf-8").encode("latin-1")
        return bytes(raw) if isinstance(raw, bytes) else raw.encode("latin-1")
    except ValueError as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError("the bytes of an array are damaged") from None


def _encode(arguments: tuple[Any, ...]) -> Any:
    """`_codecs.encode` as pickles use it: text that stands for bytes."""
    if len(arguments) == 2 and type(arguments[1]) is str and arguments[1] in ("latin1", "latin-1", "iso-8859-1"):
        text = arguments[0]
        if isinstance(text, Span) and text.text:
            return Latin(text)
        if type(text) is str:
            return text.encode("latin-1")
    raise WeightFileError("its pickle asks for a codec other than latin1. Refused: no weight file needs it")


def _bytes_call(arguments: tuple[Any, ...]) -> Any:
    """`bytes()` and `bytearray(...)`, which stand for empty and for changeable bytes in older protocols."""
    if len(arguments) == 2:
        return _encode(arguments)
    found = arguments[0] if arguments else b""
    return found if isinstance(found, bytes | Span | Latin) else Opaque()


def _scalar(arguments: tuple[Any, ...]) -> Any:
    """One number, in Python's own type."""
    dtype, raw = (*arguments, None, None)[:2]
    if not isinstance(dtype, NumpyDtype) or not dtype.name:
        return Opaque()
    array = NumpyArray()
    array.fill((), dtype, raw, fortran=False)
    return Opaque() if isinstance(raw, Span | Latin) else array.read().item()


def _from_buffer(arguments: tuple[Any, ...]) -> Any:
    raw, dtype, shape, order = arguments[:4]
    array = NumpyArray()
    array.fill(shape, dtype, raw, fortran=type(order) is str and order == "F")
    return array


def makers() -> dict[str, Known]:
    """Full name in NumPy -> what builds an array, a type or a number from the arguments in a file."""
    made = {"_codecs.encode": _encode, "numpy.dtype": NumpyDtype}
    for module in ("builtins", "__builtin__"):
        made[f"{module}.bytes"] = made[f"{module}.bytearray"] = _bytes_call
    for core in ("numpy.core", "numpy._core"):
        made[f"{core}.multiarray._reconstruct"] = lambda arguments: NumpyArray()
        made[f"{core}.multiarray.scalar"] = _scalar
        made[f"{core}.numeric._frombuffer"] = _from_buffer
    return {full: Known(full, make) for full, make in made.items()}
