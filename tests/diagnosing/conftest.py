from __future__ import annotations

import pytest
from planted import render, train


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """A cache folder that all runs of these tests share: the frozen part is the same in all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("warm-cache")))
        yield patch


@pytest.fixture(scope="session")
def easy(tmp_path_factory):
    """Pictures that a solved head tells apart without a mistake."""
    return render(tmp_path_factory.mktemp("easy") / "pictures", (24,) * 4)


@pytest.fixture(scope="session")
def hard(tmp_path_factory):
    """The same kinds, faint and with noise: right in 9 of 10 cases."""
    return render(tmp_path_factory.mktemp("hard") / "pictures", (24,) * 4, noise=20.0, contrast=0.25)


@pytest.fixture(scope="session")
def healthy(easy, warm, tmp_path_factory):
    """A run without a fault; not to be changed."""
    return train(easy, tmp_path_factory.mktemp("healthy") / "run")


@pytest.fixture
def place(tmp_path, healthy, monkeypatch, warm):
    """A folder for runs of a test, in the shared cache."""
    import os

    monkeypatch.setenv("GREFFON_CACHE", os.environ["GREFFON_CACHE"])
    return tmp_path
