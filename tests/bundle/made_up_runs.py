"""Small runs and pictures for tests."""

from __future__ import annotations

import numpy as np
import polars as pl

NAMES = ["cat", "dog", "owl 🦉"]
SIDE = 64


def grafted(classes=3, head=None, preprocessing="open_nsfw", seed=0):
    """A small network with random weights, a head, and its last block unfrozen."""
    import keras

    import greffon
    from greffon.backbone.resnet import resnet

    keras.utils.set_random_seed(seed)
    backbone = resnet((1, 1, 1, 1), "thin", input_shape=(SIDE, SIDE, 3))
    model = greffon.graft(backbone, classes, head or greffon.Head(), preprocessing=preprocessing)
    greffon.freeze(model, "conv5_block1")
    return model


def contents_of(
    model, *, names=NAMES, several_labels=False, train_hashes=("h1",), validation_hashes=("h2",), **changes
):
    """What a training would hand over, made up."""
    from greffon.bundle.write import BundleContents
    from greffon.evaluation.table import prediction_table
    from greffon.recipe import Recipe

    count = len(validation_hashes)
    values = np.full((count, len(names)), 1 / len(names), np.float32)
    labels = [[names[0]] if several_labels else names[0]] * count
    split = {"train": list(train_hashes), "val": list(validation_hashes)}
    rows = [(f"{h}.png", h, names[0], side) for side, hashes in split.items() for h in hashes]
    given = {
        "model": model,
        "class_names": names,
        "image_size": SIDE,
        "resize": "crop",
        "recipe": Recipe(weights="thin", image_size=SIDE),
        "split": pl.DataFrame(rows, schema=["path", "hash", "label", "split"], orient="row"),
        "history": pl.DataFrame(
            {"stage": ["head", "last"], "epoch": [1, 1], "loss": [0.1 + 0.2, 1e-30], "val_loss": [None, 0.5]}
        ),
        "validation": prediction_table(
            [f"{h}.png" for h in validation_hashes],
            list(validation_hashes),
            labels,
            values,
            names,
            several_labels=several_labels,
        ),
        "record": {"seconds": {"trunk": np.float32(1.5)}, "trunk": {"pictures": np.int64(2)}},
        "notes": ("Two pictures are few",),
    }
    return BundleContents(**(given | changes))


def picture(seed, width=90, height=70):
    """A smooth picture of random colours, uint8 (height, width, 3)."""
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
