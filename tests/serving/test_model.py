"""A real run, small: what the service says is what `greffon.load` says, and TensorFlow is not loaded for it."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import greffon
from greffon.errors import DataError, InputError
from greffon.serving.model import ServedModel
from greffon.serving.models import runs_by_name

_spec = importlib.util.spec_from_file_location("made_up_runs", Path(__file__).parents[1] / "bundle" / "made_up_runs.py")
made_up_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up_runs)


def as_file(seed, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(made_up_runs.picture(seed)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from greffon.bundle.write import write_bundle

    return write_bundle(tmp_path_factory.mktemp("runs") / "first", made_up_runs.contents_of(made_up_runs.grafted()))


def test_it_says_what_load_says(run):
    served = ServedModel.load("first", run)
    files = [as_file(seed) for seed in range(5)]
    batch = np.stack([served.decode(file, max_pixels=10_000) for file in files])
    assert batch.dtype == np.uint8
    assert batch.shape == (5, made_up_runs.SIDE, made_up_runs.SIDE, 3)
    expected = [[one.scores[name] for name in served.names] for one in greffon.load(run).predict(files)]
    assert np.array_equal(served.run(batch), np.array(expected, np.float32))
    assert np.array_equal(served.run(batch, alone=False), served.run(batch))
    for place in range(5):
        assert np.array_equal(served.run(batch[place : place + 1])[0], served.run(batch)[place])
    with pytest.raises(DataError, match="more than the 100 that"):
        served.decode(files[0], max_pixels=100)


def test_a_service_of_a_run_loads_no_tensorflow(run, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx2")
    picture = tmp_path / "picture.png"
    picture.write_bytes(as_file(3))
    script = """if True:
        import json, sys
        from pathlib import Path
        from starlette.testclient import TestClient
        from greffon.serving.app import Service
        with TestClient(Service({"first": Path(sys.argv[1])}).app, base_url="http://127.0.0.1") as client:
            answer = client.post("/v1/predict", files={"files": Path(sys.argv[2]).read_bytes()})
        heavy = [name for name in ("tensorflow", "keras", "torch", "jax") if name in sys.modules]
        print(json.dumps([heavy, answer.json()["predictions"][0]["scores"]]))
    """
    done = subprocess.run(
        [sys.executable, "-c", script, str(run), str(picture)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    heavy, scores = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert scores == pytest.approx(greffon.load(run).predict(picture)[0].scores, abs=1e-6)


def test_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json"):
        ServedModel.load("first", tmp_path)


def test_how_sure_an_answer_is():
    options = {"input_size": 2, "resize": "crop", "version": "1", "min_confidence": 0.7}
    one = ServedModel("one", ("a", "b"), **options)
    several = ServedModel("several", ("a", "b"), several_labels=True, **options)
    assert one.is_sure(np.array([0.7, 0.3]) + 1e-6)
    assert not one.is_sure(np.array([0.6, 0.4]))
    assert several.is_sure(np.array([0.9, 0.1]))
    assert not several.is_sure(np.array([0.9, 0.5]))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "no run to serve"),
        (["a/x", "b/x"], "two models would be called 'x'"),
        (["some name/ü"], "cannot be the name"),
        (["=folder"], "cannot be the name"),
    ],
)
def test_wrong_names(words, text):
    with pytest.raises(InputError, match=text):
        runs_by_name(words)
