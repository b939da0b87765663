"""What every test has: a cache folder of its own, quiet TensorFlow, and the data beside the checkout where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """Weights, scans and activations of a test stay its own; processes that it starts share them."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GREFFON_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def photos():
    """Folder of labelled photographs that lies beside some checkouts and is not part of the project."""
    folder = CHECKOUT.parent / "shared" / "data" / "photos"
    if not folder.is_dir():
        pytest.skip("needs the photographs beside the checkout")
    return folder
