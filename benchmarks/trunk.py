"""Pictures per second through the frozen part: our engine against `predict` of the same Keras backbone.

Both sides get the same decoded pictures and the same backbone, without a head, in batches. The weights are random,
which changes no time; how near int8 comes to fp32 with real ones is another matter, and the row of `thin` says it for
the weight set that comes with Greffon.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import contextmanager

import made_up
import numpy as np
from rows import Row

COUNT, SIDE = 96, 224
TARGETS = {"fp32": 1.7, "int8": 3.0}


def measure(options):
    """Rows for v1 and thin in fp32 and int8."""
    rows = []
    for variant in ("v1", "thin"):
        for precision in ("fp32", "int8"):
            rows.append(measure_one(variant, rounds=max(options.rounds, 4), precision=precision, options=options))
    return rows


def measure_one(variant, rounds=4, *, precision="fp32", options=None):
    """The ratio for one variant and precision, both sides on the same arrays, in turn."""
    from greffon.frozen.agreement import cosine_similarity
    from greffon.frozen.build import build_engine
    from greffon.frozen.even import at_even_positions
    from greffon.frozen.graph import flatten
    from greffon.frozen.quantise import quantisation_of
    from greffon.frozen.tuning import tuned

    smoke = options is not None and options.smoke
    count, side = (12, 64) if smoke else (COUNT, SIDE)
    (x, _), _ = made_up.arrays(count, 0, side, data=options.data if options else None)
    backbone = _backbone(variant, side)
    graph = at_even_positions(flatten(backbone))
    with _cache_of_its_own():
        start = time.perf_counter()
        how = quantisation_of(graph, lambda: [x[:16]]) if precision == "int8" else None
        calibrating = time.perf_counter() - start
        tuning = tuned(graph, precision, quantisation=how)
    tuning_seconds = time.perf_counter() - start - calibrating
    engine = build_engine(graph, precision=precision, calibration=how, tuning=tuning)
    floats = x.astype("float32")
    theirs, ours = backbone.predict(floats[:32], batch_size=32, verbose=0), engine.run([x[:32]])[0]
    sides = {
        "keras": lambda: backbone.predict(floats, batch_size=32, verbose=0),
        "greffon": lambda: engine.run([x]),
    }
    rates, processor = {name: [] for name in sides}, {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start, cpu = time.perf_counter(), time.process_time()
            run()
            rates[name].append(len(x) / (time.perf_counter() - start))
            processor[name].append((time.process_time() - cpu) / len(x))
    milliseconds = {name: 1e3 * statistics.median(each) for name, each in processor.items()}
    similar = float(np.median(cosine_similarity(ours.mean(axis=(1, 2)), theirs.mean(axis=(1, 2)))))
    rate = {name: f"{statistics.median(each):.1f}/s" for name, each in rates.items()}
    return Row(
        f"trunk/{variant}" + ("" if precision == "fp32" else f"-{precision}"),
        f"trunk of {variant} in {precision}, pictures per second",
        f"{rate['keras']}, `model.predict`",
        rate["greffon"],
        [ours / theirs for ours, theirs in zip(rates["greffon"], rates["keras"], strict=True)],
        target=None if smoke else TARGETS[precision],
        table="trunk",
        note=f"processor time for a picture: {milliseconds['keras']:.1f} ms Keras, {milliseconds['greffon']:.1f} ms "
        f"Greffon; {tuning.threads} threads, batches of {tuning.batch_size}"
        + (f"; calibrated in {calibrating:.1f} s, pooled features' cosine to Keras {similar:.4f}" if how else ""),
        extra={
            "processor_ms": milliseconds,
            "tuning": tuning.to_dict(),
            "tuning_seconds": round(tuning_seconds, 2),
            "cosine": similar,
        },
    )


def _backbone(variant, side):
    import keras

    import greffon
    from greffon.backbone.resnet import resnet

    keras.utils.set_random_seed(0)
    shape = (side, side, 3)
    backbone = (
        greffon.resnet50(weights="thin", input_shape=shape)
        if variant == "thin"
        else resnet(variant=variant, input_shape=shape)
    )
    backbone.trainable = False
    return backbone


@contextmanager
def _cache_of_its_own():
    """What is measured here is measured anew, and not kept."""
    before = os.environ.get("GREFFON_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GREFFON_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["GREFFON_CACHE"]
            if before is not None:
                os.environ["GREFFON_CACHE"] = before
