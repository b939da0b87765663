from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fit_sides import CLASSES, SHAPE
from short import short_backbone


@pytest.fixture(scope="module")
def short_trainings():
    """All trainings of a module, its shared ones too: one block in each group of the network, three in the last."""
    from greffon.training import purpose

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purpose, "build_backbone", short_backbone((1, 1, 1, 3)))
        yield


@pytest.fixture(scope="session")
def data():
    """40 uint8 pictures with one-hot labels, 12 more to validate on. Learnable: the label is the brightest corner."""
    random = np.random.default_rng(0)
    x = random.integers(0, 200, (52, *SHAPE), dtype=np.uint8)
    labels = random.integers(0, CLASSES, 52)
    for picture, label in zip(x, labels, strict=True):
        row, column = divmod(int(label), 2)
        picture[6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 55
    y = np.eye(CLASSES, dtype="float32")[labels]
    return SimpleNamespace(x=x[:40], y=y[:40], labels=labels[:40], vx=x[40:], vy=y[40:], vlabels=labels[40:])
