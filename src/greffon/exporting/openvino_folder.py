"""A folder with OpenVINO's two files, `model.xml` and `model.bin`, converted from our ONNX.

fp16: weights are held in half precision; what it is computed in, the device decides. int8: from our 8-bit ONNX.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.manifest import write_json
from greffon.exporting.onnx_file import onnx_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.exporting.formats import Answer, Calibration, Precision
    from greffon.exporting.shipped import Shipped

_LAYER = re.compile(r'<layer id="(\d+)" name="([^"]*)" type="(\w+)"')
_NAMED = ("Parameter", "Result")


def write(shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    """Convert, and give the layers the same names in every process."""
    import io

    import openvino

    source = onnx_bytes(shipped, "int8" if precision == "int8" else "fp32", calibration)
    model = openvino.Core().read_model(io.BytesIO(source))
    model.set_rt_info(" ".join(_label(name) for name in shipped.terms["class_names"]), ["model_info", "labels"])
    openvino.save_model(model, place / "model.xml", compress_to_fp16=precision == "fp16")
    text = (place / "model.xml").read_text(encoding="utf-8")
    # OpenVINO numbers what has no name by a counter that the whole process shares.
    (place / "model.xml").write_text(_LAYER.sub(_renamed, text), encoding="utf-8", newline="\n")
    write_json(place / "greffon.json", shipped.terms)


def opened(place: Path) -> Answer:
    """Through OpenVINO on the processor, in float32: newer ones would compute in bfloat16 of their own accord."""
    import openvino

    compiled = openvino.Core().compile_model(place / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def answer(pictures: Any) -> Any:
        return np.array(compiled(pictures)[0], np.float32)

    return answer


def _label(name: str) -> str:
    """OpenVINO's own demos split labels at spaces."""
    return re.sub(r"\s+", "_", name)


def _renamed(found: re.Match[str]) -> str:
    number, name, kind = found.groups()
    return f'<layer id="{number}" name="{name if kind in _NAMED else f"{kind}_{number}"}" type="{kind}"'
