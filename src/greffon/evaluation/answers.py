"""What a run answers, with the features that it answers from; and from which confidence on its answers are given.

`predict` needs the answers alone. Baselines and folds need what stands in front of the classifier too, and both come
out of one pass.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError
from greffon.evaluation.abstain import Selected, confidence_for, selected
from greffon.evaluation.calibration import Calibration
from greffon.evaluation.measures import answers_of
from greffon.evaluation.scores import Answers
from greffon.evaluation.table import check_probabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greffon.bundle.predict import Predictor
    from greffon.bundle.read import Bundle
    from greffon.frozen.engine import Engine
    from greffon.frozen.graph import FlatGraph

    Array = np.ndarray[Any, Any]

WIDEST = 20_000
"""Features per picture that are still compared and solved; a flattened feature map has more."""

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Named:
    """What a run said of pictures.

    Attributes:
        probabilities: float32 (n, classes), calibrated; NaN where a picture could not be read.
        features: float32 (n, d), the pooled output of its network, likewise; None where they were not asked for or
            the network has none.
        errors: for every picture why it could not be read, or None.
    """

    probabilities: Array
    features: Array | None
    errors: list[str | None]


def name_pictures(
    predictor: Predictor, files: Sequence[Any], *, features: bool = False, advance: Callable[[int], None] | None = None
) -> Named:
    """Let a run answer for pictures.

    Args:
        predictor: the run.
        files: whatever `Predictor.predict` takes, one picture each.
        features: whether the features are wanted too.
        advance: called with how many more pictures are done.

    Returns:
        Calibrated probabilities: what `Predictor.predict` gives, not the bare ones of `Predictor.probabilities`.
    """
    engine = _engine(predictor) if features else None
    calibration = calibration_of(predictor.bundle)
    if engine is None:
        probabilities, errors = predictor.probabilities(files, advance=advance)
        return Named(calibration.apply(probabilities), None, errors)
    named = _run(predictor, engine, files, advance)
    return dataclasses.replace(named, probabilities=calibration.apply(named.probabilities))


def calibration_of(bundle: Bundle) -> Calibration:
    """The calibration that a run holds; one that changes nothing where it holds none."""
    return bundle.calibration or Calibration(several_labels=bundle.several_labels)


def validation_answers(bundle: Bundle) -> Answers:
    """What a run answers for its validation pictures, calibrated, beside what they are."""
    answers = answers_of(bundle.table)
    values = calibration_of(bundle).apply(answers.probabilities)
    return Answers.of(values, answers.has, several_labels=answers.several_labels)


def wanted_confidence(
    bundle: Bundle, *, min_confidence: float | None = None, max_error: float | None = None
) -> Selected | None:
    """From which confidence on a run's answers are to be given, and what that means on its validation pictures.

    Args:
        bundle: the run.
        min_confidence: the confidence itself, 0..1.
        max_error: or the share of the answers that may be wrong: the lowest confidence is taken for which the
            validation pictures show, with 95 % certainty, that it is kept.

    Returns:
        None where neither is given.

    Raises:
        InputError: both are given, one is outside of 0..1, or the validation pictures cannot show it.
    """
    if min_confidence is not None and max_error is not None:
        raise InputError("min_confidence and max_error are two ways to say the same: give one of them")
    if min_confidence is not None:
        return selected(validation_answers(bundle), min_confidence)
    return None if max_error is None else confidence_for(validation_answers(bundle), max_error)


def pooled_output(graph: FlatGraph) -> int | None:
    """The tensor of a graph that holds one row of features per picture, the first such of at most `WIDEST` numbers.

    All answers have to come from it alone: of several poolings that a head joins none is it.
    """
    for node in graph.nodes:
        for tensor in node.outputs:
            shape = graph.specs[tensor].shape
            row = len(shape) == 2 and shape[1] is not None and 1 < shape[1] <= WIDEST
            if row and tensor not in graph.outputs and _decides(graph, tensor):
                return tensor
    return None


def _decides(graph: FlatGraph, tensor: int) -> bool:
    try:
        graph.between([tensor], graph.outputs)
    except ValueError:
        return False
    return True


def _engine(predictor: Predictor) -> Engine | None:
    """Gives probabilities and features; None where the network has no features, or is no graph."""
    from greffon.frozen.build import build_engine
    from greffon.frozen.graph import flatten, is_graph

    model = predictor.keras()
    if not is_graph(model):
        return None
    graph = flatten(model)
    pooled = pooled_output(graph)
    return None if pooled is None else build_engine(dataclasses.replace(graph, outputs=(*graph.outputs, pooled)))


def _run(predictor: Predictor, engine: Engine, files: Sequence[Any], advance: Callable[[int], None] | None) -> Named:
    from greffon.bundle.inputs import iterate_inputs

    prepare, names = predictor.bundle.preprocessing, predictor.class_names
    width = engine.graph.specs[engine.graph.outputs[-1]].shape[1]
    probabilities = np.full((len(files), len(names)), np.nan, np.float32)
    features = np.full((len(files), int(width)), np.nan, np.float32)
    errors: list[str | None] = []
    batch: list[tuple[int, Array]] = []

    def compute() -> None:
        if batch:
            rows = [row for row, _ in batch]
            answers, pooled = engine.run([np.stack([pixels for _, pixels in batch]).astype(np.float32)])
            probabilities[rows] = check_probabilities(answers, names, [str(files[row]) for row in rows])
            features[rows] = pooled
            batch.clear()

    for row, picture in enumerate(iterate_inputs(files, prepare.size, prepare.resize)):
        errors.append(picture.error)
        if picture.pixels is not None:
            batch.append((row, picture.pixels))
        if len(batch) == _BATCH:
            compute()
        if advance is not None:
            advance(1)
    compute()
    return Named(probabilities, features, errors)
