"""Near-copies of a training's pictures stay on one side of the split, and are spoken of."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

import greffon
from greffon.training.progress import Reporter


def _photograph(seed, hue):
    """Coarse coloured shapes: nothing like another seed's."""
    random = np.random.default_rng(seed)
    total = np.zeros((80, 80, 3), np.float32)
    for cells in (3, 6, 12):
        grid = random.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(grid).resize((80, 80), Image.Resampling.BICUBIC), np.float32) / 3
    total[..., hue] = total[..., hue] * 0.5 + 120
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of two classes; four of each with a mirrored or a smaller copy."""
    folder = tmp_path_factory.mktemp("near")
    for hue, name in enumerate(("red", "green")):
        (folder / name).mkdir()
        for number in range(12):
            image = _photograph(100 * hue + number, hue)
            image.save(folder / name / f"{number:02}.png")
            if number < 2:
                ImageOps.mirror(image).save(folder / name / f"{number:02} mirrored.png")
            elif number < 4:
                image.resize((60, 60), Image.Resampling.BICUBIC).save(folder / name / f"{number:02} small.png")
    return folder


def _recipe(**options):
    stage = greffon.Stage(epochs=1, batch_size=8)
    return greffon.Recipe(weights="thin", image_size=64, stages=(stage,), validation=0.3, **options)


def _sides(run):
    split = pl.read_parquet(run.path / "split.parquet")
    sides = {}
    for path, side in split.select("path", "split").iter_rows():
        sides.setdefault(path.split(".")[0].split(" ")[0], set()).add(side)
    return sides


def test_they_stay_together(pictures, tmp_path):
    runs = [
        greffon.train(pictures, out=tmp_path / name, recipe=_recipe(near_copies=name), reporter=Reporter())
        for name in ("together", "ignore")
    ]
    together, ignored = map(_sides, runs)
    assert all(len(sides) == 1 for sides in together.values())
    assert any(len(sides) == 2 for sides in ignored.values())
    notes = [json.loads((run.path / "run.json").read_text())["notes"] for run in runs]
    assert any("8 pairs of pictures are near-copies" in note and "stay on one side" in note for note in notes[0])
    assert not any("near-copies" in note for note in notes[1])


def test_a_split_that_is_given_is_kept_and_its_leak_named(pictures, tmp_path):
    data = tmp_path / "data"
    for name in ("red", "green"):
        for number in range(6):
            side = "val" if number >= 4 else "train"
            (data / side / name).mkdir(parents=True, exist_ok=True)
            (data / side / name / f"{number}.png").symlink_to(pictures / name / f"{number:02}.png")
    (data / "val" / "red" / "leak.png").symlink_to(pictures / "red" / "00 mirrored.png")
    (data / "val" / "green" / "wrong.png").symlink_to(pictures / "red" / "03 small.png")
    run = greffon.train(data, out=tmp_path / "run", recipe=_recipe(), reporter=Reporter())
    notes = " ".join(run.summary["notes"])
    assert "2 of them are on two sides of the split" in notes
    assert "1 pair of near-copies is under two labels: " in notes
    assert "train/red/0.png" in notes
