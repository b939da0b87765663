"""Mixed precision changes what layers multiply in, only while a stage trains."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.frozen.graph import flatten  # noqa: E402
from greffon.training import mixed  # noqa: E402
from greffon.training.mixed import is_wanted, mixed_precision  # noqa: E402
from greffon.training.progress import Reporter  # noqa: E402


@pytest.fixture(scope="module")
def model():
    backbone = resnet(variant="thin", blocks=(1, 1, 1, 1), input_shape=(32, 32, 3))
    return greffon.graft(backbone, 3, preprocessing="caffe")


def dtypes(model):
    return {layer.name: layer.compute_dtype for layer in model.layers}


def test_layers_multiply_in_bfloat16_while_it_lasts(model):
    before = dtypes(model)
    with pytest.raises(RuntimeError), mixed_precision(flatten(model), wanted=True):
        inside = dtypes(model)
        assert inside["conv5_block1_2_conv"] == inside["conv1_bn"] == "bfloat16"
        assert inside["head_output"] == "float32"
        assert {weight.dtype for weight in model.weights} == {"float32"}
        raise RuntimeError
    assert dtypes(model) == before
    assert set(before.values()) == {"float32"}


def test_nothing_changes_where_it_is_not_wanted(model):
    with mixed_precision(flatten(model), wanted=False):
        assert set(dtypes(model).values()) == {"float32"}


def test_auto_means_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(mixed, "has_accelerator", lambda: True)
    assert [is_wanted(option) for option in ("auto", "on", "off")] == [True, True, False]
    monkeypatch.setattr(mixed, "has_accelerator", lambda: False)
    assert [is_wanted(option) for option in ("auto", "on", "off")] == [False, True, False]


@pytest.mark.large
def test_a_whole_network_trains_and_is_saved_in_float32(tmp_path):
    from greffon.pictures.demo import demo_pictures

    stage = greffon.Stage(unfreeze="all", epochs=1, batch_size=64, learning_rate=1e-4)
    recipe = greffon.Recipe(weights="thin", image_size=32, mixed_precision="on", stages=[stage])
    run = greffon.train(demo_pictures(tmp_path / "p"), out=tmp_path / "run", recipe=recipe, reporter=Reporter())
    saved = keras.models.load_model(run.path / "model.keras")
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}
    assert all(np.isfinite(weight).all() for weight in saved.get_weights())
