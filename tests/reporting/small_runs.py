"""Pictures under names that a stranger could choose, and runs about them that were not trained."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))  # made_up_runs

SIDE = 64
HOSTILE = "red <img src=x onerror=alert(1)> & \"'"
"""A class's name."""


def render(folder):
    """Three classes that a dot in a corner tells apart, hard to see; hostile names; train/ and test/."""
    from PIL import Image

    random = np.random.default_rng(0)
    for side, count in (("train", 14), ("test", 5)):
        for label, name in enumerate(("blue", HOSTILE, "stripes é")):
            place = folder / side / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(110, 45, (70, 84, 3))
                row, column = 10 + 30 * (label // 2), 10 + 40 * (label % 2)
                pixels[row : row + 24, column : column + 24, label] += 55
                file = place / f"{number}<script>alert(2)</script>".replace("/", "\N{RIGHT-TO-LEFT OVERRIDE}")
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(f"{file}.png")
    (folder / "train" / "blue" / "broken.png").write_bytes(b"no picture")
    return folder


def made_up(folder, place, *, several=False, names=None, model=None, **changes):
    """A run of a small network without training, whose split is about the pictures of a folder."""
    import polars as pl
    from made_up_runs import contents_of, grafted

    import greffon
    from greffon.bundle.write import write_bundle
    from greffon.evaluation.table import prediction_table
    from greffon.pictures.catalog import Catalog

    catalog = Catalog.from_folder(folder)
    rows = catalog.ok.with_row_index("row")
    held_out = (pl.col("split") == "train") & (pl.col("row") % 4 == 0)
    split = rows.with_columns(split=pl.when(held_out).then(pl.lit("val")).otherwise(pl.col("split"))).drop("row")
    if several:  # each picture has its own class, and every other one "blue" as well
        labels = [[label, "blue"][: 1 + n % 2] for n, label in enumerate(split["label"].to_list())]
        split = split.with_columns(
            labels=pl.Series([sorted(set(of_one)) for of_one in labels], dtype=pl.List(pl.String))
        )
    val = split.filter(pl.col("split") == "val")
    names = names or list(catalog.class_names)
    values = np.random.default_rng(1).dirichlet(np.ones(len(names)), len(val)).astype(np.float32)
    table = prediction_table(
        val["path"].to_list(), val["hash"].to_list(), val["labels" if several else "label"].to_list(), values, names,
        several_labels=several,
    )  # fmt: skip
    head = greffon.Head(output="sigmoid") if several else None
    contents = contents_of(
        model or grafted(len(names), head),
        names=names,
        several_labels=several,
        split=split,
        validation=table,
        **changes,
    )
    return write_bundle(place, contents)


def events(folder):
    """(tag, step, value) of every number in a folder of event files; texts as they are."""
    import tensorflow as tf

    found = []
    for file in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                kind = value.metadata.plugin_data.plugin_name
                found.append((kind, value.tag, event.step, tensor.item()))
    return found
