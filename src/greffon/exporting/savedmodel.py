"""A SavedModel folder for TensorFlow: one signature, `serving_default`, from `pictures` to `probabilities`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.manifest import write_json
from greffon.bundle.onnx_form import INPUT, OUTPUT

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.exporting.formats import Answer, Calibration, Precision
    from greffon.exporting.shipped import Shipped

_SIGNATURE = "serving_default"


def write(shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    """Write the graph and its variables; the extra assets say what has to be known.

    The variables are the same bytes for the same model. The graph is not: TensorFlow numbers what it traces.
    """
    import tensorflow as tf

    module, function = served(shipped)
    tf.saved_model.save(module, str(place), signatures={_SIGNATURE: function})
    (place / "assets.extra").mkdir()
    write_json(place / "assets.extra" / "greffon.json", shipped.terms)


def opened(place: Path) -> Answer:
    """Through `tf.saved_model.load`, which knows nothing of Keras."""
    import tensorflow as tf

    module = tf.saved_model.load(str(place))
    function = module.signatures[_SIGNATURE]

    def answer(pictures: Any) -> Any:
        # The module is held here: its variables are freed with it.
        return np.asarray(function(**{INPUT: tf.constant(pictures)})[OUTPUT]) if module is not None else None

    return answer


def served(shipped: Shipped) -> tuple[Any, Any]:
    """A module that holds the model's variables by name, and the traced function of one signature."""
    import tensorflow as tf

    spec = tf.TensorSpec((None, shipped.size, shipped.size, 3), tf.uint8, name=INPUT)

    def serve(pictures: Any) -> dict[str, Any]:
        return {OUTPUT: shipped.model(pictures, training=False)}

    module = tf.Module(name="greffon")
    module.weights = {variable.path.replace("/", "."): variable.value for variable in shipped.model.weights}
    return module, tf.function(serve, input_signature=[spec]).get_concrete_function()
