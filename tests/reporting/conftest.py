from __future__ import annotations

import shutil

import pytest
from small_runs import SIDE, made_up, render


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The pictures; not to be changed."""
    return render(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """TensorBoard's folder of that training."""
    return tmp_path_factory.mktemp("board")


@pytest.fixture(scope="session")
def trained(folder, board, tmp_path_factory):
    """A run that was trained on them; not to be changed."""
    import greffon
    from greffon.reporting.trackers import tracked
    from greffon.training.progress import Reporter

    stages = (
        greffon.Stage(name="probe", optimizer="lbfgs"),
        greffon.Stage(name="last <b>block", unfreeze="conv5_block3", epochs=2, learning_rate=1e-4),
    )
    head = greffon.Head(pool="avg")
    recipe = greffon.Recipe(weights="thin", image_size=SIDE, head=head, stages=stages, near_copies="ignore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        out = tmp_path_factory.mktemp("runs") / "run <i>"
        with tracked(Reporter(), tensorboard=board) as reporter:
            return greffon.train(folder, out=out, recipe=recipe, reporter=reporter).path


@pytest.fixture(scope="session")
def written(trained, folder, tmp_path_factory):
    """Its report, written beside it, and what was said."""
    from greffon.reporting import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("report-cache")))
        return report(trained, folder, out=tmp_path_factory.mktemp("reports") / "page.html", most=5)


@pytest.fixture(scope="session")
def small(folder, tmp_path_factory):
    """A run of a small network that was not trained; not to be changed."""
    return made_up(folder, tmp_path_factory.mktemp("made-up") / "run")


@pytest.fixture
def copied(small, tmp_path):
    """That run, to be changed."""
    return shutil.copytree(small, tmp_path / "copied")
