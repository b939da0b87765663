"""What views are worth: the accuracy of K = 1, 2, 4, 8 kept views of each picture against a new view in every epoch.

    python benchmarks/views.py FOLDER [--policies crop,rand] [--splits 5] [--block crop]

All sides train for the same epochs, steps and batches from the same initial weights, in the same order of pictures;
what differs is which view of a picture an epoch sees. `K = epochs` is augmentation as everybody does it: a view that
was never seen before in every epoch, which a trunk that is run once cannot give any cheaper. Accuracy is that of the
last epoch, on the pictures held out as they are; nothing is chosen by it. The difference is to K = 1 on the same
split, with the standard error of its mean over the splits.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

if TYPE_CHECKING:
    from greffon.pictures.catalog import Catalog

SIZE = 224
KEPT = (1, 2, 4, 8)
FEATURES = ((0.1, 0.0), (0.3, 0.0), (1.0, 0.0), (0.0, 0.02), (0.0, 0.05), (0.0, 0.1))
CUTS = {"head": ("none", 30, 1e-3), "block": ("conv5_block3", 15, 1e-4)}
"""Which stage: its freeze rule, epochs and learning rate, as in the default recipe; `block` goes on from `head`."""


@dataclass
class Pictures:
    """Decoded on demand; what passes the cuts, by policy, stage, view and picture.

    Attributes:
        catalog: all pictures.
        kept: policy and stage to an array (views, pictures, ...) in float16.
    """

    catalog: Catalog
    kept: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @property
    def usable(self):
        """Rows of the catalog whose pictures can be read."""
        return self.catalog.frame.filter(self.catalog.frame["state"] == "ok")

    @property
    def targets(self):
        """Float32 (pictures, classes)."""
        rows = [self.catalog.class_names.index(label) for label in self.usable["label"]]
        return np.eye(len(self.catalog.class_names), dtype="float32")[rows]

    def read(self, policy, numbers):
        """Some views of all pictures, a few pictures at a time: uint8 (pictures * views, size, size, 3)."""
        from greffon.errors import DataError
        from greffon.pictures.views import ViewRequest, decode_views_many

        rows = list(self.usable.select("path", "hash").iter_rows())
        for start in range(0, len(rows), 16):
            some = rows[start : start + 16]
            requests = [ViewRequest(self.catalog.root / path, content, tuple(numbers)) for path, content in some]
            views = list(decode_views_many(requests, SIZE, "crop", policy))
            broken = [each for each in views if isinstance(each, DataError)]
            if broken:
                raise broken[0]
            yield np.concatenate(views)


class Network:
    """A grafted model, cut for the head and for the last block, whose tails can be trained again and again."""

    def __init__(self, weights, classes, batch):
        import keras

        import greffon
        from greffon.frozen.build import build_engine
        from greffon.frozen.cut import find_cut
        from greffon.frozen.even import at_even_positions
        from greffon.frozen.graph import flatten

        keras.utils.set_random_seed(0)
        self.model = greffon.graft(greffon.resnet50(weights, input_shape=(SIZE, SIZE, 3)), classes)
        graph = at_even_positions(flatten(self.model))
        self.cuts = {}
        for stage, (unfreeze, _, _) in CUTS.items():
            greffon.freeze(self.model, unfreeze)
            self.cuts[stage] = find_cut(self.model, graph=graph)
        outputs = [tensor for cut in self.cuts.values() for tensor in cut.trunk.outputs]
        self.engine = build_engine(graph.between(graph.inputs, outputs))
        self.initial = self.model.get_weights()
        self.batch = batch
        self._steps = {}

    def activations(self, pictures):
        """What passes each cut: one float16 array per stage."""
        return [part.astype("float16") for part in self.engine.run([pictures])]

    def tail(self, stage, noise=0.0, brightness=0.0):
        """What trains of a stage, compiled; made once, since compiling takes longer than training."""
        import keras

        import greffon
        from greffon.frozen.feature_augment import FeatureAugment
        from greffon.frozen.graph import GraphModel

        unfreeze, _, rate = CUTS[stage]
        greffon.freeze(self.model, unfreeze)
        key = (stage, noise, brightness)
        if key not in self._steps:
            inputs = keras.Input(self.cuts[stage].shapes[0])
            changed = FeatureAugment(noise, brightness, seed=0)(inputs) if noise or brightness else inputs
            tail = keras.Model(inputs, GraphModel(self.cuts[stage].tail)(changed))
            tail.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", jit_compile=True)
            self._steps[key] = tail
        tail = self._steps[key]
        if tail.optimizer.built:
            for variable in tail.optimizer.variables:
                if variable is not tail.optimizer.learning_rate:
                    variable.assign(np.zeros(variable.shape, variable.dtype))
        return tail


def run(network, pictures, split, stage, policy, views, *, seed, features=(0.0, 0.0)):
    """Train one stage and give the share of held-out pictures that it gets right; None: a new view in every epoch."""
    train, held_out = split
    kept, y = pictures.kept[policy, stage], pictures.targets
    _, epochs, _ = CUTS[stage]
    tail, batch = network.tail(stage, *features), network.batch
    random = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = random.permutation(train)
        # Drawn in any case, so that all sides see the pictures in the same order.
        drawn = random.integers(0, views or 1, len(order)) if views else np.full(len(order), epoch)
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            tail.train_on_batch(kept[drawn[start : start + batch], rows].astype("float32"), y[rows])
    answers = np.concatenate(
        [
            np.asarray(tail.predict_on_batch(kept[0, held_out[start : start + batch]].astype("float32")))
            for start in range(0, len(held_out), batch)
        ]
    )
    return float((answers.argmax(1) == y[held_out].argmax(1)).mean())


def splits_of(pictures, count, validation):
    """Rows to learn from and rows held out, by Greffon's own split, with one seed after the other."""
    from greffon.pictures.split import split

    row = {path: number for number, path in enumerate(pictures.usable["path"])}
    for seed in range(count):
        sides = split(pictures.catalog, validation=validation, seed=seed)
        yield tuple(np.array([row[path] for path in sides.side(side)["path"]]) for side in ("train", "val"))


def fill(network, pictures, policy, *, block):
    """Run the trunk over all views that a policy needs; the last block's cut only where it is trained."""
    most = 2 if policy == "flip" else CUTS["head"][1]
    numbers = range(most)
    some = {stage: [] for stage in CUTS}
    for read in pictures.read(policy, numbers):
        for stage, part in zip(CUTS, network.activations(read), strict=True):
            part = part.reshape(-1, most, *part.shape[1:])  # noqa: PLW2901
            if stage == "head" or block:
                some[stage].append(part[:, : CUTS[stage][1]])
    for stage, parts in some.items():
        if parts:
            pictures.kept[policy, stage] = np.ascontiguousarray(np.concatenate(parts).swapaxes(0, 1))


def sides_of(policies, stage):
    """What is compared for a stage: name, policy, views, changes of the features."""
    yield "no augmentation", policies[0], 1, (0.0, 0.0)
    for policy in policies:
        for views in (2,) if policy == "flip" else (*KEPT[1:], None):
            yield f"{policy}, K = {views or 'epochs'}", policy, views, (0.0, 0.0)
    if stage == "head":
        for noise, brightness in FEATURES:
            name = f"features, noise {noise:g}" if noise else f"features, brightness {brightness:g}"
            yield name, policies[0], 1, (noise, brightness)


def measure(network, pictures, policies, stage, splits):
    """Accuracies of all sides on all splits: name to a list. The last block goes on from a head trained before."""
    found = {}
    for seed, split in enumerate(splits):
        network.model.set_weights(network.initial)
        if stage == "block":
            run(network, pictures, split, "head", policies[0], 1, seed=seed)
        start = network.model.get_weights()
        for name, policy, views, features in sides_of(policies, stage):
            network.model.set_weights(start)
            accuracy = run(network, pictures, split, stage, policy, views, seed=seed, features=features)
            found.setdefault(name, []).append(accuracy)
        print(f"{stage}, split {seed + 1}: {time.process_time():.0f} s of processor time", file=sys.stderr, flush=True)
    return found


def table(found, epochs):
    """Markdown: mean and spread over the splits, difference to no augmentation, cost in trunk passes."""
    lines = [
        "| views | accuracy | lowest to highest | difference, points | trunk passes per picture |",
        "|---|---|---|---|---|",
    ]
    base = np.array(found["no augmentation"])
    for name, accuracies in found.items():
        values = np.array(accuracies)
        difference = 100 * (values - base)
        error = difference.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        passes = name.rpartition("K = ")[2].replace("epochs", str(epochs)) if "K = " in name else "1"
        change = "" if name == "no augmentation" else f"{difference.mean():+.1f} ± {error:.1f}"
        lines.append(
            f"| {name} | {values.mean():.3f} | {values.min():.3f} to {values.max():.3f} | {change} | {passes} |"
        )
    return "\n".join(lines)


def arguments(words):
    """What the command line says."""
    from greffon.recipe import Augment

    known = get_args(Augment)

    def policies(text):
        chosen = text.split(",") if text else []
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {text!r}")
        return chosen

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="one folder of pictures per class")
    parser.add_argument("--weights", default="thin")
    parser.add_argument("--policies", type=policies, default=list(known), help="for the head")
    parser.add_argument("--block", type=policies, default=["crop"], help="policies for the last block; empty: none")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--block-splits", type=int, default=5)
    parser.add_argument("--validation", type=float, default=0.5, help="share held out")
    parser.add_argument("--batch", type=int, default=16)
    return parser.parse_args(words)


def main(words):
    """Measure and print the tables."""
    options = arguments(words)
    from greffon.pictures.catalog import Catalog

    catalog = Catalog.from_folder(options.folder)
    pictures = Pictures(catalog)
    network = Network(options.weights, len(catalog.class_names), options.batch)
    every = list(dict.fromkeys([*options.policies, *options.block]))
    start = time.perf_counter()
    for policy in every:
        fill(network, pictures, policy, block=policy in options.block)
        print(f"{policy}: trunk done after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    splits = list(splits_of(pictures, max(options.splits, options.block_splits), options.validation))
    counts = f"{len(splits[0][0])} pictures to learn from, {len(splits[0][1])} held out, weights {options.weights}"
    for stage, policies, count in (
        ("head", options.policies, options.splits),
        ("block", options.block, options.block_splits),
    ):
        if policies:
            epochs = CUTS[stage][1]
            found = measure(network, pictures, policies, stage, splits[:count])
            print(f"\n{stage}: {counts}, {count} splits, {epochs} epochs, batch {options.batch}\n")
            print(table(found, epochs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
