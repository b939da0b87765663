from __future__ import annotations

import json

import pytest

from greffon.cli import main


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A .keras file with a nested model in it."""
    import keras

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="inner_dense")], name="inner")
    inner.trainable = False
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="outer_dense")])
    file = tmp_path_factory.mktemp("models") / "small.keras"
    model.save(file)
    return file


def layers_of(capsys, *words: str):
    assert main(["layers", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_weight_set_needs_no_file_to_be_shown(capsys):
    found = layers_of(capsys, "imagenet")
    assert found["model"] == "imagenet"
    assert found["trainable_parameters"] == 23_534_592


def test_rules_are_previewed(capsys):
    found = layers_of(capsys, "imagenet", "--unfreeze", "10")
    assert found["trainable_parameters"] == 4_465_664
    assert {row["block"] for row in found["layers"] if row["trains"] == "yes"} == {"conv5_block3"}


def test_rules_keep_their_order(capsys):
    found = layers_of(capsys, "thin", "--unfreeze", "conv5,!conv5_block3", "--unfreeze", "conv4_block6")
    assert found["unfreeze"] == ["conv5", "!conv5_block3", "conv4_block6"]
    blocks = {row["block"] for row in found["layers"] if row["trains"] == "yes"}
    assert blocks == {"conv5_block1", "conv5_block2", "conv4_block6"}


def test_batch_norm_can_be_previewed(capsys):
    found = layers_of(capsys, "thin", "--unfreeze", "conv5_block3", "--batch-norm", "train")
    modes = {row["batch_norm"] for row in found["layers"] if row["block"] == "conv5_block3"}
    assert "batch" in modes


def test_a_keras_file_is_shown_with_nested_models_unfolded(capsys, small_file):
    found = layers_of(capsys, str(small_file))
    assert [row["trains"] for row in found["layers"] if row["name"].endswith("_dense")] == ["no", "yes"]
    assert found["trainable_parameters"] == 8


def test_lines_in_a_pipe_are_as_long_as_they_need(capsys):
    assert main(["layers", "thin"]) == 0
    folded = capsys.readouterr().out
    assert main(["layers", "thin", "--all"]) == 0
    every = capsys.readouterr().out
    assert "conv2_block1_1_bn (BatchNormalization)" in every
    assert len(every.splitlines()) > len(folded.splitlines())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["thim"], "did you mean 'thin'"),
        (["thin", "--unfreeze", "conv9"], "matches no layer"),
        (["thin", "--unfreeze", "none"], "nothing is left to train"),
        (["thin", "--batch-norm", "frozzen"], "--batch-norm"),
    ],
)
def test_wrong_input(words, text, capsys):
    assert main(["layers", *words]) == 2
    assert text in capsys.readouterr().err


def test_files_that_are_none_of_these(capsys, tmp_path):
    (tmp_path / "notes.keras").write_text("no model")
    (tmp_path / "notes.h5").write_text("no weights")
    for name in ("notes.keras", "notes.h5"):
        assert main(["layers", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err
    assert main(["layers", str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err
