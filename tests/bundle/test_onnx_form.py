from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from made_up_runs import NAMES, SIDE, contents_of, grafted, picture

import greffon
from greffon.bundle import write
from greffon.bundle.runner import OnnxRunner
from greffon.bundle.write import write_bundle
from greffon.errors import InputError

PICTURES = np.stack([picture(seed, SIDE, SIDE) for seed in range(5)])


def test_the_file_answers_as_keras_does_for_any_number_of_pictures(run, model):
    session = onnxruntime.InferenceSession(str(run / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = model.predict(PICTURES.astype(np.float32), verbose=0)
    for count in (1, 5):
        (given,) = session.run(["probabilities"], {"pictures": PICTURES[:count]})
        np.testing.assert_allclose(given, expected[:count], rtol=0, atol=1e-4)


def test_the_file_takes_bytes_so_that_pictures_divided_by_255_are_no_answer(run):
    session = onnxruntime.InferenceSession(str(run / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    with pytest.raises(Exception, match="Unexpected input data type"):
        session.run(["probabilities"], {"pictures": (PICTURES / 255).astype(np.float32)})


def with_floats_in(content):
    """The file as Greffons wrote it that took float32: the same graph without its first step."""
    file = onnx.load_from_string(content)
    (cast,) = [node for node in file.graph.node if node.op_type == "Cast"]
    file.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    file.graph.node.remove(cast)
    for node in file.graph.node:
        node.input[:] = ["pictures" if name == cast.output[0] else name for name in node.input]
    file.graph.input[0].name = "pictures"
    onnx.checker.check_model(file)
    return file.SerializeToString()


def test_a_file_of_before_that_takes_floats_answers_the_same(copied_run):
    from greffon.bundle.manifest import write_manifest
    from greffon.bundle.verify import verify

    now = greffon.load(copied_run).probabilities(PICTURES)[0]
    place = copied_run / "model.onnx"
    place.write_bytes(with_floats_in(place.read_bytes()))
    write_manifest(copied_run)
    before = greffon.load(copied_run)
    assert before.engine._session.get_inputs()[0].type == "tensor(float)"
    np.testing.assert_allclose(before.probabilities(PICTURES)[0], now, rtol=0, atol=1e-6)
    assert [(replay.engine, replay.kept) for replay in verify(copied_run)] == [("onnx", True)]


def test_floats_are_rounded_where_the_file_takes_bytes(run):
    runner = OnnxRunner((run / "model.onnx").read_bytes())
    whole = PICTURES.astype(np.float32)
    (expected,) = runner.run([PICTURES])
    for given in (whole, whole + 0.4, np.where(whole > 254, 255.9, whole - 0.4), PICTURES.astype(np.int64)):
        np.testing.assert_array_equal(runner.run([given])[0], expected)


def test_the_file_is_plain_onnx_and_names_the_classes(run):
    file = onnx.load(run / "model.onnx")
    onnx.checker.check_model(file)
    assert {node.domain for node in file.graph.node} == {""}
    assert {one.key: one.value for one in file.metadata_props}["class_names"] == '["cat", "dog", "owl 🦉"]'


def test_nothing_heavy_is_loaded_to_predict(run, tmp_path):
    script = (
        "import sys, numpy, greffon\n"
        "predictor = greffon.load(sys.argv[1])\n"
        "print(predictor.predict(numpy.load(sys.argv[2]))[0].label)\n"
        "import greffon.evaluation.calibration\n"  # what a calibrated run needs beside
        "heavy = {'tensorflow', 'keras', 'jax', 'torch', 'onnx', 'h5py', 'sklearn'}\n"
        "assert not heavy & {name.split('.')[0] for name in sys.modules}, heavy & set(sys.modules)\n"
    )
    np.save(tmp_path / "pictures.npy", PICTURES)
    command = [sys.executable, "-c", script, str(run), str(tmp_path / "pictures.npy")]
    label = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert label == greffon.load(run).predict(PICTURES)[0].label


def test_numbers_do_not_depend_on_the_batch(run):
    content = (run / "model.onnx").read_bytes()
    (whole,) = OnnxRunner(content, threads=1).run([PICTURES])
    (parts,) = OnnxRunner(content, batch_size=2).run([PICTURES])
    np.testing.assert_array_equal(whole, parts)
    assert OnnxRunner(content).run([PICTURES[:0]])[0].shape == (0, 3)


def test_other_shapes_and_other_files_are_refused(run):
    runner = OnnxRunner((run / "model.onnx").read_bytes())
    with pytest.raises(InputError, match=r"must have the shape \('batch', 64, 64, 3\), got \(5, 32, 64, 3\)"):
        runner.run([PICTURES[:, ::2]])
    with pytest.raises(InputError, match=r"got \(64, 64, 3\)"):
        runner.run([PICTURES[0]])
    with pytest.raises(InputError, match=r"ONNX Runtime .* cannot open the model"):
        OnnxRunner(b"no onnx file")


def test_a_model_that_onnx_answers_otherwise_for_is_left_to_keras(model, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "keras_answers", lambda model, pictures: np.full((len(pictures), 3), 0.3, np.float32))
    predictor = greffon.load(write_bundle(tmp_path / "run", contents_of(model)))
    assert not predictor.runs_on_onnx
    (note,) = predictor.notes
    assert "holds no model.onnx, so that Keras has to be loaded: ONNX Runtime and Keras differ by more than" in note
    np.testing.assert_allclose(
        predictor.probabilities(PICTURES)[0], model.predict(PICTURES.astype(np.float32), verbose=0), atol=1e-4
    )


def test_a_layer_that_the_emitter_does_not_know_is_named(tmp_path):
    model = grafted(head=greffon.Head(layer=keras.layers.Dense(3, "softmax", dtype="float64", name="own")))
    predictor = greffon.load(write_bundle(tmp_path / "run", contents_of(model)))
    assert any("the layer own (Dense)" in note for note in predictor.notes)
    assert len(predictor.predict(PICTURES)) == 5


def test_a_run_of_before_still_answers(copied_run, model):
    import json

    manifest = json.loads((copied_run / "manifest.json").read_text(encoding="utf-8"))
    added = [name for name in manifest["files"] if name.startswith(("model.onnx", "contract", "probes", "README"))]
    assert len(added) == 11
    for name in added:
        del manifest["files"][name]
        (copied_run / name).unlink()
    (copied_run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    predictor = greffon.load(copied_run)
    np.testing.assert_allclose(
        predictor.probabilities(PICTURES)[0], model.predict(PICTURES.astype(np.float32), verbose=0), atol=1e-4
    )
    assert any(f"greffon {greffon.__version__} wrote none" in note for note in predictor.notes)


def test_with_an_accelerator_the_processor_says_what_is_right(model, monkeypatch):
    from greffon.bundle.onnx_form import keras_answers

    expected = keras_answers(model, PICTURES)
    monkeypatch.setattr("greffon.frozen.hardware.has_accelerator", lambda: True)
    np.testing.assert_allclose(keras_answers(model, PICTURES), expected, atol=1e-6)


def test_a_calibration_softens_predictions_and_not_bare_probabilities(model, tmp_path):
    from greffon.evaluation.calibration import Calibration

    calibration = Calibration(temperature=4.0, fitted_on="validation", count=100)
    predictor = greffon.load(write_bundle(tmp_path / "run", contents_of(model, calibration=calibration)))
    bare, _ = predictor.probabilities(PICTURES)
    given = [[one.scores[name] for name in NAMES] for one in predictor.predict(PICTURES)]
    assert predictor.bundle.calibration == calibration
    np.testing.assert_allclose(given, calibration.apply(bare), atol=1e-6)
    assert np.max(given) < bare.max()


@pytest.mark.large
@pytest.mark.parametrize("variant", ["thin", "v1", "v1.5"])
def test_full_size_networks_keep_their_contract_in_both_engines(variant, tmp_path):
    from greffon.backbone.resnet import resnet
    from greffon.bundle.verify import check_replays, verify

    keras.utils.set_random_seed(1)
    backbone = resnet((3, 4, 6, 3), variant, input_shape=(224, 224, 3))
    names = {"thin": "open_nsfw", "v1": "caffe", "v1.5": "torch"}
    model = greffon.graft(backbone, 3, preprocessing=names[variant])
    run = write_bundle(tmp_path / "run", contents_of(model, image_size=224))
    replays = verify(run, keras=True)
    check_replays(replays)
    assert [replay.engine for replay in replays] == ["onnx", "keras"]
