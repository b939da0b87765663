"""What is refused before a picture is read, as no pictures could be trained on with it."""

from __future__ import annotations

import keras
import pytest
from short import short_backbone

import greffon
from greffon.backbone.freeze import trainable_state
from greffon.backbone.resnet import resnet
from greffon.errors import FreezeError, InputError
from greffon.training import job, purpose
from greffon.training.ahead import refuse_early
from greffon.training.progress import Reporter


@pytest.fixture(scope="module")
def backbone():
    return resnet((1, 1, 1, 1), input_shape=(32, 32, 3))


def recipe(head=None, stage=None, **options):
    return greffon.Recipe(head=head or greffon.Head(), stages=(stage or greffon.Stage(),), **options)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (recipe(stage=greffon.Stage(unfreeze="conv9")), FreezeError, "'conv9' matches no layer"),
        (recipe(stage=greffon.Stage(unfreeze=("conv5", "!head_*", "!conv5"))), FreezeError, "nothing is left to train"),
        (recipe(stage=greffon.Stage(unfreeze="conv9", gradual="block")), FreezeError, "'conv9' matches no layer"),
        (recipe(greffon.Head(pool="grid3")), InputError, "'grid3' needs a feature map of at least 3 x 3"),
        (recipe(greffon.Head(hidden=4, activation="rellu")), InputError, "relu"),
        (recipe(stage=greffon.Stage(unfreeze="conv5"), feature_noise=0.1), InputError, "pooled activations"),
    ],
)
def test_what_the_network_has_no_place_for(backbone, wrong, error, said):
    with pytest.raises(error, match=said):
        refuse_early(backbone, wrong)


def test_what_it_has_a_place_for_leaves_it_as_it_was(backbone):
    before = trainable_state(backbone)
    for pool in ("auto", "avg", "max", "flatten", "blocks2"):
        refuse_early(backbone, recipe(greffon.Head(pool=pool), greffon.Stage(unfreeze=("conv5", "!head_*"))))
    refuse_early(backbone, greffon.recipe.RECIPES["gradual"])
    refuse_early(backbone, recipe(feature_noise=0.1))
    own = greffon.Head(layer=keras.layers.Dense(7, activation="softmax", name="mine"))
    refuse_early(backbone, recipe(own, greffon.Stage(unfreeze="!mine")))
    assert trainable_state(backbone) == before
    assert all(layer.trainable for layer in backbone.layers)


def test_statistics_cannot_be_adapted_where_they_were_folded():
    backbone = resnet((1, 1, 1, 1), input_shape=(32, 32, 3))
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(keras.ops.ones_like(layer.beta))
    with pytest.raises(InputError, match="folded"):
        refuse_early(backbone, recipe(norm_statistics="adapted"))


def test_a_training_refuses_them_before_it_reads_and_says_at_once_that_data_is_gone(tmp_path, monkeypatch):
    built = []
    short = short_backbone()
    monkeypatch.setattr(purpose, "build_backbone", lambda *given: built.append(1) or short(*given))
    monkeypatch.setattr(job, "read_pictures", lambda *_, **__: pytest.fail("the pictures are read"))
    wrong = recipe(stage=greffon.Stage(unfreeze="conv9"), weights="none", image_size=32)
    with pytest.raises(FreezeError, match="conv9"):
        greffon.train(tmp_path, out=tmp_path / "run", recipe=wrong, reporter=Reporter())
    assert built and not list(tmp_path.iterdir()), "nothing is left behind"
    monkeypatch.undo()
    monkeypatch.setattr(purpose, "build_backbone", lambda *_: pytest.fail("the network is built"))
    with pytest.raises(greffon.errors.GreffonError, match="nowhere"):
        greffon.train(tmp_path / "nowhere", out=tmp_path / "run", recipe=wrong, reporter=Reporter())
