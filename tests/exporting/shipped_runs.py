"""Small runs with pictures, to be exported."""

from __future__ import annotations

import numpy as np
import polars as pl

NAMES = ["cat", "dog", "owl 🦉"]
SIDE = 64


def network(variant="thin", *, blocks=(1, 1, 1, 1), classes=3, head=None, preprocessing="open_nsfw", side=SIDE):
    """A network with random weights whose normalisation has statistics and weights as a trained one's."""
    import keras

    import greffon
    from greffon.backbone.resnet import resnet

    keras.utils.set_random_seed(3)
    backbone = resnet(blocks, variant, input_shape=(side, side, 3))
    model = greffon.graft(backbone, classes, head or greffon.Head(), preprocessing=preprocessing)
    random = np.random.default_rng(5)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            wide = random.uniform(0.5, 1.5, (4, len(gamma))).astype(np.float32)
            layer.set_weights([gamma * wide[0], beta + (wide[1] - 1) / 2, mean + (wide[2] - 1) / 2, variance * wide[3]])
    last = model.layers[-1]
    if isinstance(last, keras.layers.Dense):
        _of_two_minds(model, last, side)
    return model


def _of_two_minds(model, last, side):
    """Let the answers be unsure, and one class not be the answer to everything."""
    import keras

    from greffon.pictures.decode import decode_array

    pixels = np.stack([decode_array(picture(seed), side, "crop") for seed in range(12)]).astype(np.float32)
    features = np.asarray(keras.Model(model.input, last.input)(pixels, training=False))
    kernel, bias = last.get_weights()
    logits = features @ kernel
    spread = logits.std(axis=0) + 1e-3
    last.set_weights([kernel / spread, bias - (logits / spread).mean(axis=0)])


def picture(seed):
    """A smooth picture of random colours, uint8 (70, 90, 3)."""
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(values).resize((90, 70), Image.Resampling.BICUBIC))


def saved_pictures(folder, count=12):
    """Picture files, with the hash that a catalog has for each."""
    import xxhash
    from PIL import Image

    folder.mkdir()
    found = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(picture(number)).save(file)
        found.append((file.name, xxhash.xxh3_128_hexdigest(file.read_bytes())))
    return found


def written_run(place, model, pictures, *, several_labels=False, temperature=None, side=SIDE):
    """A run whose first pictures are training's and whose last four are validation's; labels are what it answers."""
    from greffon.bundle.write import BundleContents, write_bundle
    from greffon.evaluation.calibration import Calibration
    from greffon.evaluation.table import prediction_table
    from greffon.pictures.decode import decode
    from greffon.recipe import Head, Recipe

    names = [*NAMES, *(f"class {number}" for number in range(model.output_shape[1]))][: model.output_shape[1]]
    folder, files = pictures
    held_out = files[-4:]
    pixels = np.stack([decode(folder / name, side, "crop") for name, _ in held_out]).astype(np.float32)
    answers = np.asarray(model(pixels, training=False))
    if several_labels:
        labels = [[name for name, value in zip(names, row, strict=True) if value >= 0.5] for row in answers]
    else:
        labels = [names[place] for place in answers.argmax(axis=1)]
    paths, hashes = zip(*held_out, strict=True)
    rows = [(name, digest, names[0], "train") for name, digest in files[:-4]]
    rows += [(name, digest, names[0], "val") for name, digest in held_out]
    return write_bundle(
        place,
        BundleContents(
            model=model,
            class_names=names,
            image_size=side,
            resize="crop",
            recipe=Recipe(
                weights="thin", image_size=side, head=Head(output="sigmoid" if several_labels else "softmax")
            ),
            split=pl.DataFrame(rows, schema=["path", "hash", "label", "split"], orient="row"),
            history=pl.DataFrame({"stage": ["head"], "epoch": [1], "loss": [0.5]}),
            validation=prediction_table(paths, hashes, labels, answers, names, several_labels=several_labels),
            calibration=None
            if temperature is None
            else Calibration(temperature=temperature, fitted_on="validation", count=4, several_labels=several_labels),
            pictures=folder,
        ),
    )
