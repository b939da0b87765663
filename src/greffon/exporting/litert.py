"""A `.tflite` file for LiteRT (once TensorFlow Lite): written by TensorFlow's converter, proved by `ai-edge-litert`.

fp16: weights are held in half precision. int8: weights and activations in 8 bits, ranges from calibration pictures;
the preprocessing and the probabilities stay in float32. The class names are in the file as `labels.txt`, as
LiteRT's own tools expect them: the file is a zip archive, too.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.exporting.keras_file import add_member
from greffon.exporting.savedmodel import served

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.exporting.formats import Answer, Calibration, Precision
    from greffon.exporting.shipped import Shipped


def write(shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    """Convert, and put the names of the classes behind it."""
    place.write_bytes(_converted(shipped, precision, calibration))
    with zipfile.ZipFile(place, "a") as archive:
        add_member(archive, "labels.txt", "".join(f"{name}\n" for name in shipped.terms["class_names"]).encode())
        add_member(archive, "greffon.json", json.dumps(shipped.terms, ensure_ascii=False, sort_keys=True).encode())


def opened(place: Path) -> Answer:
    """Through LiteRT's own interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(place))
    given, gives = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def answer(pictures: Any) -> Any:
        interpreter.resize_tensor_input(given, pictures.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, pictures)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(gives), np.float32)

    return answer


def _converted(shipped: Shipped, precision: Precision, calibration: Calibration) -> bytes:
    import tensorflow as tf

    module, function = served(shipped)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        pictures = calibration()
        converter.representative_dataset = lambda: ([picture[np.newaxis]] for picture in pictures)
    return bytes(converter.convert())
