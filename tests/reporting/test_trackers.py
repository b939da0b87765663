"""TensorBoard and MLflow: true epoch numbers over all stages, and a training that nothing of it can stop."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from small_runs import events

from greffon.errors import InputError
from greffon.recipe import Recipe
from greffon.reporting.trackers import tracked
from greffon.training.progress import Reporter


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(("note", text))

    def warn(self, text):
        self.told.append(("warn", text))

    def show(self, renderable):
        self.told.append(("show", renderable))

    def stage(self, name, index, count, table=None):
        self.told.append(("stage", name, index, count, table))

    def epoch(self, stage, epoch, epochs, logs, best):
        self.told.append(("epoch", stage, epoch, epochs, dict(logs), best))

    def summary(self, renderable):
        self.told.append(("summary", renderable))


class Run:
    summary = {"accuracy": 0.75, "seconds": 3, "classes": ["a"], "seconds_saved": None, "flag": True}  # noqa: RUF012


def training(reporter):
    """Two stages, as a training tells of them."""
    reporter.note("here we go")
    with reporter.bar("trunk", total=2) as advance:
        advance(2)
    reporter.stage("probe", 1, 2, "table")
    reporter.epoch("probe", 1, 1, {"loss": 0.5, "val_loss": 0.7}, True)
    reporter.stage("block", 2, 2)
    for epoch in (1, 2):
        reporter.epoch("block", epoch, 12, {"loss": 0.5 / epoch, "val_loss": 0.6, "accuracy": 0.9}, epoch == 1)
    reporter.summary(Run())


def test_everything_is_passed_on_and_nothing_else(tmp_path):
    plain, through = Heard(), Heard()
    training(plain)
    with tracked(through, tensorboard=tmp_path) as reporter:
        training(reporter)
    assert [what[:3] for what in through.told[:-1]] == [what[:3] for what in plain.told[:-1]]
    with tracked(plain) as reporter:
        assert reporter is plain


def test_tensorboard_counts_epochs_over_all_stages(tmp_path):
    with tracked(Reporter(), tensorboard=tmp_path / "new" / "board", recipe=Recipe(seed=41)) as reporter:
        training(reporter)
    train = events(tmp_path / "new" / "board" / "train")
    assert train[0][:3] == ("text", "recipe", 0)
    assert b"seed: 41" in train[0][3]
    assert [it[1:] for it in train[1:] if it[1] == "epoch_loss"] == [
        ("epoch_loss", 1, 0.5),
        ("epoch_loss", 2, 0.5),
        ("epoch_loss", 3, 0.25),
    ]
    validation = events(tmp_path / "new" / "board" / "validation")
    assert [it[:3] for it in validation] == [("scalars", "epoch_loss", step) for step in (1, 2, 3)]


def test_a_training_that_begins_again_counts_anew(tmp_path):
    with tracked(Reporter(), tensorboard=tmp_path) as reporter:
        training(reporter)
        training(reporter)
    assert [step for _, _, step, _ in events(tmp_path / "validation")] == [1, 2, 3, 1, 2, 3]


class Client:
    """Stands in for MLflow's, where that is not installed."""

    made: list = []  # noqa: RUF012
    fails = False

    def __init__(self, tracking_uri):
        self.calls = [("uri", tracking_uri)]
        self.made.append(self)

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifact_location=None):
        self.calls.append(("experiment", artifact_location))
        return "7"

    def create_run(self, experiment, run_name):
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_name))

    def log_param(self, run, name, value):
        self.calls.append(("param", name, value))

    def log_metric(self, run, name, value, step=0):
        if self.fails:
            raise OSError("the disk is full")
        self.calls.append((name, step, value))

    def set_terminated(self, run, status):
        self.calls.append(("end", status))


@pytest.fixture
def client(monkeypatch):
    module = types.ModuleType("mlflow.tracking")
    module.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", module)
    monkeypatch.setattr(Client, "made", [])
    return Client


def test_mlflow_is_told_the_same_and_the_recipe(client, tmp_path):
    with tracked(Reporter(), mlflow=tmp_path, recipe=Recipe(seed=41), name="first") as reporter:
        training(reporter)
    calls = client.made[0].calls
    assert calls[0] == ("uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert ("param", "seed", "41") in calls
    assert ("param", "stages.0.name", "probe") in calls
    assert ("param", "head.pool", "auto") in calls
    assert [call[1:] for call in calls if call[0] == "loss"] == [(1, 0.5), (2, 0.5), (3, 0.25)]
    assert [call for call in calls if call[0].startswith("final_")] == [
        ("final_accuracy", 0, 0.75),
        ("final_seconds", 0, 3.0),
    ]
    assert calls[-1] == ("end", "FINISHED")


@pytest.mark.parametrize("uri", ["sqlite:///here.db", "file:/tmp/runs", "databricks://me"])
def test_a_tracking_uri_is_passed_on_as_it_is(client, tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    with tracked(Reporter(), mlflow=uri) as reporter:
        training(reporter)
    assert client.made[0].calls[:2] == [("uri", uri), ("experiment", None)]
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_and_a_store_that_mlflow_refuses(client, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with tracked(Reporter(), mlflow=f"http://127.0.0.1:{port}"):
            pass
    gone = f"http://me:secret@127.0.0.1:{port}"
    with (
        pytest.raises(InputError, match=r"no MLflow server answers at http://...@127"),
        tracked(Reporter(), mlflow=gone),
    ):
        pass
    with pytest.raises(InputError, match="is no tracking URI"), tracked(Reporter(), mlflow="http://127.0.0.1:port"):
        pass

    def refuse(self, name):
        raise ValueError("not this one\nnor any")

    monkeypatch.setattr(Client, "get_experiment_by_name", refuse)
    refused = pytest.raises(InputError, match=r"MLflow cannot write to sqlite:///x.db: not this one$")
    with refused, tracked(Reporter(), mlflow="sqlite:///x.db"):
        pass


@pytest.mark.parametrize(("error", "status"), [(InputError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_mlflow_is_told_how_it_ended(client, tmp_path, error, status):
    with pytest.raises(error), tracked(Reporter(), mlflow=tmp_path) as reporter:
        training(reporter)
        raise error("oh")
    assert client.made[0].calls[-1] == ("end", status)


def test_what_goes_wrong_is_said_once_and_costs_no_training(client, tmp_path, monkeypatch):
    monkeypatch.setattr(Client, "fails", True)
    heard = Heard()
    with tracked(heard, mlflow=tmp_path, tensorboard=tmp_path) as reporter:
        training(reporter)
    assert [what for what in heard.told if what[0] == "warn"] == [
        ("warn", "MLflow is no longer written: the disk is full")
    ]
    assert heard.told[-1][0] == "summary"
    assert len(events(tmp_path / "validation")) == 3  # the other one goes on


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(InputError, match=r"greffon\[mlflow\]"), tracked(Reporter(), mlflow=tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"), tracked(Reporter(), tensorboard=tmp_path / "file"):
        pass


@pytest.mark.filterwarnings("ignore")  # of the libraries under it
def test_the_real_mlflow_can_be_read_again(tmp_path):
    pytest.importorskip("sqlalchemy")
    tracking = pytest.importorskip("mlflow.tracking")
    folder = tmp_path / "with space"
    with tracked(Reporter(), mlflow=folder, recipe=Recipe(), name="first") as reporter:
        training(reporter)
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("greffon").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert [(it.step, it.value) for it in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.25),
    ]
    assert run.data.params["stages.0.name"] == "probe"
    assert not (Path.cwd() / "mlruns").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_takes_a_uri(tmp_path):
    pytest.importorskip("sqlalchemy")
    tracking = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    for name in ("first", "second"):
        with tracked(Reporter(), mlflow=uri, name=name) as reporter:
            training(reporter)
    client = tracking.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("greffon").experiment_id])
    assert {run.info.run_name for run in runs} == {"first", "second"}
    with pytest.raises(InputError, match="MLflow cannot write to"), tracked(Reporter(), mlflow="nonsense://here"):
        pass
