"""How far one could get: seconds measured for each part, put into the cost formula.

    T_naive  = E [ N (a + b) + V (a + c) ]      the frozen part in every epoch, in Keras
    T_cached = (N + V) e + E [ N b + V c ]      once, in the engine; then the tail alone

a: Keras' forward pass of the frozen part, b: a training step of the tail, c: a validation step of the tail, e: the
engine; seconds per picture. Compiling, decoding, reading and writing are left out: a limit has none of them. A ratio
above it is a mistake of measurement until it is explained.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Parts:
    """Seconds per picture."""

    keras_trunk: float
    engine_trunk: float
    train: float
    validation: float

    def limit(self, epochs, train, validation):
        """The ratio that these allow."""
        naive = epochs * (train * (self.keras_trunk + self.train) + validation * (self.keras_trunk + self.validation))
        cached = (train + validation) * self.engine_trunk + epochs * (train * self.train + validation * self.validation)
        return naive / cached

    def to_dict(self):
        """Milliseconds per picture, for the file of results."""
        return {name: round(1000 * seconds, 3) for name, seconds in asdict(self).items()}


def measure_parts(model, x, *, batch, rounds=3, precision="fp32"):
    """Measure the parts of a compiled model in turn: a, e, the tail's steps; a, e, the tail's steps; ..."""
    from greffon.frozen.cut import find_cut
    from greffon.frozen.graph import GraphModel

    cut = find_cut(model)
    trunk = GraphModel(cut.trunk)
    engine = _engine(cut, x, precision)
    steps = _Steps(model, cut, batch)
    sample = x[: max(batch, min(len(x), 2 * batch))]
    trunk.predict(sample[:batch], batch_size=batch, verbose=0)
    engine.run([sample[:1]])
    steps.compile()
    times = {"keras_trunk": [], "engine_trunk": [], "train": [], "validation": []}
    for _ in range(rounds):
        times["keras_trunk"].append(_seconds(lambda: trunk.predict(sample, batch_size=batch, verbose=0)) / len(sample))
        times["engine_trunk"].append(_seconds(lambda: engine.run([sample])) / len(sample))
        train, validation = steps.epoch()
        times["train"].append(train)
        times["validation"].append(validation)
    return Parts(**{name: statistics.median(all_) for name, all_ in times.items()})


def _engine(cut, x, precision):
    from greffon.frozen.build import build_engine

    if precision == "fp32":
        return build_engine(cut.trunk, check=False)
    return build_engine(cut.trunk, check=False, precision=precision, calibration=lambda: [x[:32]])


def _seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class _Steps:
    """Epochs of a real tail on made-up activations, a few batches long."""

    def __init__(self, model, cut, batch):
        import numpy as np

        from greffon.training.feed import RowFeed
        from greffon.training.segments import MadeUp
        from greffon.training.tail import Tail

        self.rows = (4 * batch, batch)
        count = sum(self.rows)
        source = MadeUp(cut, "float32", count)
        classes = model.output_shape[-1]
        y = np.eye(classes, dtype="float32")[np.arange(count) % classes]
        rows = np.arange(count)
        self._feeds = [
            RowFeed(source, rows=rows[part], y=y[part], batch_size=batch, shuffle=False)
            for part in (slice(None, self.rows[0]), slice(self.rows[0], None))
        ]
        self._tail = Tail(model, cut)

    def compile(self):
        """The first epoch."""
        self.epoch()

    def epoch(self):
        """Seconds per picture of training and validation."""
        import keras

        marks = []

        class Marks(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                marks.append(time.perf_counter())

            on_test_begin = lambda self, logs=None: marks.append(time.perf_counter())  # noqa: E731
            on_epoch_end = on_epoch_begin

        self._tail.train_on(
            self._feeds[0], validation_data=self._feeds[1], callbacks=[Marks()], epochs=1, verbose=0, steps=None
        )
        begun, tested, ended = marks
        return (tested - begun) / self.rows[0], (ended - tested) / self.rows[1]
