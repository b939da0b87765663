"""The examples, each run small as a reader would run it."""

import re
import runpy
import sys

import numpy as np
import pytest
from markdown_blocks import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def output_of(monkeypatch, capsys):
    """Runs an example as its command would, but in this process, which has TensorFlow already; gives what it prints."""

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_is_headed_by_its_command(file):
    assert f"\n    python examples/{file.name}" in file.read_text(encoding="utf-8").split('"""')[1]


def test_all_of_them_are_tested():
    names = {file.name for file in EXAMPLES.glob("*.py")}
    assert names == {"any_keras_model.py", "own_pictures.py", "tutorial.py"}


def test_tutorial(output_of):
    said = output_of("tutorial.py", "--size", "64", "--pictures", "3", "--epochs", "2")
    assert "conv5_block3" in said
    accuracy = float(re.search(r"accuracy on 30 test pictures: (\S+)", said)[1])
    assert 0 <= accuracy <= 1


def test_own_pictures(output_of, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for name, colour in {"blue": (40, 40, 200), "red": (200, 40, 40)}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.clip(random.normal(colour, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    run = tmp_path / "run"
    said = output_of("own_pictures.py", str(tmp_path / "photos"), str(run), "--size", "64", "--epochs", "2")
    assert (run / "model.keras").is_file()
    assert len(re.findall(r"\d\.png", said)) == 5


def test_any_keras_model(output_of):
    said = output_of("any_keras_model.py", "--size", "32", "--pictures", "8", "--epochs", "2")
    losses = re.findall(r"loss (\S+) with model.fit, (\S+) with greffon.fit", said)
    assert len(losses) == 2
    for plain, ours in losses:
        assert float(ours) == pytest.approx(float(plain), rel=1e-4)
