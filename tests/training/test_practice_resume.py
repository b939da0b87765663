"""Good practice in a training that is interrupted: it ends with the bits of one that was not."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from dying import Dies, Killed
from short import short_backbone

import greffon
from greffon.training import purpose
from greffon.training.progress import Reporter

HEAD = greffon.Stage(
    name="head", epochs=3, batch_size=8, learning_rate=1e-2, patience=None, schedule="cosine", warmup=1, mixup=0.4,
    label_smoothing=0.1, ema=0.9, soup=2,
)  # fmt: skip
BLOCK = greffon.Stage(
    name="block", unfreeze="conv5", epochs=3, batch_size=8, learning_rate=1e-3, patience=None, schedule="one-cycle",
    optimizer="sgd", momentum=0.9, group_decay=0.5, l2_sp=5.0, cutmix=1.0, mixup=0.2, ema=0.8, soup=3, carry_best=True,
)  # fmt: skip
LAST = BLOCK.replace(name="last", epochs=1, optimizer="adamw")
RECIPE = greffon.Recipe(
    weights="none", image_size=64, near_copies="ignore", stages=(HEAD, BLOCK, LAST), norm_statistics="adapted"
)


def digest(path):
    record = json.loads((path / "run.json").read_text(encoding="utf-8"))
    history = hashlib.sha256((path / "history.csv").read_bytes()).hexdigest()
    return record["weights_sha256"], history, [stage.get("soup") for stage in record["stages"]]


@pytest.mark.large
def test_it_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(purpose, "build_backbone", short_backbone(variant="v1"))
    random = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(random.normal(90, 50, (64, 64, 3)) + 20 * (np.arange(3) == label), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{number}.png")

    def train(name, reporter):
        return greffon.train(
            tmp_path / "pictures", out=tmp_path / name, recipe=RECIPE, reporter=reporter, checkpoint_every=0.0
        )

    wanted = digest(train("undisturbed", Reporter()).path)
    assert any(wanted[2])
    for number, moment in enumerate(("head 2", "block 1", "block 3", "last 1")):
        with pytest.raises(Killed):
            train(str(number), Dies(moment))
        assert digest(greffon.resume(tmp_path / str(number), reporter=Reporter()).path) == wanted, moment
