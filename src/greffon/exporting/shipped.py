"""The model as it leaves: whole pictures in, the answers of `greffon predict` out, and what has to be known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.onnx_form import INPUT, OUTPUT, keras_answers
from greffon.errors import InputError

if TYPE_CHECKING:
    import keras

    from greffon.bundle.contract import Probe
    from greffon.bundle.read import Bundle

    Array = np.ndarray[Any, Any]

PROBES = 8

_DIVIDED = ("softmax", "sigmoid")  # outputs whose logits a temperature divides
_CASTING = ("Normalization", "Rescaling")  # layers that make floats of bytes by themselves


@dataclass(frozen=True, eq=False)
class Shipped:
    """What is exported.

    Attributes:
        model: RGB pictures of 0..255, uint8 (n, size, size, 3), to probabilities, float32 (n, classes); preprocessing
            and temperature are inside.
        terms: what whoever runs it has to know, ready for JSON: class names in the order of the outputs, the input,
            how a picture becomes it.
        probes: pictures whose answers are known, uint8 (8, size, size, 3).
        expected: those answers, float32 (8, classes).
        several_labels: whether a picture may have several labels.
    """

    model: keras.Model
    terms: dict[str, Any]
    probes: Array
    expected: Array
    several_labels: bool

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return int(self.probes.shape[1])


def ship(bundle: Bundle, *, custom_objects: Any = None) -> Shipped:
    """Make a run's model ready to be exported.

    Args:
        bundle: the run.
        custom_objects: classes by name, for layers of the user's own.

    Raises:
        InputError: the model cannot be opened, is no graph of layers, or its temperature cannot be put inside.
        DataError: it gives no numbers.
        CheckFailedError: it does not give the answers that the run's contract promises.
    """
    from greffon.bundle.verify import check_replays, compare
    from greffon.evaluation.answers import calibration_of
    from greffon.evaluation.table import check_probabilities

    calibration = calibration_of(bundle)
    model = bundle.model(custom_objects=custom_objects)
    probes, promised = _probes(bundle)
    answers = check_probabilities(keras_answers(model, probes), bundle.class_names)
    if promised is not None:
        check_replays([compare("keras", promised, answers, several_labels=bundle.several_labels)])
    # From Keras' answers, not from the promised ones: those are rounded, and a temperature makes much of what is small.
    expected = calibration.apply(answers)
    whole = _with_bytes_in(model, bundle.preprocessing.size)
    if calibration.temperature != 1.0:
        _divide_logits(whole, calibration.temperature)
    return Shipped(whole, _terms(bundle, calibration.temperature), probes, expected, bundle.several_labels)


def _terms(bundle: Bundle, temperature: float) -> dict[str, Any]:
    prepare = bundle.preprocessing
    return {
        "class_names": list(bundle.class_names),
        "several_labels": bundle.several_labels,
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["n", prepare.size, prepare.size, 3],
            "channels": "RGB",
            "range": [0, 255],
            "resize": prepare.resize,
            "decoder": bundle.decoder,
        },
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["n", len(bundle.class_names)]},
        "temperature": temperature,
        "weights_sha256": bundle.record.get("weights_sha256"),
    }


def _probes(bundle: Bundle) -> tuple[Array, list[Probe] | None]:
    """Pictures, and what the run's contract promises for them; rendered ones and nothing where it has no contract."""
    from greffon.bundle.contract import CONTRACT, probes_of, rendered

    if CONTRACT not in bundle.manifest.files:
        return np.stack(rendered(PROBES, bundle.preprocessing.size)), None
    promised = probes_of(bundle)
    return np.stack([probe.pixels for probe in promised]), promised


def _with_bytes_in(model: keras.Model, size: int) -> keras.Model:
    """A copy of the model that takes bytes; batches of any size, pictures of one."""
    import keras

    from greffon.backbone.clone import Copier, as_graph

    graph = as_graph(model, "the run's model")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"only models of one input and one output are exported, the run's model has {len(graph.inputs)} and "
            f"{len(graph.outputs)}"
        )
    pictures = keras.Input((size, size, 3), dtype="uint8", name=INPUT)
    copier = Copier({INPUT, "as_float32"})
    first = pictures if _casts(graph) else keras.layers.Rescaling(1.0, dtype="float32", name="as_float32")(pictures)
    outputs = copier.run(graph, first, "model_")
    whole = keras.Model(pictures, outputs[0] if isinstance(outputs, list) else outputs, name="greffon")
    copier.fill()
    return whole


def _casts(graph: Any) -> bool:
    """Whether all that reads the model's input makes floats of it."""
    from greffon.frozen.graph import flatten

    flat = flatten(graph)
    readers = [node.operation for node in flat.nodes if flat.inputs[0] in node.inputs]
    return all(type(reader).__name__ in _CASTING for reader in readers)


def _divide_logits(model: Any, temperature: float) -> None:
    """Divide what the last activation reads, by dividing the weights that give it: exact, and no layer more."""
    import keras

    last = model.outputs[0]._keras_history.operation
    activation = getattr(getattr(last, "activation", None), "__name__", "none")
    if not isinstance(last, keras.layers.Dense) or activation not in _DIVIDED:
        raise InputError(
            f"the run's answers are calibrated (temperature {temperature:.3f}), which can be put into a model that "
            f"ends in a Dense layer with softmax or sigmoid. This one ends in {last.name!r} ({type(last).__name__}, "
            f"activation {activation}): train with Head(hidden=...) in place of a layer of your own"
        )
    last.set_weights([weight / np.float32(temperature) for weight in last.get_weights()])
