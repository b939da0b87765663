"""What a model can be exported to: names, precisions, what each needs, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, cast

from greffon.errors import InputError, MissingPackageError
from greffon.recipe import nearest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    import numpy as np

    from greffon.exporting.shipped import Shipped

    Array = np.ndarray[Any, Any]
    # Gives probabilities, float32 (n, classes), of pictures, uint8 (n, size, size, 3); n may be anything from 1 on.
    Answer = Callable[[Array], Array]
    # Gives pictures to find the range of bytes on, uint8 (n, size, size, 3).
    Calibration = Callable[[], Array]

FormatName = Literal["keras", "savedmodel", "onnx", "openvino", "litert", "torch"]
Precision = Literal["fp32", "fp16", "int8"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Exporter(Protocol):
    """What the module of a format does."""

    def write(self, shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
        """Write the file, or fill the folder, which is there and empty."""

    def opened(self, place: Path) -> Answer:
        """Open what was written with the format's own runtime; everything is read from `place` alone."""


@dataclass(frozen=True)
class Format:
    """Something to export to.

    Attributes:
        name: as the user says it.
        suffix: what the file's name ends with; "" where it is a folder.
        precisions: those that it can hold.
        packages: what writing and proving it imports, by the names to install.
        module: of this room.
    """

    name: FormatName
    suffix: str
    precisions: tuple[Precision, ...]
    packages: dict[str, str]
    module: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of several files."""
        return not self.suffix

    def exporter(self) -> Exporter:
        """The module that writes and opens it; its packages are imported when it does."""
        return cast("Exporter", import_module(f"greffon.exporting.{self.module}"))


_TENSORFLOW = {"tensorflow": "tensorflow"}
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("keras", ".keras", ("fp32",), {}, "keras_file"),
        Format("savedmodel", "", ("fp32",), _TENSORFLOW, "savedmodel"),
        Format("onnx", ".onnx", PRECISIONS, {}, "onnx_file"),
        Format("openvino", "", PRECISIONS, {"openvino": "'greffon[export]'"}, "openvino_folder"),
        Format("litert", ".tflite", PRECISIONS, {**_TENSORFLOW, "ai_edge_litert": "'greffon[export]'"}, "litert"),
        Format("torch", "", ("fp32", "fp16"), {"torch": "torch"}, "torch_module"),
    )
}
"""Every format by its name."""


def chosen(name: str, precision: str) -> Format:
    """The format with this name, once it is known that it holds this precision and can be written and proved here.

    Raises:
        InputError: there is no such format or precision, or the two do not go together.
        MissingPackageError: a package is missing.

    Example:
        >>> from greffon.exporting.formats import chosen
        >>> chosen("onnx", "fp16").suffix
        '.onnx'
    """
    if name not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {name!r}{nearest(str(name), list(FORMATS))}")
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    found = FORMATS[name]
    if precision not in found.precisions:
        others = [one.name for one in FORMATS.values() if precision in one.precisions]
        raise InputError(
            f"{name} is exported in {' or '.join(found.precisions)}, not in {precision}. {precision} is for "
            f"{', '.join(others)}"
        )
    for package, install in found.packages.items():
        if find_spec(package) is None:
            raise MissingPackageError(
                f"{name} is written and proved with the Python package {package}, which is not installed: "
                f"pip install {install}. Nothing was written"
            )
    _check_backend(found)
    return found


def _check_backend(found: Format) -> None:
    if "tensorflow" in found.packages:
        import keras

        if keras.backend.backend() != "tensorflow":
            raise InputError(
                f"{found.name} is written by TensorFlow, and Keras runs on {keras.backend.backend()} here: set the "
                "environment variable KERAS_BACKEND=tensorflow"
            )
