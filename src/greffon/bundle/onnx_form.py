"""A model as an ONNX file, for answers without TensorFlow or Keras; written with the run, checked against Keras.

The file takes RGB pictures of 0..255, uint8 (n, size, size, 3), as the decoder gives them and as every export takes
them, and gives probabilities, float32 (n, classes); the preprocessing is inside and n may be anything. A run of an
older Greffon holds a file that takes float32: `runner` asks the file. Beside the probabilities it gives, when asked,
what `onnx_looks` says. It is what the emitter wrote, not what ONNX Runtime made of it: an optimised file that any
processor can run is opened no faster (full width 0.24 s against 0.25 s, half width 0.07 s either way), and the one that
is (0.13 s) is laid out for the instructions of the machine that wrote it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.onnx_looks import add_looks, feature_map_of
from greffon.bundle.runner import OnnxRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import keras
    import onnx

    Array = np.ndarray[Any, Any]

INPUT, OUTPUT = "pictures", "probabilities"
"""What the file's input and output are called."""

TOLERANCE = 1e-4
"""By how much a probability may differ from Keras' own, and from the one that a run promises."""


def onnx_form(
    model: keras.Model, class_names: Sequence[str], pictures: Array, expected: Array
) -> tuple[bytes | None, str]:
    """Write a model as ONNX, and see that it answers as Keras does.

    Args:
        model: one input of RGB pictures 0..255, one output of probabilities.
        class_names: in the order of its outputs; the file names them too.
        pictures: uint8 (n, size, size, 3).
        expected: Keras' probabilities for them, float32 (n, classes).

    Returns:
        The file's content and "", or None and why there is none, as a clause. The same model gives the same bytes.
    """
    from greffon.frozen.emit import Unsupported

    try:
        data = _with_names(with_bytes_in(_emitted(model)), class_names)
        (given,) = OnnxRunner(data).run([pictures])
    except Unsupported as unsupported:
        return None, f"the layer {unsupported}"
    except Exception as error:  # whatever ONNX cannot hold, Keras still can
        return None, f"ONNX failed: {type(error).__name__}: {str(error)[:300]}"
    if given.shape != expected.shape or not np.allclose(given, expected, rtol=0, atol=TOLERANCE, equal_nan=True):
        return None, f"ONNX Runtime and Keras differ by more than {TOLERANCE:.0e}"
    return data, ""


def keras_answers(model: keras.Model, pictures: Array) -> Array:
    """What Keras says of pictures, called layer by layer: nothing is compiled for a few.

    Args:
        model: one input of RGB pictures 0..255.
        pictures: (n, size, size, 3), uint8 or float32.

    Returns:
        float32 (n, classes).
    """
    import keras

    with _on_the_processor():
        tensor = keras.ops.convert_to_tensor(pictures.astype(np.float32), model.inputs[0].dtype)
        return np.asarray(keras.ops.convert_to_numpy(model(tensor, training=False)), np.float32)


def _on_the_processor() -> AbstractContextManager[Any]:
    """TensorFlow on a GPU multiplies with 10 bits of precision, too few to say what every copy has to answer."""
    import keras

    from greffon.frozen.hardware import has_accelerator

    if keras.backend.backend() == "tensorflow" and has_accelerator():
        return keras.device("cpu:0")
    return nullcontext()


def _emitted(model: keras.Model) -> onnx.ModelProto:
    """The model as the emitter writes it, with what there is to be seen inside (`onnx_looks`)."""
    from dataclasses import replace

    import onnx

    from greffon.frozen.emit import emit
    from greffon.frozen.graph import flatten

    graph = flatten(model)
    seen = feature_map_of(model, graph)
    if seen is None:
        return onnx.load_from_string(emit(graph))
    written = onnx.load_from_string(emit(replace(graph, outputs=(*graph.outputs, seen))))
    add_looks(written, len(graph.outputs))
    return written


def with_bytes_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a graph begin with bytes, and call its ends by telling names; the emitter writes float32 pictures in.

    Args:
        model: as the emitter wrote it, with one input; changed in place.

    Returns:
        The same, with the input `pictures`, uint8, and the first output called `probabilities`.
    """
    import onnx

    graph = model.graph
    given, gives = graph.input[0], graph.output[0]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [OUTPUT if name == gives.name else name for name in names]
    cast = onnx.helper.make_node("Cast", [INPUT], [given.name], name=f"{INPUT}_as_floats", to=onnx.TensorProto.FLOAT)
    graph.node.insert(0, cast)
    given.name, gives.name, graph.name = INPUT, OUTPUT, "greffon"
    given.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return model


def _with_names(model: onnx.ModelProto, class_names: Sequence[str]) -> bytes:
    """The file's content, with the names of the classes written into it."""
    import json

    import onnx

    onnx.helper.set_model_props(model, {"class_names": json.dumps(list(class_names), ensure_ascii=False)})
    return bytes(model.SerializeToString(deterministic=True))
