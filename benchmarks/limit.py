"""How far one could get: seconds measured for each part, put into the cost formula.

    T_cached = (N + V) e + E [ N b + V c ]

N pictures to learn from, V held out, E epochs; e: the engine, b: a training step of the tail, c: a validation step of
it; seconds per picture, each the least of several measurements. The frozen part runs once, then the tail alone.
Compiling, decoding, reading and writing are left out: a limit has none of them. The limit of a ratio is what the other
side took over these seconds; a ratio above it is a mistake of measurement until it is explained.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Parts:
    """Seconds per picture.

    Attributes:
        engine_trunk: the frozen part, in the engine.
        train: a training step of the tail.
        validation: a validation step of it.
    """

    engine_trunk: float
    train: float
    validation: float

    def seconds(self, epochs, train, validation):
        """The least that a training can take."""
        steps = epochs * (train * self.train + validation * self.validation)
        return (train + validation) * self.engine_trunk + steps

    def to_dict(self):
        """Milliseconds per picture, for the file of results."""
        return {name: round(1000 * seconds, 3) for name, seconds in asdict(self).items()}


def measure_parts(model, x, *, batch, held_out, rounds=3, precision="fp32"):
    """Measure the parts of a compiled model in turn: the tail's steps, the engine; and again.

    Behind a pooled cut an epoch is one call of some milliseconds, whatever its length: it is as long as the real one.
    """
    from greffon.frozen.cut import find_cut
    from greffon.frozen.feature_augment import is_pooled

    cut = find_cut(model)
    engine = _engine(cut, x, precision)
    steps = _Steps(model, cut, batch, (len(x), held_out) if is_pooled(cut.shapes) else (4 * batch, batch))
    sample = x[: max(batch, min(len(x), 2 * batch))]
    engine.run([sample[:1]])
    steps.epoch()  # compiles
    times = {name: [] for name in ("engine_trunk", "train", "validation")}
    for _ in range(rounds):
        for name, seconds in zip(("train", "validation"), steps.epoch(), strict=True):
            times[name].append(seconds)
        times["engine_trunk"].append(_seconds(lambda: engine.run([sample])) / len(sample))
    return Parts(**{name: min(all_) for name, all_ in times.items()})


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
    """Epochs of a real tail on made-up activations, so many pictures long."""

    def __init__(self, model, cut, batch, rows):
        import numpy as np

        from greffon.training.feed import RowFeed
        from greffon.training.segments import MadeUp
        from greffon.training.tail import Tail

        self.rows = rows
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

    def epoch(self):
        """Seconds per picture of training and validation."""
        marks = _marks()
        feed, held_out = self._feeds
        self._tail.train_on(feed, validation_data=held_out, callbacks=[marks], epochs=1, verbose=0, steps=None)
        return marks.seconds(self.rows)


def _marks():
    """A callback that notes when training and validation of an epoch begin and end."""
    import keras

    class Marks(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.at = []

        def on_epoch_begin(self, epoch, logs=None):
            self.at.append(time.perf_counter())

        def on_test_begin(self, logs=None):
            self.at.append(time.perf_counter())

        on_epoch_end = on_epoch_begin

        def seconds(self, rows):
            begun, tested, ended = self.at
            return (tested - begun) / rows[0], (ended - tested) / rows[1]

    return Marks()
