from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ImageOps
from rendered import rendered


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """Rendered pictures of two classes in train/ and val/, with one fault of each kind in them."""
    folder = tmp_path_factory.mktemp("faulty")
    for hue, name in enumerate(("red", "green")):
        for side, numbers in (("train", range(20)), ("val", range(20, 25))):
            (folder / side / name).mkdir(parents=True)
            for number in numbers:
                rendered(100 * hue + number, hue).save(folder / side / name / f"{number:02}.png")
    (folder / "val/red/copy.png").write_bytes((folder / "train/red/00.png").read_bytes())
    (folder / "train/green/conflict.png").write_bytes((folder / "train/red/01.png").read_bytes())
    ImageOps.mirror(rendered(2, 0)).save(folder / "val/red/mirrored.png")
    rendered(900, 0).save(folder / "train/green/wrong.png")
    (folder / "train/red/empty.jpg").write_bytes(b"")
    (folder / "train/red/notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="session")
def network():
    """The embedded weights, ready to look at pictures of 64 pixels; built once."""
    from greffon.checking.features import build_network
    from greffon.training.start import find_start

    return build_network(find_start("thin"), 64)


@pytest.fixture
def built(network, monkeypatch):
    """Checks with `weights="thin", image_size=64` take the network that is built already."""
    from greffon.checking import features

    monkeypatch.setattr(features, "build_network", lambda start, size: network)


@pytest.fixture(scope="session")
def checked(faulty, network, tmp_path_factory):
    """What a check finds in it, with the features of the embedded weights; made once."""
    from greffon.checking import features
    from greffon.checking.check import check
    from greffon.training.progress import Reporter

    place = tmp_path_factory.mktemp("checked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(place / "cache"))
        patch.setattr(features, "build_network", lambda start, size: network)
        found = check(faulty, weights="thin", image_size=64, out=place / "out", reporter=Reporter())
    return SimpleNamespace(found=found, out=place / "out", cache=place / "cache")


@pytest.fixture
def random():
    return np.random.default_rng(0)
