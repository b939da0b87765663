from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_names import HOSTILE

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))  # made_up_runs

SIDE = 64


def render(folder):
    """Three classes that a dot in a corner tells apart, hard to see; hostile names; train/ and test/."""
    from PIL import Image

    random = np.random.default_rng(0)
    for side, count in (("train", 14), ("test", 5)):
        for label, name in enumerate(("blue", HOSTILE, "stripes é")):
            place = folder / side / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(110, 45, (70, 84, 3))
                row, column = 10 + 30 * (label // 2), 10 + 40 * (label % 2)
                pixels[row : row + 24, column : column + 24, label] += 55
                file = place / f"{number}<script>alert(2)</script>".replace("/", "\N{RIGHT-TO-LEFT OVERRIDE}")
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(f"{file}.png")
    (folder / "train" / "blue" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The pictures; not to be changed."""
    return render(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory):
    """A run that was trained on them; not to be changed."""
    import greffon
    from greffon.training.progress import Reporter

    stages = (
        greffon.Stage(name="probe", optimizer="lbfgs"),
        greffon.Stage(name="last <b>block", unfreeze="conv5_block3", epochs=3, learning_rate=1e-4),
    )
    recipe = greffon.Recipe(weights="thin", image_size=SIDE, head=greffon.Head(pool="avg"), stages=stages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        return greffon.train(
            folder, out=tmp_path_factory.mktemp("runs") / "run <i>", recipe=recipe, reporter=Reporter()
        ).path


@pytest.fixture(scope="session")
def written(trained, folder, tmp_path_factory):
    """Its report, written beside it, and what was said."""
    from greffon.reporting import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("report-cache")))
        return report(trained, folder, out=tmp_path_factory.mktemp("reports") / "page.html", most=5)


@pytest.fixture
def copied(trained, tmp_path):
    """The run, to be changed."""
    return shutil.copytree(trained, tmp_path / "copied")
