"""The six steps of the tutorial on the pictures that come with Greffon.

    python examples/tutorial.py

Nothing is downloaded. 600 pictures of ten kinds of clothes to learn from, 400 to test on; the network is the embedded
one of half width. Prints the freeze table, ten epochs, and the accuracy on the test pictures: expect about 0.76 (one
run gave 0.762, in a minute on two cores). The head and the last ten layers train together here, from a new head;
`greffon demo` trains the head first.

Smaller: python examples/tutorial.py --size 64 --pictures 5 --epochs 2
"""

from __future__ import annotations

import argparse
import tempfile
from typing import TYPE_CHECKING

import keras
import numpy as np
from PIL import Image

import greffon
from greffon.pictures.demo import demo_pictures

if TYPE_CHECKING:
    from pathlib import Path


def load(folder: Path, size: int, most: int | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures as uint8 (n, size, size, 3), RGB, and a row per picture with a 1 in the column of its class."""
    classes = sorted(entry.name for entry in folder.iterdir())
    files = [(file, place) for place, name in enumerate(classes) for file in sorted((folder / name).iterdir())[:most]]
    pictures = [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file, _ in files]
    return np.stack(pictures), np.eye(len(classes), dtype=np.float32)[[place for _, place in files]], classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=None, help="at most so many per class")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = demo_pictures(folder)
        train_data, train_labels, classes = load(data / "train", options.size, options.pictures)
        test_data, test_labels, _ = load(data / "test", options.size, options.pictures)

    # Steps 1 and 2: the network and its weights.
    backbone = greffon.resnet50(weights="thin", input_shape=(options.size, options.size, 3))
    # Step 4: a new head; the preprocessing of the weights goes in front.
    model = greffon.graft(backbone, classes=len(classes))
    # Steps 3 and 5: freeze all but the head and the last ten layers.
    print(greffon.freeze(model, unfreeze=10))
    # Step 6.
    model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    greffon.fit(model, train_data, train_labels, epochs=options.epochs, batch_size=32, verbose=2)

    _, accuracy = model.evaluate(test_data, test_labels, verbose=0)
    print(f"accuracy on {len(test_data)} test pictures: {accuracy:.3f}")


if __name__ == "__main__":
    main()
