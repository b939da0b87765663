from __future__ import annotations

import shutil

import pytest
from made_up_runs import contents_of, grafted


@pytest.fixture(scope="session")
def model():
    return grafted()


@pytest.fixture(scope="session")
def run(model, tmp_path_factory):
    """A run; not to be changed."""
    from greffon.bundle.write import write_bundle

    return write_bundle(tmp_path_factory.mktemp("runs") / "first", contents_of(model))


@pytest.fixture
def copied_run(run, tmp_path):
    """A run to be changed."""
    return shutil.copytree(run, tmp_path / "copied")
