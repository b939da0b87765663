from __future__ import annotations

import pytest
from shipped_runs import network, saved_pictures, written_run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of pictures, and the names and hashes of its files."""
    folder = tmp_path_factory.mktemp("exporting") / "pictures"
    return folder, saved_pictures(folder)


@pytest.fixture(scope="session")
def run(tmp_path_factory, pictures):
    """A calibrated run of a small `thin` with all that a head can have; not to be changed."""
    import greffon

    model = network(blocks=(1, 1), head=greffon.Head(hidden=8, dropout=0.5, pool="grid2"))
    return written_run(tmp_path_factory.mktemp("runs") / "first", model, pictures, temperature=1.7)


@pytest.fixture(scope="session")
def shipped(run):
    """The run's model as it leaves, made once."""
    from greffon.bundle.read import read_bundle
    from greffon.exporting.shipped import ship

    return ship(read_bundle(run))


@pytest.fixture
def made_once(monkeypatch, shipped):
    """Spare a test from opening the run's Keras model again."""
    monkeypatch.setattr("greffon.exporting.shipped.ship", lambda bundle, **options: shipped)


@pytest.fixture(scope="session", params=[("thin", False), ("thin", True), ("v1", False), ("v1.5", False)], ids=str)
def full_size_run(request, tmp_path_factory, pictures):
    """A calibrated run of a whole network, with one label per picture or several."""
    import greffon

    variant, several = request.param
    head = greffon.Head(output="sigmoid" if several else "softmax")
    model = network(variant, blocks=(3, 4, 6, 3), head=head, side=224, preprocessing="torch")
    place = tmp_path_factory.mktemp("runs") / "full"
    return written_run(place, model, pictures, several_labels=several, temperature=0.8, side=224)
