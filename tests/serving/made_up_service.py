"""A service with made-up models that need no TensorFlow: they name a picture by its strongest colour."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from greffon.errors import InputError
from greffon.serving.looking import Look, Near
from greffon.serving.model import ServedModel

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("red", "green", "blue")
SIDE = 32


class ColourModel(ServedModel):
    """Probabilities are a picture's mean colour, in shares; its folder says its version and how slow it is."""

    seconds = 0.0

    def look(self, pixels, row):
        if not self.looker.has_map:
            return super().look(pixels, row)
        shown = np.zeros((2, 2), np.float32)
        shown[0, 0] = 1
        near = (Near(("red",), 0.875, picture("red", kind="JPEG")), Near((), 0.5, picture("blue", kind="JPEG")))
        return Look(self.names[int(row.argmax())], shown, near)

    def run(self, batch, alone=True):
        assert batch.dtype == np.uint8
        assert batch.shape[1:] == (SIDE, SIDE, 3)
        time.sleep(self.seconds * len(batch))
        means = batch.reshape(len(batch), -1, 3).mean(axis=1) + 1e-3
        return (means / means.sum(axis=1, keepdims=True)).astype(np.float32)


def load(name: str, run: Path) -> ColourModel:
    """A model whose version is the folder's manifest's hash, and that takes as long as the manifest says."""
    from greffon.serving.model import version_of

    version = version_of(run)
    text = (run / "manifest.json").read_text()
    if "broken" in text:
        raise InputError(f"{run} is broken")
    model = ColourModel(name, NAMES, input_size=SIDE, resize="crop", version=version, min_confidence=0.6)
    model.seconds = float(text.split()[0])
    model.looker.has_map = "looks" in text
    return model


def write_run(folder: Path, seconds: float = 0.0, word: str = "first") -> Path:
    """A folder that `load` takes."""
    folder.mkdir(exist_ok=True)
    part = folder / "manifest.part"
    part.write_text(f"{seconds} {word}")
    part.rename(folder / "manifest.json")
    return folder


def picture(colour, side: int = 40, kind: str = "PNG") -> bytes:
    """A picture file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


def main() -> None:
    """A process that serves the folders in its arguments; settings as NAME:VALUE."""
    import os

    from greffon.serving.app import Service
    from greffon.serving.logs import log_as_json
    from greffon.serving.models import runs_by_name
    from greffon.serving.server import serve
    from greffon.serving.settings import Settings, keys_from

    given = dict(word.split(":", 1) for word in sys.argv[1:] if ":" in word)
    watch = given.pop("watch", None)
    values = {name: float(value) if name in ("seconds", "wait") else int(value) for name, value in given.items()}
    log_as_json()
    service = Service(
        runs_by_name([word for word in sys.argv[1:] if ":" not in word]),
        Settings(keys=keys_from(os.environ), **values),
        load,
    )
    serve(
        service,
        port=0,
        watch_seconds=None if watch is None else float(watch),
        listening=lambda address: print(address, flush=True),  # noqa: T201  # the tests read it
    )


if __name__ == "__main__":
    main()
