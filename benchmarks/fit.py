"""`greffon.fit` against `model.fit`: the same network, pictures, epochs, batch and precision, in turn in one process.

The frozen part is computed anew each time (a fresh cache folder), and compiling, tracing and calibrating are counted.
The other side is the tutorial's recipe on decoded arrays with `model.fit` as Keras compiles it by default. Where it
would take long, two epochs of it are timed and extended, since its epochs cost the same but for compiling in the first;
by the fastest later epoch of all rounds, since TensorFlow's tuning thread makes it wait between some of them.
Accuracy and loss of both sides are compared at the last epoch that both have run.
"""

from __future__ import annotations

import inspect
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limit import measure_parts
from made_up import arrays
from rows import Row, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable

TRAIN, HELD_OUT, SIDE, BATCH = 265, 66, 224, 32


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: of the row.
        what: what trains, for how long.
        build: (options, classes, side) -> a compiled model.
        epochs: of both sides.
        target: the ratio to reach.
        whole: whether the other side's first round runs in full; other rounds are extended.
        rounds: at most so many, where the row is long and has no target.
        limited: whether the limit is measured.
        fit: what `greffon.fit` is given beyond what `model.fit` takes.
        pictures: to learn from and held out; by default 265 and 66.
        cached: whether there is a frozen part, computed once.
    """

    name: str
    what: str
    build: Callable[..., Any]
    epochs: int = 10
    target: float | None = None
    whole: bool = False
    rounds: int = 99
    limited: bool = True
    fit: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[int, int] = (TRAIN, HELD_OUT)
    cached: bool = True


def compiled(model):
    """The model, compiled as the tutorial does it."""
    import keras

    model.compile(keras.optimizers.Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return model


def resnet(unfreeze, *, batch_norm="frozen", **head):
    """A function that builds a ResNet-50 with random weights: what they are does not change the time."""

    def build(options, classes, side):
        import greffon
        from greffon.backbone.resnet import resnet as any_resnet

        size = {"blocks": (1, 1, 1, 3), "variant": "thin"} if options.smoke else {}
        backbone = any_resnet(**size, input_shape=(side, side, 3))
        model = greffon.graft(backbone, classes, greffon.Head(**head), preprocessing="caffe")
        greffon.freeze(model, unfreeze, batch_norm=batch_norm)
        return compiled(model)

    return build


def application(name):
    """A function that builds somebody's script: a network of keras.applications, frozen, and a classifier."""

    def build(options, classes, side):
        import keras

        network = getattr(keras.applications, name)
        base = network(weights=None, include_top=False, pooling="avg", input_shape=(side, side, 3))
        base.trainable = False
        pictures = keras.Input((side, side, 3))
        features = base(keras.layers.Rescaling(1 / 127.5, -1)(pictures))
        return compiled(keras.Model(pictures, keras.layers.Dense(classes, activation="softmax")(features)))

    return build


CASES = (
    Case("head-only", "head only, 10 epochs", resnet("none"), target=14, whole=True),
    Case(
        "head-only-int8",
        "head only, 10 epochs, int8 trunk",
        resnet("none"),
        target=16,
        fit={"precision": "int8", "min_agreement": 0.0},
    ),
    Case("head-only-30", "head only, 30 epochs", resnet("none"), epochs=30, target=38),
    Case("last-10", "last 10 layers unfrozen, 10 epochs", resnet(10), target=5.5, whole=True),
    Case("conv5", "whole conv5 unfrozen, 10 epochs", resnet("conv5"), target=2.4),
    Case(
        "tutorial-head",
        "the tutorial's own head (Flatten, Dense 256, Dropout), last 10 layers unfrozen, 10 epochs",
        resnet(10, batch_norm="train", pool="flatten", hidden=256, dropout=0.5),
        rounds=1,
        limited=False,
    ),
    Case(
        "full",
        "full fine-tuning, nothing frozen, 2 epochs of 64 pictures",
        resnet("all"),
        epochs=2,
        target=0.97,
        whole=True,
        limited=False,
        pictures=(64, 32),
        cached=False,
    ),
    Case(
        "mobilenet",
        "another's script: MobileNetV2, head only, 10 epochs",
        application("MobileNetV2"),
        target=5,
        limited=False,
    ),
    Case(
        "densenet",
        "another's script: DenseNet121, head only, 10 epochs",
        application("DenseNet121"),
        target=5,
        limited=False,
    ),
)


class Comparison:
    """Both sides of one case."""

    def __init__(self, case, options):
        self.case, self.options = case, options
        counts = (24, 8) if options.smoke else case.pictures
        self.side = 64 if options.smoke else SIDE
        self.batch = 8 if options.smoke else BATCH
        self.epochs = min(case.epochs, 3) if options.smoke else case.epochs
        self.data, self.validation = arrays(*counts, self.side, data=options.data)

    def model(self):
        """Compiled, with the same weights every time."""
        import keras

        keras.utils.set_random_seed(0)
        return self.case.build(self.options, self.data[1].shape[1], self.side)

    def run(self, train, epochs, **more):
        """Train, from a compiled model to its history.

        Returns:
            Seconds until each epoch had ended, those until `fit` returned, and the history.
        """
        import keras

        model = self.model()
        keras.utils.set_random_seed(1)
        ends = []
        watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
        start = time.perf_counter()
        history = train(
            model,
            *self.data,
            epochs=epochs,
            batch_size=self.batch,
            validation_data=self.validation,
            callbacks=[watch],
            verbose=0,
            **more,
        )
        return [end - start for end in ends], time.perf_counter() - start, history

    def other(self, *, whole):
        """`model.fit` for two epochs, or for all: seconds until each had ended, until it returned, and its history."""
        ends, seconds, history = self.run(_keras_fit, self.epochs if whole else min(2, self.epochs))
        return ends, seconds, history.history

    def extended(self, ends, seconds, epoch):
        """Seconds of all epochs, where those that did not run take `epoch` each, and so does the second of two."""
        if len(ends) == self.epochs:
            return seconds
        return ends[0] + (self.epochs - 1) * epoch

    def ours(self):
        """Seconds of `greffon.fit` with nothing stored, and its history."""
        import greffon

        with fresh_cache():
            _, seconds, history = self.run(greffon.fit, self.epochs, **self.case.fit)
        pictures = len(self.data[0]) + len(self.validation[0])
        if self.case.cached and history.greffon.computed < pictures:
            raise RuntimeError(f"expected each of {pictures} pictures to be computed, got {history.greffon}")
        return seconds, history

    def limit(self, other):
        """The measured limit where the other side takes so many seconds, and its parts; (None, {}) without one."""
        if not self.case.limited:
            return None, {}
        precision = self.case.fit.get("precision", "fp32")
        with fresh_cache():
            parts = measure_parts(
                self.model(), self.data[0], batch=self.batch, held_out=len(self.validation[0]), precision=precision
            )
        return other / parts.seconds(self.epochs, len(self.data[0]), len(self.validation[0])), parts.to_dict()


def measure(case, options):
    """Run both sides in turn.

    Raises:
        Skipped: this version's `fit` lacks an option that the row is about.
    """
    import greffon

    missing = case.fit.keys() - inspect.signature(greffon.fit).parameters.keys()
    if missing:
        raise Skipped(f"greffon.fit has no option {', '.join(sorted(missing))}")
    pair = Comparison(case, options)
    runs, ours, compared = [], [], ""
    for number in range(min(options.rounds, case.rounds)):
        whole = case.whole and number == 0
        ends, seconds, theirs = pair.other(whole=whole)
        runs.append((ends, seconds))
        seconds, mine = pair.ours()
        ours.append(seconds)
        if number == 0:
            compared = _compared(theirs, mine)
    epoch = min(later - sooner for ends, _ in runs for sooner, later in itertools.pairwise(ends))
    other = [pair.extended(*each, epoch) for each in runs]
    limit, parts = pair.limit(statistics.median(other))
    return [
        Row(
            name=case.name,
            what=case.what,
            other=f"{statistics.median(other):.0f} s{_extended(case, len(other))}",
            ours=f"{statistics.median(ours):.1f} s",
            ratios=[theirs / mine for theirs, mine in zip(other, ours, strict=True)],
            target=case.target,
            limit=limit,
            note=compared,
            extra={
                "other_seconds": other,
                "other_epoch": epoch,
                "other_ends": [ends for ends, _ in runs],
                "ours_seconds": ours,
                "parts_ms": parts,
            },
        )
    ]


def _extended(case, rounds):
    if not case.whole:
        return ", extended from 2 epochs"
    return "" if rounds == 1 else ", the first in full, others extended from 2 epochs"


def _compared(theirs, history):
    """Validation accuracy and loss of both sides at the last epoch that both have run."""
    ours, epochs = history.history, len(theirs["val_loss"])
    sides = [
        f"{name} {values['val_accuracy'][epochs - 1]:.3f} ({values['val_loss'][epochs - 1]:.4f})"
        for name, values in (("model.fit", theirs), ("greffon.fit", ours))
    ]
    last = "" if epochs == len(ours["val_loss"]) else f"; greffon.fit at its end {ours['val_accuracy'][-1]:.3f}"
    agreement = getattr(history.greffon, "agreement", None)
    said = f"; int8 agrees with fp32 on {agreement['same']} of {agreement['pictures']} pictures" if agreement else ""
    return f"validation accuracy (loss) after {epochs} epochs: {' and '.join(sides)}{last}{said}"


class fresh_cache:  # noqa: N801  # used like a function
    """While it lasts, Greffon's cache folder is a new one."""

    def __enter__(self):
        self._before = os.environ.get("GREFFON_CACHE")
        self._folder = tempfile.TemporaryDirectory(prefix="greffon-bench-")
        os.environ["GREFFON_CACHE"] = self._folder.name
        return self._folder.name

    def __exit__(self, *_):
        if self._before is None:
            del os.environ["GREFFON_CACHE"]
        else:
            os.environ["GREFFON_CACHE"] = self._before
        self._folder.cleanup()


def _keras_fit(model, *data, **options):
    return model.fit(*data, **options)
