"""One picture: the first answer of a cold process, for `thin` and at full width.

    python benchmarks/latency.py [--rounds 7]

A process is started for every answer: `greffon predict RUN PICTURE` on the command line, and `greffon.load(RUN)
.predict(PICTURE)` in Python. The runs are made up: what a network of random weights answers takes as long. What one
picture takes in a process that is warm stands beside the service's rows (`serving.py`), against Keras.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from startup import GREFFON, seconds

SIDE = 224
CLASSES = ("cat", "dog", "owl")
PYTHON = "import sys, greffon; greffon.load(sys.argv[1]).predict(sys.argv[2])"


def made_up_run(folder: Path, variant: str) -> Path:
    """A run of a whole network with random weights."""
    import polars as pl

    import greffon
    from greffon.backbone.resnet import resnet
    from greffon.bundle.write import BundleContents, write_bundle
    from greffon.evaluation.table import prediction_table

    backbone = resnet((3, 4, 6, 3), variant, input_shape=(SIDE, SIDE, 3))
    model = greffon.graft(backbone, len(CLASSES), preprocessing="open_nsfw" if variant == "thin" else "caffe")
    greffon.freeze(model, "none")
    split = [(f"{side}.png", side, CLASSES[0], side) for side in ("train", "val")]
    even = np.full((1, len(CLASSES)), 1 / len(CLASSES), np.float32)
    contents = BundleContents(
        model=model,
        class_names=CLASSES,
        image_size=SIDE,
        resize="crop",
        recipe=greffon.Recipe(weights="thin", image_size=SIDE),
        split=pl.DataFrame(split, schema=["path", "hash", "label", "split"], orient="row"),
        history=pl.DataFrame({"stage": ["head"], "epoch": [1], "loss": [1.0]}),
        validation=prediction_table(["val.png"], ["val"], [CLASSES[0]], even, CLASSES),
    )
    return write_bundle(folder / variant, contents)


def photograph(folder: Path) -> Path:
    """A JPEG of 1600 x 1200 pixels."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC).save(folder / "picture.jpg", quality=90)
    return folder / "picture.jpg"


def table(rounds: int) -> list[str]:
    """Lines of Markdown."""
    with tempfile.TemporaryDirectory() as place:
        picture = photograph(Path(place))
        commands = {}
        for variant, name in (("thin", "thin"), ("v1", "full width")):
            run = str(made_up_run(Path(place), variant))
            commands[f"`greffon predict`, {name}"] = (*GREFFON, "predict", run, str(picture))
            commands[f"`greffon.load(...).predict`, {name}"] = (sys.executable, "-c", PYTHON, run, str(picture))
        for command in commands.values():  # once for the disk
            seconds(command)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    head = ["| first answer of a cold process | min s | median s | max s |", "|---|---|---|---|"]
    return head + [
        f"| {name} | {min(all_):.2f} | {statistics.median(all_):.2f} | {max(all_):.2f} |"
        for name, all_ in times.items()
    ]


def measure(options) -> list[str]:
    """The table, for `run.py`."""
    return table(1 if options.smoke else 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    print("\n".join(table(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
