"""Write the golden files of Keras 1 on Theano, with the real releases.

In an environment of its own, Python 3.11:

    pip install numpy==1.23.5 "scipy<1.11" h5py==3.11.0 six pyyaml "setuptools<60" wheel
    pip install --no-deps --no-build-isolation Theano==1.0.5 Keras==1.2.2
    python write_keras_1.py [FOLDER]

Keras 1 has two orders of axes: "th" keeps kernels as (out, in, height, width), "tf" as (height, width, in, out). In
both, Theano turns every kernel by 180 degrees before it multiplies.
"""

import tempfile

import golden_network as golden
import numpy as np
import old_python

old_python.prepare(tempfile.mkdtemp())

import keras  # noqa: E402
from keras import backend, layers  # noqa: E402


class Make:
    def __init__(self, axis):
        self.axis = axis

    def conv(self, x, filters, size, stride, same, name):
        x = self.pad(x, size // 2) if same else x  # without a compiler Theano has "valid" alone
        subsample, name = (stride, stride), golden.old_name(name)
        return layers.Convolution2D(filters, size, size, subsample=subsample, border_mode="valid", name=name)(x)

    def norm(self, x, name):
        return layers.BatchNormalization(axis=self.axis, epsilon=golden.EPSILON, name=golden.old_name(name))(x)

    def relu(self, x):
        return layers.Activation("relu")(x)

    def pad(self, x, by):
        return layers.ZeroPadding2D((by, by))(x)

    def pool(self, x):
        return layers.MaxPooling2D((3, 3), strides=(2, 2))(x)

    def add(self, x, y):
        return layers.merge([x, y], mode="sum")

    def average(self, x):
        return layers.GlobalAveragePooling2D()(x)

    def dense(self, x, classes, name):
        return layers.Dense(classes, activation="softmax", name=golden.old_name(name))(x)


WEIGHTS = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}


def randomise(model, order):
    """The same kernels in both orders of axes, as numbers; they are turned nowhere, so both files are one network."""
    names = {golden.old_name(name): name for name in golden.layer_names()}
    for layer in model.layers:
        weights = []
        for variable in layer.weights:
            weight = variable.name[len(layer.name) + 1 :]
            weight = WEIGHTS.get(weight, weight)
            shape = variable.get_value().shape
            theano = order == "th" and len(shape) == 4
            value = golden.values(
                names[layer.name], weight, (shape[2], shape[3], shape[1], shape[0]) if theano else shape
            )
            weights.append(np.transpose(value, (3, 2, 0, 1)) if theano else value)
        layer.set_weights(weights)


def main():
    for order in ("th", "tf"):
        backend.set_image_dim_ordering(order)
        shape = (3, golden.SIDE, golden.SIDE) if order == "th" else (golden.SIDE, golden.SIDE, 3)
        inputs = layers.Input(shape)
        pooled, classes = golden.network(Make(1 if order == "th" else 3), inputs)
        model = keras.models.Model(inputs, classes)
        randomise(model, order)
        pictures = golden.pictures()
        pictures = pictures.transpose(0, 3, 1, 2) if order == "th" else pictures
        name = "keras_1_theano_" + order
        model.save_weights(str(golden.folder() / (name + "_weights.h5")), overwrite=True)
        if order == "th":
            model.compile("sgd", "categorical_crossentropy")
            model.save(str(golden.folder() / (name + "_whole.h5")), overwrite=True)
        features = keras.models.Model(inputs, pooled)
        golden.save_outputs(name, pooled=features.predict(pictures), classes=model.predict(pictures))


main()
