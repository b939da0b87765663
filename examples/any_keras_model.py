"""`greffon.fit` in place of `model.fit`, on a model that Greffon did not make.

    python examples/any_keras_model.py

Nothing is downloaded. A frozen MobileNetV2 with random weights, nested in a Sequential, is trained on made-up pictures
by `model.fit` and by `greffon.fit` from the same seed. Prints both losses of every epoch, which agree to about 1e-4 of
their value, and both times. How much is saved depends on the machine and grows with the epochs: the frozen part is run
once, in the first one.

Smaller: python examples/any_keras_model.py --size 32 --pictures 8 --epochs 2
"""

from __future__ import annotations

import argparse
import time

import keras
import numpy as np

import greffon


def make(size: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))
    base.trainable = False
    head = [keras.layers.Dropout(0.2), keras.layers.Dense(5, activation="softmax")]
    model = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Rescaling(1 / 127.5, offset=-1), base, *head])
    model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (options.pictures, options.size, options.size, 3), np.uint8)
    labels = np.eye(5, dtype=np.float32)[random.integers(0, 5, options.pictures)]

    def timed(name: str) -> list[float]:
        model = make(options.size)
        begin = time.perf_counter()
        if name == "model.fit":
            history = model.fit(pictures, labels, epochs=options.epochs, verbose=0)
        else:
            history = greffon.fit(model, pictures, labels, epochs=options.epochs, verbose=0)
        print(f"{name}: {time.perf_counter() - begin:.1f} s")
        return history.history["loss"]

    for epoch, (plain, ours) in enumerate(zip(timed("model.fit"), timed("greffon.fit"), strict=True), 1):
        print(f"epoch {epoch}: loss {plain:.6f} with model.fit, {ours:.6f} with greffon.fit")


if __name__ == "__main__":
    main()
