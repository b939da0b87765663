"""Pictures per second through the frozen part: our engine against `predict` of the same Keras backbone."""

from __future__ import annotations

import statistics
import time

import numpy as np

COUNT, SIDE = 96, 224


def measure(variant, rounds=4):
    """The ratio for one variant, both sides on the same arrays, in turn."""
    from greffon.backbone.resnet import resnet
    from greffon.frozen.engine import build_engine
    from greffon.frozen.even import at_even_positions
    from greffon.frozen.graph import flatten

    backbone = resnet(variant=variant, input_shape=(SIDE, SIDE, 3))
    backbone.trainable = False
    engine = build_engine(at_even_positions(flatten(backbone)))
    x = np.random.default_rng(0).uniform(-100, 100, (COUNT, SIDE, SIDE, 3)).astype("float32")
    backbone.predict(x[:32], batch_size=32, verbose=0)
    engine.run([x[:32]])
    rates = {"keras": [], engine.name: []}
    for _ in range(rounds):
        for name, run in (
            ("keras", lambda: backbone.predict(x, batch_size=32, verbose=0)),
            (engine.name, lambda: engine.run([x])),
        ):
            start = time.perf_counter()
            run()
            rates[name].append(COUNT / (time.perf_counter() - start))
    ratios = [ours / theirs for ours, theirs in zip(rates[engine.name], rates["keras"], strict=True)]
    return (
        f"| trunk, {variant} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
        f"| {statistics.median(rates['keras']):.1f}/s | {statistics.median(rates[engine.name]):.1f}/s |"
    )
