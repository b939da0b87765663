"""`greffon.fit` and `greffon.train` with a frozen part in int8: compared with fp32, kept apart, refused if too far."""

from __future__ import annotations

import numpy as np
import pytest
from fit_sides import compiled, small_network

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.errors import CheckFailedError, InputError  # noqa: E402
from greffon.training import int8  # noqa: E402
from greffon.training.progress import Reporter  # noqa: E402


def fit(data, **options):
    model = compiled(small_network())
    options = {"validation_data": (data.vx, data.vy), "precision": "int8"} | options
    keras.utils.set_random_seed(2)
    return greffon.fit(model, data.x, data.y, batch_size=8, epochs=2, verbose=0, **options)


def test_answers_are_compared_and_activations_kept_apart(data):
    report = fit(data).greffon
    assert (report.precision, report.engine, report.computed) == ("int8", "onnx", 52)
    assert report.agreement["pictures"] == 12
    assert 0 <= report.agreement["same"] <= 12
    assert 0 <= report.agreement["accuracy_int8"] <= 1
    again = fit(data).greffon
    assert (again.computed, again.reused) == (0, 52)
    exact = fit(data, precision="fp32").greffon
    # The comparison needed the validation pictures in fp32; only the others are still to compute.
    assert (exact.computed, exact.reused, exact.agreement) == (40, 12, None)


def test_losses_are_near_those_of_fp32(data):
    ours, exact = (fit(data, precision=precision).history["loss"] for precision in ("int8", "fp32"))
    np.testing.assert_allclose(ours, exact, rtol=0.05)
    assert ours != exact


def test_without_validation_training_pictures_are_compared(data):
    report = fit(data, validation_data=None).greffon
    assert report.agreement["pictures"] == 40


def test_pictures_from_a_stream_are_compared(data):
    tf = pytest.importorskip("tensorflow")
    stream = tf.data.Dataset.from_tensor_slices((data.vx, data.vy)).batch(5)
    report = fit(data, validation_data=stream).greffon
    assert report.agreement["pictures"] == 12
    assert report.agreement["accuracy_int8"] is None


def test_too_little_agreement_is_refused_and_the_history_is_not_lost(data, monkeypatch):
    monkeypatch.setattr(int8, "_same", lambda ours, exact: len(ours) - 2)
    with pytest.raises(CheckFailedError, match="expected at least 99") as caught:
        fit(data)
    assert len(caught.value.history.history["loss"]) == 2
    assert fit(data, min_agreement=0.5).greffon.agreement["same"] == 10


@pytest.mark.parametrize("options", [{"precision": "int4"}, {"min_agreement": 99}])
def test_options_out_of_range_are_refused(data, options):
    with pytest.raises(InputError, match=next(iter(options))):
        fit(data, **options)


def test_a_run_reports_agreement_and_saves_what_fp32_says(tmp_path):
    from greffon.pictures.demo import demo_pictures

    recipe = greffon.Recipe(
        weights="thin", image_size=32, precision="int8", min_agreement=0.5, stages=[greffon.Stage(epochs=2)]
    )
    pictures = demo_pictures(tmp_path / "pictures")
    run = greffon.train(pictures, out=tmp_path / "run", recipe=recipe, reporter=Reporter())
    found = run.summary["int8"]
    assert found["pictures"] > 50
    assert run.summary["trunk"]["precision"] == "int8"
    assert found["accuracy_fp32"] == pytest.approx(run.summary["accuracy"])
