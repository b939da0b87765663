"""Write the golden files of Keras 2, with the real `tf-keras`: each of its four formats.

    pip install tf-keras==2.21.0
    python write_tf_keras.py [FOLDER]

Layers have the names that `tf_keras.applications.ResNet50` gives them.
"""

import golden_network as golden
import tf_keras
from tf_keras import layers


class Make:
    def conv(self, x, filters, size, stride, same, name):
        padding = "same" if same else "valid"
        return layers.Conv2D(filters, size, strides=stride, padding=padding, name=name)(x)

    def norm(self, x, name):
        return layers.BatchNormalization(epsilon=golden.EPSILON, name=name)(x)

    def relu(self, x):
        return layers.Activation("relu")(x)

    def pad(self, x, by):
        return layers.ZeroPadding2D(by)(x)

    def pool(self, x):
        return layers.MaxPooling2D(3, strides=2)(x)

    def add(self, x, y):
        return layers.Add()([x, y])

    def average(self, x):
        return layers.GlobalAveragePooling2D(name="avg_pool")(x)

    def dense(self, x, classes, name):
        return layers.Dense(classes, activation="softmax", name=name)(x)


def build():
    """The network with its random weights, and one that gives its pooled features."""
    inputs = layers.Input((golden.SIDE, golden.SIDE, 3))
    pooled, classes = golden.network(Make(), inputs)
    model = tf_keras.Model(inputs, classes, name="small")
    for layer in model.layers:
        for variable in layer.weights:
            weight = variable.name.rpartition("/")[2].partition(":")[0]
            variable.assign(golden.values(layer.name, weight, tuple(variable.shape)))
    return model, tf_keras.Model(inputs, pooled)


FILES = ("tf_keras_weights.h5", "tf_keras_whole.h5", "tf_keras.weights.h5", "tf_keras.keras")


def write(folder):
    """All four files and what the framework computes: pooled features, class probabilities."""
    model, features = build()
    model.compile("sgd", "categorical_crossentropy")
    for name in FILES:
        path = str(folder / name)
        if name in {"tf_keras_weights.h5", "tf_keras.weights.h5"}:
            model.save_weights(path)
        else:
            model.save(path)
    pictures = golden.pictures()
    return {"pooled": features(pictures).numpy(), "classes": model(pictures).numpy()}


if __name__ == "__main__":
    golden.save_outputs("tf_keras", **write(golden.folder()))
