"""`fit`, `train`, `evaluate` and `fit_many` on Keras' other backends, where those are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import numpy as np, keras, greffon
from greffon.backbone.resnet import resnet
from greffon.pictures.demo import demo_pictures
from greffon.training.progress import Reporter

folder = sys.argv[1]
random = np.random.default_rng(0)
x = random.integers(0, 255, (21, 32, 32, 3), dtype=np.uint8)
y = np.eye(3, dtype="float32")[random.integers(0, 3, 21)]

def build():
    keras.utils.set_random_seed(1)
    model = greffon.graft(resnet(variant="v1", blocks=(1, 1, 1, 1), input_shape=(32, 32, 3)), 3, preprocessing="tf")
    greffon.freeze(model, "conv5")
    model.compile(keras.optimizers.Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return model

arguments = dict(epochs=3, batch_size=8, shuffle=False, verbose=0, validation_data=(x, y))
theirs = build().fit(x, y, **arguments)
ours = greffon.fit(build(), x, y, **arguments)
stages = [greffon.Stage(epochs=2), greffon.Stage(name="block", unfreeze="conv5_block3", epochs=1, learning_rate=1e-4)]
pictures = demo_pictures(folder + "/pictures")
recipe = greffon.Recipe(weights="thin", image_size=32, stages=stages)
run = greffon.train(pictures, out=folder + "/run", recipe=recipe, reporter=Reporter())
evaluation = greffon.evaluate(folder + "/run", pictures)
trials = [greffon.Stage(name=str(rate), learning_rate=rate, epochs=2) for rate in (1e-3, 1e-4)]
many = greffon.fit_many(build(), trials, x, y, validation_data=(x, y), verbose=0)
print(json.dumps({
    "backend": keras.backend.backend(),
    "theirs": theirs.history, "ours": ours.history, "why_not": ours.greffon.why_not,
    "computed": ours.greffon.computed, "run": run.summary["accuracy"],
    "evaluation": evaluation.measures.accuracy, "many": [result.val_loss for result in many],
}))
"""


@pytest.mark.large
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_same_training_on_another_backend(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["backend"], found["why_not"], found["computed"]) == (backend, None, 21)
    assert found["ours"].keys() == found["theirs"].keys()
    for name, values in found["theirs"].items():
        assert found["ours"][name] == pytest.approx(values, rel=1e-4, abs=0.05 if "acc" in name else 0), name
    assert found["run"] > 0.4
    assert found["evaluation"] > 0.4
    assert all(0 < loss < 5 for loss in found["many"])
