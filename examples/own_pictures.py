"""A folder of your own pictures, from training to names and probabilities.

    python examples/own_pictures.py photos runs/first

`photos` holds one folder of pictures per class. Nothing is downloaded: the network is the embedded one of half width;
`--weights imagenet` takes the larger one, once `greffon weights fetch imagenet` has fetched it. Prints what is trained,
the validation accuracy with its 95 % interval, and what the run says of some pictures. The model.keras in it opens in
plain Keras.

Smaller: python examples/own_pictures.py photos runs/first --size 64 --epochs 2
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import greffon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="one folder of pictures per class")
    parser.add_argument("out", type=Path, help="the folder of the run; it must not exist")
    parser.add_argument("--weights", default="thin", help="a weight set, a weight file or a run")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input, in pixels")
    parser.add_argument("--epochs", type=int, default=15, help="at most so many per stage")
    options = parser.parse_args()

    recipe = greffon.Recipe(
        weights=options.weights,
        image_size=options.size,
        stages=[
            greffon.Stage(name="head", epochs=options.epochs),
            greffon.Stage(name="last-block", unfreeze="conv5_block3", epochs=options.epochs, learning_rate=1e-4),
        ],
    )
    run = greffon.train(options.photos, out=options.out, recipe=recipe)

    # Pictures that the run knows already, which is no test: `greffon evaluate` with new ones is.
    for picture in islice(run.load().predict(options.photos, top=2), 5):
        print(picture)


if __name__ == "__main__":
    main()
