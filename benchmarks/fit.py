"""`greffon.fit` against `model.fit`: the same network, pictures, epochs, batch and precision, in turn in one process.

The frozen part is computed anew each time (a fresh cache folder), and compiling, tracing and calibrating are counted.
The other side is the tutorial's recipe on decoded arrays with `model.fit` as Keras compiles it by default. Its first
round runs in full and gives its accuracy; later rounds, and those of long rows, are timed over one and two epochs and
extended, since its epochs cost the same.
"""

from __future__ import annotations

import inspect
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
        whole: whether the other side's first round runs in full.
        limited: whether the limit is measured.
        fit: what `greffon.fit` is given beyond what `model.fit` takes.
    """

    name: str
    what: str
    build: Callable[..., Any]
    epochs: int = 10
    target: float | None = None
    whole: bool = True
    limited: bool = True
    fit: dict[str, Any] = field(default_factory=dict)


def _compiled(model):
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
        return _compiled(model)

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
        return _compiled(keras.Model(pictures, keras.layers.Dense(classes, activation="softmax")(features)))

    return build


CASES = (
    Case("head-only", "head only, 10 epochs", resnet("none"), target=14),
    Case("head-only-int8", "the same, int8", resnet("none"), target=16, whole=False, fit={"precision": "int8"}),
    Case("head-only-30", "head only, 30 epochs", resnet("none"), epochs=30, target=38, whole=False),
    Case("last-10", "last 10 layers unfrozen, 10 epochs", resnet(10), target=5.5),
    Case("conv5", "whole conv5 unfrozen, 10 epochs", resnet("conv5"), target=2.4),
    Case(
        "tutorial-head",
        "the tutorial's own head (Flatten, Dense 256, Dropout), last 10 layers unfrozen, 10 epochs",
        resnet(10, batch_norm="train", pool="flatten", hidden=256, dropout=0.5),
        whole=False,
        limited=False,
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
        whole=False,
        limited=False,
    ),
)


class Comparison:
    """Both sides of one case."""

    def __init__(self, case, options):
        self.case, self.options = case, options
        counts = (24, 8) if options.smoke else (TRAIN, HELD_OUT)
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
        """Seconds of one training from a compiled model to its history, and the history."""
        import keras

        model = self.model()
        keras.utils.set_random_seed(1)
        start = time.perf_counter()
        history = train(
            model, *self.data, epochs=epochs, batch_size=self.batch, validation_data=self.validation, verbose=0, **more
        )
        return time.perf_counter() - start, history

    def other(self, *, whole):
        """Seconds of `model.fit`, and its accuracy where it ran in full."""
        if whole:
            seconds, history = self.run(_keras_fit, self.epochs)
            return seconds, history.history["val_accuracy"][-1]
        one, _ = self.run(_keras_fit, 1)
        two, _ = self.run(_keras_fit, 2)
        return one + (self.epochs - 1) * max(0.0, two - one), None

    def ours(self):
        """Seconds of `greffon.fit` with nothing stored, and its accuracy."""
        import greffon

        with fresh_cache():
            seconds, history = self.run(greffon.fit, self.epochs, **self.case.fit)
        pictures = len(self.data[0]) + len(self.validation[0])
        if history.greffon.computed < pictures:
            raise RuntimeError(f"expected each of {pictures} pictures to be computed, got {history.greffon}")
        return seconds, history.history["val_accuracy"][-1]

    def limit(self):
        """The measured limit and its parts; (None, {}) where the case has none."""
        if not self.case.limited:
            return None, {}
        precision = self.case.fit.get("precision", "fp32")
        with fresh_cache():
            parts = measure_parts(self.model(), self.data[0], batch=self.batch, precision=precision)
        return parts.limit(self.epochs, len(self.data[0]), len(self.validation[0])), parts.to_dict()


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
    other, ours, accuracies = [], [], {}
    for number in range(options.rounds):
        whole = case.whole and number == 0
        seconds, accuracy = pair.other(whole=whole)
        other.append(seconds)
        if accuracy is not None:
            accuracies["model.fit"] = accuracy
        seconds, accuracies["greffon.fit"] = pair.ours()
        ours.append(seconds)
    limit, parts = pair.limit()
    extended = "" if case.whole and options.rounds == 1 else ", extended from 2 epochs"
    if case.whole and options.rounds > 1:
        extended = ", the first in full, others extended from 2 epochs"
    said = " and ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
    return [
        Row(
            name=case.name,
            what=case.what,
            other=f"{statistics.median(other):.0f} s{extended}",
            ours=f"{statistics.median(ours):.1f} s",
            ratios=[theirs / mine for theirs, mine in zip(other, ours, strict=True)],
            target=case.target,
            limit=limit,
            note=f"validation accuracy: {said}",
            extra={"other_seconds": other, "ours_seconds": ours, "parts_ms": parts},
        )
    ]


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
