"""Write the golden files of Keras 2 on Theano, with the real releases.

In an environment of its own, Python 3.11:

    pip install numpy==1.23.5 "scipy<1.11" h5py==3.11.0 six pyyaml "setuptools<60" wheel
    pip install --no-deps --no-build-isolation Theano==1.0.5 Keras==2.2.4 Keras-Applications==1.0.6 \
        Keras-Preprocessing==1.0.5
    python write_keras_2_theano.py [FOLDER]

Keras 2 keeps kernels as (height, width, in, out) whatever the backend, and names the backend in the file; Theano still
turns every kernel by 180 degrees before it multiplies.
"""

import tempfile

import golden_network as golden
import old_python

old_python.prepare(tempfile.mkdtemp())

import keras  # noqa: E402
from keras import layers  # noqa: E402


class Make:
    def conv(self, x, filters, size, stride, same, name):
        x = self.pad(x, size // 2) if same else x  # without a compiler Theano has "valid" alone
        return layers.Conv2D(filters, size, strides=stride, name=golden.old_name(name))(x)

    def norm(self, x, name):
        return layers.BatchNormalization(epsilon=golden.EPSILON, name=golden.old_name(name))(x)

    def relu(self, x):
        return layers.Activation("relu")(x)

    def pad(self, x, by):
        return layers.ZeroPadding2D(by)(x)

    def pool(self, x):
        return layers.MaxPooling2D(3, strides=2)(x)

    def add(self, x, y):
        return layers.add([x, y])

    def average(self, x):
        return layers.GlobalAveragePooling2D()(x)

    def dense(self, x, classes, name):
        return layers.Dense(classes, activation="softmax", name=golden.old_name(name))(x)


def main():
    keras.backend.set_image_data_format("channels_last")
    inputs = layers.Input((golden.SIDE, golden.SIDE, 3))
    pooled, classes = golden.network(Make(), inputs)
    model = keras.models.Model(inputs, classes)
    names = {golden.old_name(name): name for name in golden.layer_names()}
    for layer in model.layers:
        weights = [(variable.name.rpartition("/")[2], variable.get_value().shape) for variable in layer.weights]
        layer.set_weights([golden.values(names[layer.name], *weight) for weight in weights])
    name = "keras_2_theano"
    model.save_weights(str(golden.folder() / (name + "_weights.h5")))
    model.save(str(golden.folder() / (name + "_whole.h5")))
    features = keras.models.Model(inputs, pooled)
    pictures = golden.pictures()
    golden.save_outputs(name, pooled=features.predict(pictures), classes=model.predict(pictures))


main()
