"""What the service asks of a run: decode a picture, compute a batch, name the classes. All there is between the two."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.manifest import MANIFEST
from greffon.bundle.runner import OnnxRunner
from greffon.errors import InputError
from greffon.evaluation.table import check_probabilities
from greffon.pictures.decode import decode, read_size
from greffon.pictures.faults import PictureError
from greffon.serving.looking import Looker

if TYPE_CHECKING:
    from pathlib import Path

    from greffon.pictures.resize import ResizeRule
    from greffon.serving.looking import Look

__all__ = ["ServedModel", "version_of"]


class ServedModel:
    """A run, ready to answer. Made by `ServedModel.load`; several threads may call it.

    Args:
        name: by which requests ask for it.
        names: of the classes, in the order of the outputs.
        input_size: side of the pictures, in pixels.
        resize: how a picture becomes square.
        several_labels: whether a picture may have several.
        version: what tells this run from another one in its place.
        min_confidence: answers less sure than that are marked as not sure, 0..1; None: all are sure.
        notes: what the user should know, one sentence each.
    """

    def __init__(
        self,
        name: str,
        names: tuple[str, ...],
        *,
        input_size: int,
        resize: ResizeRule,
        version: str,
        several_labels: bool = False,
        min_confidence: float | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.names = names
        self.input_size = input_size
        self.resize = resize
        self.version = version
        self.several_labels = several_labels
        self.min_confidence = min_confidence
        self.notes = notes
        self.looker = Looker(None, names, None)
        self._predictor: Any = None
        self._engine: Any = None
        self._lane: Any = None

    @classmethod
    def load(cls, name: str, run: Path, *, min_confidence: float | None = None) -> ServedModel:
        """Open a run and compute one picture with it, so that the first request does not wait for that.

        Args:
            name: by which requests ask for it.
            run: the folder that training wrote.
            min_confidence: 0..1; None: all answers are sure.

        Raises:
            InputError: it is no run, or a file is missing or was changed.
        """
        from greffon.bundle.neighbours import read_neighbours
        from greffon.bundle.predict import load

        version = version_of(run)
        predictor = load(run)
        bundle = predictor.bundle
        served = cls(
            name,
            tuple(predictor.class_names),
            input_size=bundle.preprocessing.size,
            resize=bundle.preprocessing.resize,
            version=version,
            several_labels=bundle.several_labels,
            min_confidence=min_confidence,
            notes=tuple(predictor.notes),
        )
        content = bundle.onnx()
        served._predictor = predictor
        served._engine = predictor.engine
        served._lane = predictor.engine if content is None else OnnxRunner(content, threads=1)
        served.looker = Looker(served._lane, served.names, read_neighbours(bundle))
        for alone in (True, False):  # also reads all that is needed
            served.run(np.zeros((1, served.input_size, served.input_size, 3), np.uint8), alone)
        if version_of(run) != version:
            raise InputError(f"{run} was replaced while it was opened; open it again")
        return served

    def decode(self, picture: bytes, *, max_pixels: int) -> np.ndarray:
        """One picture file as the model takes it: turned upright, made RGB, resized by the run's rule.

        Args:
            picture: the content of the file.
            max_pixels: width times height that are decoded, at most.

        Returns:
            uint8 (size, size, 3), RGB, 0..255.

        Raises:
            DataError: it cannot be read, or has more pixels.
        """
        width, height = read_size(picture)
        if width * height > max_pixels:
            raise PictureError(
                f"has {width:,} x {height:,} pixels, more than the {max_pixels:,} that this service takes; scale it "
                "down",
                "too large",
            )
        return decode(picture, self.input_size, self.resize)

    def run(self, batch: np.ndarray, alone: bool = True) -> np.ndarray:
        """Probabilities of a batch.

        Args:
            batch: uint8 (n, size, size, 3), RGB, 0..255.
            alone: whether all processors compute it, or one, as others compute other batches.

        Returns:
            float32 (n, classes), 0..1, calibrated where the run holds a calibration.
        """
        (rows,) = (self._engine if alone else self._lane).run([batch])
        rows = check_probabilities(rows, self.names)
        calibration = self._predictor.bundle.calibration
        return np.asarray(rows if calibration is None else calibration.apply(rows), np.float32)

    def look(self, pixels: np.ndarray, row: np.ndarray) -> Look:
        """Why the most probable class is it.

        Args:
            pixels: uint8 (size, size, 3), RGB, as `decode` gives them.
            row: the probabilities, (classes,).
        """
        return self.looker.look(pixels, int(np.argmax(row)))

    def is_sure(self, row: np.ndarray) -> bool:
        """Whether an answer is as sure as wanted: by its highest probability, or by the least sure yes or no."""
        if self.min_confidence is None:
            return True
        confidence = np.maximum(row, 1 - row).min() if self.several_labels else row.max()
        return bool(confidence >= self.min_confidence)


def version_of(run: Path) -> str:
    """Twelve hex digits that change when anything in a run does.

    Raises:
        InputError: it is no run.
    """
    try:
        return hashlib.sha256((run / MANIFEST).read_bytes()).hexdigest()[:12]
    except OSError:
        raise InputError(f"{run} is no run of greffon: it has no {MANIFEST} that can be read") from None
