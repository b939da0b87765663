"""Writes the small checkpoint and SavedModel beside it with Keras 2 (tf-keras 2.21.0, TensorFlow 2.21.0).

    python write.py FOLDER

Of the SavedModel only what holds weights and the model's configuration is kept; the graph in saved_model.pb is not.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import tf_keras as keras

folder = Path(sys.argv[1])
inputs = keras.Input((16, 16, 3))
x = keras.layers.Conv2D(4, 3, strides=2, name="conv1_conv")(inputs)
x = keras.layers.BatchNormalization(name="conv1_bn")(x)
x = keras.layers.GlobalAveragePooling2D()(x)
backbone = keras.Model(inputs, x, name="resnet50")
model = keras.Sequential([backbone, keras.layers.Dropout(0.5), keras.layers.Dense(3, name="predictions")])
model.compile(keras.optimizers.legacy.Adam(), "mse", metrics=["mae"])
model.fit(np.zeros((2, 16, 16, 3)), np.zeros((2, 3)), verbose=0)
for number, variable in enumerate([*backbone.weights, *model.layers[-1].weights]):
    values = np.arange(np.prod(variable.shape)).reshape(variable.shape) / 8 + number  # exact in float32
    variable.assign(values)
model.save_weights(folder / "checkpoint" / "ckpt", save_format="tf")
model.save(folder / "full", save_format="tf")
(folder / "saved_model").mkdir()
for name in ("variables", "keras_metadata.pb"):
    shutil.move(folder / "full" / name, folder / "saved_model" / name)
shutil.rmtree(folder / "full")
