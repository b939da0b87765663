"""A `.keras` file: what plain Keras 3 opens, the same bytes for the same model."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.exporting.formats import Answer, Calibration, Precision
    from greffon.exporting.shipped import Shipped

_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the first date that a zip archive can hold
_METADATA = "metadata.json"


def write(shipped: Shipped, place: Path, precision: Precision, calibration: Calibration) -> None:
    """Save the model, then write the archive again without its dates; what has to be known is in its metadata."""
    shipped.model.save(place)
    dated = place.with_name(f"{place.name}.dated")
    place.rename(dated)
    with zipfile.ZipFile(dated) as old, zipfile.ZipFile(place, "w") as new:
        for name in sorted(old.namelist()):
            content = old.read(name)
            if name == _METADATA:
                content = _undated(content, shipped.terms)
            add_member(new, name, content)
    dated.unlink()


def opened(place: Path) -> Answer:
    """Through Keras' own loader, in safe mode."""
    import keras

    model = keras.models.load_model(place, compile=False)

    def answer(pictures: Any) -> Any:
        return np.asarray(keras.ops.convert_to_numpy(model(pictures, training=False)), np.float32)

    return answer


def add_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Put a file into a zip archive in the same way whenever and wherever it is done."""
    info = zipfile.ZipInfo(name, _BEGINNING)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)


def _undated(content: bytes, terms: dict[str, Any]) -> bytes:
    metadata = json.loads(content)
    metadata["date_saved"] = "1980-01-01@00:00:00"
    metadata["greffon"] = terms
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode()
