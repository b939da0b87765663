"""An ONNX file, from Greffon's own emitter; also what OpenVINO's is made of.

fp16: weights and arithmetic in half precision, but for the preprocessing in front and the softmax or sigmoid at the
end. int8: convolutions in 8 bits (QDQ, weights of 7 bits, so that processors that sum products of bytes in 16 bits do
not overflow), everything else in float32. Ranges are observed anew on each export, so that the same run gives the
same bytes whatever this machine remembers.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.onnx_form import INPUT, OUTPUT, with_bytes_in
from greffon.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.exporting.formats import Answer, Calibration, Precision
    from greffon.exporting.shipped import Shipped
    from greffon.frozen.graph import FlatGraph

_BATCH = 8
_WEIGHT_BITS = 7


def write(shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    """Write one file; class names and the rest stand in its metadata."""
    place.write_bytes(onnx_bytes(shipped, precision, calibration))


def opened(place: Path) -> Answer:
    """Through ONNX Runtime on the processor, all optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run([OUTPUT], {INPUT: pictures})[0]


def onnx_bytes(shipped: Shipped, precision: Precision, calibration: Calibration) -> bytes:
    """The file's content; the same for the same model and calibration pictures.

    Raises:
        InputError: a layer is not known to the emitter, or nothing in the model can be held in bytes.
    """
    import onnx

    from greffon.frozen.emit import Unsupported, emit
    from greffon.frozen.graph import flatten

    graph = flatten(shipped.model)
    try:
        data = _quantised(graph, calibration()) if precision == "int8" else emit(graph)
    except Unsupported as unsupported:
        raise InputError(f"the model cannot be written as ONNX: layer {unsupported}") from None
    model = with_bytes_in(onnx.load_from_string(data))
    if precision == "fp16":
        model = _halved(model)
    onnx.helper.set_model_props(model, {"greffon": json.dumps(shipped.terms, ensure_ascii=False, sort_keys=True)})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _halved(model: Any) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    nodes = list(model.graph.node)
    computing = next((place for place, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that half precision rounds to its smallest or largest number
        halved = convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=["Softmax", "Sigmoid"],
            node_block_list=[node.name for node in nodes[:computing]],
        )
    return _sorted(halved)


def _sorted(model: Any) -> Any:
    """Nodes behind those that they read, as ONNX demands; the converter puts its casts at the end."""
    graph, waiting = model.graph, list(model.graph.node)
    known = {"", *(one.name for one in graph.input), *(one.name for one in graph.initializer)}
    ordered: list[Any] = []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise InputError("the model in half precision is no graph without circles: export it in fp32")
        # One at a time, the first that can be: the order stays what it was but for the casts.
        first = ready[0]
        known.update(first.output)
        ordered.append(first)
        waiting.remove(first)
    del graph.node[:]
    graph.node.extend(ordered)
    return model


def _quantised(graph: FlatGraph, pictures: Any) -> bytes:
    """In 8 bits, by ranges of these pictures: the typical ones or the whole ones, whichever come nearer to float32."""
    from greffon.frozen.agreement import norm_difference
    from greffon.frozen.emit import find_quantisable
    from greffon.frozen.emit.quantised import Quantisation
    from greffon.frozen.engine import OrtEngine

    quantiser = find_quantisable(graph)
    if quantiser.stem is None:
        raise InputError("int8 is for convolutions, and the model has none: export it in fp32 or fp16")
    values = OrtEngine(graph, quantiser.observing(), batch_size=_BATCH).run([pictures])
    seen, exact = quantiser.observed(values), values[0]
    if not np.isfinite([number for each in seen.values() for number in (each.low, each.high, *each.means)]).all():
        raise InputError("the model's activations are not finite on the calibration pictures: export it in fp32")
    written = [
        quantiser.quantised(Quantisation(seen, typical=typical, weight_bits=_WEIGHT_BITS)) for typical in (True, False)
    ]
    return min(
        written,
        key=lambda data: norm_difference(OrtEngine(graph, data, batch_size=_BATCH).run([pictures])[0], exact),
    )
