"""From what the user calls weights to a filled backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError
from greffon.weights.sets import Restored, Variant, check_variant, embedded_path, usual_preprocessing, weight_set

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import keras


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found and read, and the variant of the network that they belong to."""

    name: str
    variant: Variant
    arrays: dict[str, Any] | None
    sha256: str | None = None

    def restore(self, model: keras.Model, *, allow_missing: Sequence[str] = ()) -> Restored:
        if self.arrays is not None:
            for layer in model.layers:
                for variable in layer.weights:
                    array = self.arrays.get(f"{layer.name}/{variable.name}")
                    if array is not None:
                        variable.assign(array.astype("float32"))
                    elif variable.name == "moving_variance":
                        variable.assign(variable * 0 + (1 - layer.epsilon))
        return Restored(self.name, self.variant, usual_preprocessing(self.variant), self.sha256)


def find_weights(
    weights: str | Path | None, *, depth: int, variant: str | None, include_top: bool, classes: int
) -> FoundWeights:
    if weights is None or weights == "none":
        return FoundWeights("none", check_variant(variant or "v1"), None)
    if weights == "thin":
        from safetensors.numpy import load_file

        record = weight_set("thin")
        file = record.file(include_top=include_top)
        return FoundWeights("thin", "thin", load_file(embedded_path(file)), file.sha256)
    raise InputError(f"weights {weights!r} cannot be read yet")
