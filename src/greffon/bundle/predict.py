"""Names and probabilities for pictures, from a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.inputs import Input, ScaleGuard, batches_ahead, iterate_inputs
from greffon.bundle.read import MODEL_ONNX, Bundle, read_bundle
from greffon.bundle.runner import OnnxRunner
from greffon.errors import InputError
from greffon.evaluation.table import THRESHOLD, check_probabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import keras

    from greffon.frozen.engine import Engine

__all__ = ["Prediction", "Predictor", "load"]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        path: the picture; None for bytes and arrays.
        label: the class with the highest probability; None where the picture could not be read.
        probability: that probability, 0..1; None likewise.
        scores: probability by class name, the highest first; all classes, or the `top` ones.
        labels: the classes that the picture has: one, or, where the model was trained on several labels per picture,
            those with a probability of at least 0.5.
        error: why the picture could not be read; None where it could.
    """

    path: str | None
    label: str | None = None
    probability: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        return {**vars(self), "scores": dict(self.scores), "labels": list(self.labels)}

    def __str__(self) -> str:
        name = self.path or "picture"
        if self.error is not None:
            return f"{name}: {self.error}"
        return f"{name}: {', '.join(f'{label} {score:.3f}' for label, score in self.scores.items())}"


class Predictor:
    """A trained run, ready to name what is in pictures. Made by `load`.

    Args:
        bundle: the run.
        custom_objects: classes by name, where the model holds layers of the user's own.
    """

    def __init__(self, bundle: Bundle, *, custom_objects: Mapping[str, Any] | None = None) -> None:
        self.bundle = bundle
        self._custom_objects = custom_objects

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the model's outputs."""
        return self.bundle.class_names

    @property
    def notes(self) -> list[str]:
        """What the user should know before trusting an answer, one sentence each; `bundle.notes` are the training's."""
        from greffon.pictures.decode import DECODER_VERSION

        notes = []
        if self.bundle.decoder != DECODER_VERSION:
            notes.append(
                f"The run was trained on pictures as decoder {self.bundle.decoder} gave them; this greffon has decoder "
                f"{DECODER_VERSION}, which may give slightly other pictures"
            )
        if not self.runs_on_onnx:
            why = self.bundle.record.get("why_no_onnx") or f"greffon {self.bundle.manifest.greffon} wrote none"
            notes.append(f"The run holds no {MODEL_ONNX}, so that Keras has to be loaded: {why}")
        return notes

    @cached_property
    def _model(self) -> keras.Model:
        return self.bundle.model(custom_objects=self._custom_objects)

    @property
    def runs_on_onnx(self) -> bool:
        """Whether it answers without Keras."""
        return MODEL_ONNX in self.bundle.manifest.files

    def keras(self) -> keras.Model:
        """The plain Keras model: float32 RGB pictures 0..255 (n, height, width, 3) to probabilities (n, classes).

        Opened when it is first asked for, which loads Keras; before any calibration.

        Raises:
            InputError: the file was changed, or holds layers that Keras does not know.
        """
        return self._model

    def predict(self, sources: Any, *, top: int | None = None, batch_size: int = 32) -> list[Prediction]:
        """Name what is in pictures.

        Files are decoded as in training: turned upright, made RGB, resized by the run's rule. Probabilities are
        calibrated where the run holds a calibration. ONNX Runtime computes them, and neither TensorFlow nor Keras is
        loaded, where the run holds an ONNX file; `notes` says where it does not.

        Args:
            sources: one or many of: the path of a file; the path of a folder (every picture in it and in its folders,
                in natural order); the bytes of a picture file; a PIL image; an array (height, width, 3) or
                (n, height, width, 3), RGB, 0..255; floats are rounded to whole numbers, as for a training. Arrays of
                the model's own height and width are taken as they are, others are resized.
            top: how many classes to give; None: all.
            batch_size: pictures that are decoded and computed at once, at least 1.

        Returns:
            One prediction per picture, in order. One that cannot be read has an `error`; the others go on.

        Raises:
            InputError: something is none of these, values are not in 0..255 (floats of at most 1.0 were divided by
                255 already), a folder has no picture, or an option is out of range.

        Example:
            >>> import greffon
            >>> predictor = greffon.load("runs/first")  # doctest: +SKIP
            >>> predictor.predict("photos/cat.jpg", top=1)[0].label  # doctest: +SKIP
            'cat'
        """
        return list(self.stream(sources, top=top, batch_size=batch_size))

    def stream(self, sources: Any, *, top: int | None = None, batch_size: int = 32) -> Iterator[Prediction]:
        """The predictions of `predict` one by one, as soon as their batch is computed; for many pictures."""
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, or None for all classes, got {top}")
        return (
            self._prediction(picture, row, top)
            for pictures, rows in self._batches(sources, batch_size)
            for picture, row in zip(pictures, self._calibrated(rows), strict=True)
        )

    def probabilities(
        self, sources: Any, *, batch_size: int = 32, advance: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, list[str | None]]:
        """Bare probabilities as the model gives them, before any calibration; columns in the order of `class_names`.

        Args:
            sources: as for `predict`.
            batch_size: pictures that are decoded and computed at once, at least 1.
            advance: called with how many more pictures are done.

        Returns:
            float32 (n, classes), NaN where a picture could not be read; and for every picture why not, or None.

        Example:
            >>> import greffon
            >>> probabilities, errors = greffon.load("runs/first").probabilities("photos/")  # doctest: +SKIP
        """
        parts = [np.zeros((0, len(self.class_names)), np.float32)]
        errors: list[str | None] = []
        for pictures, rows in self._batches(sources, batch_size):
            parts.append(rows)
            errors.extend(picture.error for picture in pictures)
            if advance is not None:
                advance(len(rows))
        return np.concatenate(parts), errors

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        return f"<greffon.Predictor {self.bundle.path}: {len(self.class_names)} classes ({names})>"

    @cached_property
    def engine(self) -> OnnxRunner | Engine:
        """What computes the model's own probabilities: ONNX Runtime on the run's file, or on what Keras opened."""
        file = self.bundle.onnx()
        if file is not None:
            return OnnxRunner(file)
        from greffon.frozen.build import build_engine
        from greffon.frozen.graph import flatten

        return build_engine(flatten(self._model))

    def _batches(self, sources: Any, batch_size: int) -> Iterator[tuple[list[Input], np.ndarray]]:
        """Pictures and their probabilities, NaN for those that cannot be read."""
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        prepare = self.bundle.preprocessing
        guard = ScaleGuard(prepare.name)
        for batch in batches_ahead(iterate_inputs(sources, prepare.size, prepare.resize), batch_size):
            yield batch, self._compute(batch, guard)

    def _compute(self, batch: list[Input], guard: ScaleGuard) -> np.ndarray:
        guard.check(batch)
        rows = np.full((len(batch), len(self.class_names)), np.nan, np.float32)
        readable = [row for row, picture in enumerate(batch) if picture.pixels is not None]
        if readable:
            arrays = np.stack([np.asarray(batch[row].pixels) for row in readable])
            outputs = self.engine.run([arrays])[0]
            rows[readable] = check_probabilities(outputs, self.class_names, [batch[row].path for row in readable])
        return rows

    def _calibrated(self, rows: np.ndarray) -> np.ndarray:
        calibration = self.bundle.calibration
        return rows if calibration is None else calibration.apply(rows)

    def _prediction(self, picture: Input, row: np.ndarray, top: int | None) -> Prediction:
        if picture.error is not None:
            return Prediction(picture.path, error=picture.error)
        order = np.argsort(-row, kind="stable")
        scores = {self.class_names[column]: float(row[column]) for column in order[:top]}
        label, probability = next(iter(scores.items()))
        labels = (label,)
        if self.bundle.several_labels:
            labels = tuple(self.class_names[column] for column in order if row[column] >= THRESHOLD)
        return Prediction(picture.path, label, probability, scores, labels)


def load(run: str | Path, *, custom_objects: Mapping[str, Any] | None = None) -> Predictor:
    """Open a run to predict with it. Its model is opened when it is first used.

    Args:
        run: the folder that training wrote.
        custom_objects: classes by name, where the model holds layers of your own.

    Raises:
        InputError: it is no run, a file is missing, or, where the run holds no ONNX file, Keras cannot open its model.

    Example:
        >>> import greffon
        >>> greffon.load("runs/first").class_names  # doctest: +SKIP
        ('bird', 'building', 'flower', 'mammal')
    """
    predictor = Predictor(read_bundle(run), custom_objects=custom_objects)
    if not predictor.runs_on_onnx:
        predictor.keras()
    return predictor
