from __future__ import annotations

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from shipped_runs import NAMES, SIDE, network, picture, written_run

import greffon
from greffon.errors import CheckFailedError, GreffonError, InputError
from greffon.exporting import formats
from greffon.exporting.export import export
from greffon.exporting.formats import FORMATS, Format

PAIRS = [(name, precision) for name, one in FORMATS.items() for precision in one.precisions]
REFUSED = [(name, p) for name, one in FORMATS.items() for p in formats.PRECISIONS if p not in one.precisions]
FULL = [name for name, _ in PAIRS if _ == "fp32"]


def needed(name):
    for package in FORMATS[name].packages:
        pytest.importorskip(package)


def files_of(path):
    """Names and contents; of a SavedModel the variables, whose bytes are the same."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    if (path / "saved_model.pb").is_file():
        files = [file for file in files if file.parent.name == "variables"]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def written_again(name, precision, shipped, run, folder, tmp_path):
    """The same, from another copy of the model."""
    from greffon.bundle.read import read_bundle
    from greffon.exporting.pictures import calibration_pictures

    place = tmp_path / "again" / f"model{FORMATS[name].suffix}"
    (place if FORMATS[name].is_folder else place.parent).mkdir(parents=True)
    calibration = lambda: calibration_pictures(read_bundle(run), folder)[0]  # noqa: E731
    FORMATS[name].exporter().write(shipped, place, precision, calibration)
    return place


def new_pictures(count=5, side=SIDE):
    from greffon.pictures.decode import decode_array

    return np.stack([decode_array(picture(100 + number), side, "crop") for number in range(count)])


def predicted(run, x):
    """What `greffon predict` says, in class order."""
    predictor = greffon.load(run)
    return np.array([[one.scores[name] for name in predictor.class_names] for one in predictor.predict(x)])


class Own:
    """An export opened with nothing of greffon, as its user does."""

    def keras(path):
        import keras

        model = keras.models.load_model(path)
        return lambda x: np.asarray(model.predict(x, verbose=0))

    def savedmodel(path):
        import tensorflow as tf

        module = tf.saved_model.load(str(path))
        signature = module.signatures["serving_default"]
        return lambda x: (module, signature(pictures=tf.constant(x))["probabilities"].numpy())[1]

    def onnx(path):
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return lambda x: session.run(["probabilities"], {"pictures": x})[0]

    def openvino(path):
        import openvino

        model = openvino.compile_model(path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda x: model({"pictures": x})["probabilities"]

    def litert(path):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))

        def answer(x):
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
            return interpreter.get_signature_runner()(pictures=x)["probabilities"]

        return answer

    def torch(path):
        import sys

        import torch

        sys.path.insert(0, str(path))
        try:
            sys.modules.pop("model", None)
            from model import load

            net = load()
        finally:
            sys.path.remove(str(path))
            sys.modules.pop("model", None)
        return lambda x: net(torch.from_numpy(x)).detach().numpy()


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_an_export_answers_as_the_run_does_and_is_the_same_twice(name, precision, run, shipped, pictures, tmp_path):
    needed(name)
    options = {"precision": precision, "pictures": pictures[0], "max_drop": 0.5}
    first = export(run, name, out=tmp_path / f"first{FORMATS[name].suffix}", **options)
    # Before it is opened: Python may keep a module compiled beside it.
    written = files_of(first.path)
    assert first.bytes == sum(file.stat().st_size for file in [first.path, *first.path.rglob("*")] if file.is_file())
    x = new_pictures()
    expected = predicted(run, x)
    answer = getattr(Own, name)(first.path)
    tolerance = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.3}[precision]
    for some in (x, x[:1], x[:3]):
        np.testing.assert_allclose(answer(some), expected[: len(some)], rtol=0, atol=tolerance)
    assert first.proof.batches == (1, 8)
    if precision == "fp32":
        assert first.proof.changed == 0
        assert first.proof.difference < 1e-5
        assert first.drop is None
    else:
        assert (first.drop.measured_on, first.drop.pictures, first.drop.before) == ("validation", 4, 1.0)
        assert 1e-6 < first.proof.difference < tolerance
    assert first.notes == ()
    assert [file.name for file in tmp_path.iterdir()] == [first.path.name]
    assert written == files_of(written_again(name, precision, shipped, run, pictures[0], tmp_path))


@pytest.mark.usefixtures("made_once")
@pytest.mark.parametrize(("name", "precision"), [("onnx", "fp16"), ("onnx", "int8"), ("openvino", "int8")])
def test_lower_precision_is_smaller(name, precision, run, pictures, tmp_path):
    needed(name)
    sizes = [
        export(
            run, name, out=tmp_path / f"{p}{FORMATS[name].suffix}", precision=p, pictures=pictures[0], max_drop=1
        ).bytes
        for p in ("fp32", precision)
    ]
    assert sizes[1] < sizes[0] * {"fp16": 0.6, "int8": 0.65}[precision]


@pytest.mark.usefixtures("made_once")
def test_class_names_are_in_every_export(run, tmp_path):
    import onnx

    keras_file = export(run, "keras", out=tmp_path / "a.keras").path
    with zipfile.ZipFile(keras_file) as archive:
        terms = json.loads(archive.read("metadata.json"))["greffon"]
    assert terms["class_names"] == NAMES
    assert terms["temperature"] == 1.7
    assert terms["input"]["shape"] == ["n", SIDE, SIDE, 3]
    assert (terms["input"]["dtype"], terms["input"]["resize"]) == ("uint8", "crop")
    model = onnx.load(export(run, "onnx", out=tmp_path / "a.onnx").path)
    assert json.loads({prop.key: prop.value for prop in model.metadata_props}["greffon"]) == terms
    folder = export(run, "savedmodel", out=tmp_path / "a").path
    assert json.loads((folder / "assets.extra" / "greffon.json").read_text(encoding="utf-8")) == terms


@pytest.mark.usefixtures("made_once")
def test_litert_and_openvino_hold_labels_where_their_tools_look(run, tmp_path):
    needed("litert")
    needed("openvino")
    import openvino

    with zipfile.ZipFile(export(run, "litert", out=tmp_path / "a.tflite").path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == NAMES
    folder = export(run, "openvino", out=tmp_path / "a").path
    model = openvino.Core().read_model(folder / "model.xml")
    assert model.get_rt_info(["model_info", "labels"]).value.split() == ["cat", "dog", "owl_🦉"]


# --- what is wrong with an export is found, and nothing of it stays --------------------------------------------------


def damaging(monkeypatch, name, damage):
    """Exports of this format are damaged while they are written."""
    real = FORMATS[name].exporter()

    class Damaged:
        opened = staticmethod(real.opened)

        @staticmethod
        def write(shipped, place, precision, calibration):
            damage(lambda model: real.write(dataclasses.replace(shipped, model=model), place, precision, calibration),
                   shipped.model, place)  # fmt: skip

    monkeypatch.setattr(Format, "exporter", lambda self: Damaged)


def one_weight_changed(write, model, place):
    layer = model.get_layer("conv2_block1_2_conv")
    weights = layer.get_weights()
    kept = [weight.copy() for weight in weights]
    weights[0][1, 1, 0, 0] += 1.0
    layer.set_weights(weights)
    write(model)
    layer.set_weights(kept)


@pytest.mark.usefixtures("made_once")
@pytest.mark.parametrize("name", FULL)
def test_one_changed_weight_is_found_and_nothing_stays(name, run, tmp_path, monkeypatch):
    needed(name)
    damaging(monkeypatch, name, one_weight_changed)
    with pytest.raises(CheckFailedError, match="does not answer as the run does: 8 probe pictures"):
        export(run, name, out=tmp_path / f"out{FORMATS[name].suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_once")
def test_what_cannot_be_opened_again_is_no_export(run, tmp_path, monkeypatch):
    def cut_short(write, model, place):
        write(model)
        place.write_bytes(place.read_bytes()[:1000])

    damaging(monkeypatch, "onnx", cut_short)
    with pytest.raises(CheckFailedError, match="onnx cannot be opened again"):
        export(run, "onnx", out=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def no_answer_but_one(write, model, place):
    layer = model.get_layer("head_output")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * 0, np.array([0, 0, 9])])
    write(model)
    layer.set_weights([kernel, bias])


@pytest.mark.usefixtures("made_once")
def test_a_library_that_fails_is_quoted(run, tmp_path, monkeypatch):
    def failing(write, model, place):
        raise RuntimeError("no converter\nfor this layer")

    damaging(monkeypatch, "onnx", failing)
    with pytest.raises(GreffonError, match="onnx could not be written: RuntimeError: no converter for this layer"):
        export(run, "onnx", out=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_once")
def test_a_precision_that_loses_too_much_is_refused(run, pictures, tmp_path, monkeypatch):
    damaging(monkeypatch, "onnx", no_answer_but_one)
    with pytest.raises(CheckFailedError, match=r"loses too much: accuracy on 4 validation pictures 1\.0000 -> 0\.\d+"):
        export(run, "onnx", out=tmp_path / "out.onnx", precision="fp16", pictures=pictures[0])
    with pytest.raises(CheckFailedError, match="of 8 probe pictures have another label"):
        export(run, "onnx", out=tmp_path / "out.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []
    lost = export(run, "onnx", out=tmp_path / "out.onnx", precision="fp16", pictures=pictures[0], max_drop=1.0)
    assert 0.5 <= lost.drop.drop == 1 - lost.drop.after


@pytest.mark.usefixtures("made_once")
def test_a_failure_leaves_the_earlier_export(run, tmp_path, monkeypatch):
    before = export(run, "onnx", out=tmp_path / "out.onnx").path.read_bytes()

    def failing(write, model, place):
        place.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    damaging(monkeypatch, "onnx", failing)
    with pytest.raises(InputError, match="could not be written: No space left on device"):
        export(run, "onnx", out=tmp_path / "out.onnx", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == before


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("made_once")
def test_where_the_pictures_are_gone_rendered_ones_take_their_place(run, tmp_path):
    found = export(run, "onnx", out=tmp_path / "a.onnx", precision="int8", max_drop=1.0)
    assert (found.drop.measured_on, found.drop.pictures) == ("probes", 8)
    assert "Calibrated on rendered pictures" in found.notes[0]


@pytest.mark.usefixtures("made_once")
def test_a_folder_of_other_pictures_is_refused(run, pictures, tmp_path):
    for file in pictures[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b" ")
    with pytest.raises(
        InputError, match=r"has none of the run's validation pictures as they were.*the first is '10\.png'"
    ):
        export(run, "onnx", out=tmp_path / "a.onnx", precision="fp16", pictures=tmp_path, max_drop=1)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.usefixtures("made_once")
def test_the_loss_is_that_of_the_pictures_that_are_left(run, pictures, tmp_path):
    names = sorted(name for name, _ in pictures[1][-4:])
    for name in names[1:]:
        (tmp_path / name).write_bytes((pictures[0] / name).read_bytes())
    found = export(run, "onnx", out=tmp_path / "a.onnx", precision="fp16", pictures=tmp_path, max_drop=1)
    assert (found.drop.measured_on, found.drop.pictures, found.drop.before) == ("validation", 3, 1.0)
    assert found.notes == ("3 of 4 validation pictures could be read",)


@pytest.mark.usefixtures("made_once")
def test_measuring_shows_how_far_it_is(run, pictures, tmp_path):
    from contextlib import contextmanager

    told = []

    class Bars:
        @contextmanager
        def bar(self, name, *, total):
            told.append((name, total))
            yield told.append

    export(run, "onnx", out=tmp_path / "a.onnx", precision="fp16", pictures=pictures[0], progress=Bars(), max_drop=1)
    assert told == [("measure", 4), 4]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "precision"), REFUSED)
def test_pairs_that_do_not_go_together_are_refused_by_name(name, precision, tmp_path):
    with pytest.raises(InputError, match=f"{name} is exported in fp32.*not in {precision}. {precision} is for onnx"):
        export(tmp_path / "no run", name, precision=precision)


def test_there_are_the_pairs_that_are_promised():
    assert {name for name, precision in PAIRS if precision == "fp16"} == {"onnx", "openvino", "litert", "torch"}
    assert {name for name, precision in PAIRS if precision == "int8"} == {"onnx", "openvino", "litert"}
    assert len(FULL) == 6


@pytest.mark.usefixtures("made_once")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "onyx"}, "format must be one of keras, .* got 'onyx'.*'onnx'"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, int8, got 'fp8'"),
        ({"max_drop": -0.1}, r"max_drop must be in 0\.\.1, got -0\.1"),
        ({"max_drop": float("nan")}, r"max_drop must be in 0\.\.1, got nan"),
        ({"pictures": "nowhere"}, "the folder that the run was trained on, nowhere is no folder"),
        ({"out": "model.pb"}, r"onnx is a file whose name ends with \.onnx, got 'model\.pb'"),
        ({"out": "nowhere/a.onnx"}, "there is no folder .*nowhere"),
    ],
)
def test_options_out_of_range_are_refused(options, words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        export(run, **({"format": "onnx"} | options))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_is_named_and_nothing_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"package openvino, which is not installed: pip install 'greffon\[export\]'"):
        export(run, "openvino", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_once")
def test_places_that_are_taken(run, tmp_path):
    (tmp_path / "a.onnx").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        export(run, "onnx", out=tmp_path / "a.onnx")
    with pytest.raises(InputError, match="no earlier export as savedmodel and would be lost"):
        export(run, "savedmodel", out=tmp_path / "folder", overwrite=True)
    with pytest.raises(InputError, match="inside of the run"):
        export(run, "onnx", out=run / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "mine"
    assert not (run / "a.onnx").exists()


@pytest.mark.usefixtures("made_once")
def test_a_folder_is_replaced_by_a_whole_one(run, tmp_path):
    place = export(run, "savedmodel", out=tmp_path / "a").path
    (place / "variables" / "left over").write_text("")
    export(run, "savedmodel", out=place, overwrite=True)
    assert not (place / "variables" / "left over").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_the_usual_names_lie_beside_the_run(pictures, tmp_path):
    run = written_run(tmp_path / "first", network(blocks=(1,), preprocessing=None), pictures)
    assert export(run, "onnx").path == tmp_path / "first.onnx"
    assert export(run, "onnx", precision="fp16", max_drop=1).path == tmp_path / "first-fp16.onnx"
    assert export(run, "savedmodel").path == tmp_path / "first-savedmodel"
    expected = predicted(run, new_pictures())
    np.testing.assert_allclose(Own.onnx(tmp_path / "first.onnx")(new_pictures()), expected, rtol=0, atol=1e-5)


def test_a_run_whose_model_forgot_its_answers_is_not_exported(run, tmp_path, monkeypatch):
    import shutil

    from greffon.bundle import contract

    copy = shutil.copytree(run, tmp_path / "copy")
    real = contract.probes_of
    monkeypatch.setattr(
        contract,
        "probes_of",
        lambda bundle: [dataclasses.replace(p, probabilities=p.probabilities[::-1]) for p in real(bundle)],
    )
    with pytest.raises(CheckFailedError, match="does not give the answers that it was written with"):
        export(copy, "onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]


def test_a_calibrated_head_of_the_users_own_is_refused(pictures, tmp_path):
    import keras

    head = greffon.Head(
        pool="avg", layer=keras.Sequential([keras.Input((128,)), keras.layers.Dense(3), keras.layers.Softmax()])
    )
    run = written_run(tmp_path / "own", network(blocks=(1,), head=head), pictures, temperature=2.0)
    with pytest.raises(InputError, match=r"temperature 2\.000.*ends in .*Softmax"):
        export(run, "onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["own"]


# --- PyTorch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "pool"),
    [
        pytest.param("thin", "avg", marks=pytest.mark.large),
        pytest.param("v1", "max", marks=pytest.mark.large),
        ("v1.5", "flatten"),
    ],
)
def test_the_torch_module_knows_every_variant_and_pooling(variant, pool, pictures, tmp_path):
    needed("torch")
    head = greffon.Head(pool=pool, hidden=4, activation="gelu")
    run = written_run(tmp_path / "run", network(variant, blocks=(1, 2), head=head, preprocessing="torch"), pictures)
    found = export(run, "torch")
    assert found.proof.difference < 1e-5
    assert not list(found.path.rglob("__pycache__"))


def test_the_torch_module_can_be_trained_on(run, tmp_path):
    needed("torch")
    import torch

    from greffon.exporting.torch_module import opened

    place = export(run, "torch", out=tmp_path / "a").path
    net = opened(place).__closure__
    net = next(cell.cell_contents for cell in net if isinstance(cell.cell_contents, torch.nn.Module))
    loss = -net.train()(torch.from_numpy(new_pictures()))[:, 0].log().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("variant", ["thin", "v1", "v1.5"])
def test_every_weight_is_in_the_torch_module_under_a_name_of_its_own(variant):
    from greffon.exporting.torch_module import described

    model = network(variant, blocks=(1, 2), head=greffon.Head(hidden=4))
    network_of, weights = described(model)
    counters = [name for name in weights if name.endswith("num_batches_tracked")]
    numbers = sum(value.size for name, value in weights.items() if name not in {"mean", "deviation", *counters})
    assert numbers == sum(int(np.prod(weight.shape)) for weight in model.weights)
    assert weights["layer2.1.conv2.weight"].shape == (2 * network_of["width"], 2 * network_of["width"], 3, 3)
    assert ("layer2.0.downsample.0.weight" in weights, "layer2.1.downsample.0.weight" in weights) == (True, False)
    assert network_of["blocks"] == [1, 2]
    assert network_of["stride_in_3x3"] == (variant == "v1.5")
    assert network_of["bias"] == (variant != "v1.5") == ("conv1.bias" in weights)


def test_the_torch_module_is_python_and_knows_the_activations_that_are_let_through():
    import ast
    from importlib.resources import files

    from greffon.exporting.torch_module import _ACTIVATIONS

    tree = ast.parse(files("greffon.exporting").joinpath("torch_net.txt").read_text(encoding="utf-8"))
    (table,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "ACTIVATIONS"
    ]
    assert [key.value for key in table.keys] == list(_ACTIVATIONS)


@pytest.mark.parametrize("activation", ["elu", "selu", "silu", "tanh", "softplus", "leaky_relu"])
def test_activations_are_the_same_in_torch(activation, pictures, tmp_path):
    needed("torch")
    head = greffon.Head(hidden=4, activation=activation)
    run = written_run(tmp_path / "run", network(blocks=(1,), head=head), pictures)
    assert export(run, "torch").proof.difference < 1e-5


def test_a_layer_that_the_torch_module_does_not_know_is_named():
    import keras

    from greffon.exporting.torch_module import described

    model = network(blocks=(1,), head=greffon.Head(activation="mish", hidden=4))
    with pytest.raises(InputError, match="'head_hidden' has 'mish'"):
        described(model)
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(InputError, match="no residual blocks"):
        described(keras.Model(inputs, keras.layers.Flatten()(inputs)))


# --- everything ------------------------------------------------------------------------------------------------------


@pytest.mark.large
@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_full_size_networks(name, precision, full_size_run, pictures, tmp_path):
    needed(name)
    x = new_pictures(2, 224)
    out = tmp_path / f"out{FORMATS[name].suffix}"
    found = export(full_size_run, name, out=out, precision=precision, pictures=pictures[0], max_drop=1.0)
    tolerance = {"fp32": 1e-4, "fp16": 0.1, "int8": 1.0}[precision]
    np.testing.assert_allclose(getattr(Own, name)(found.path)(x), predicted(full_size_run, x), rtol=0, atol=tolerance)
    if precision == "fp16":
        assert found.drop.changed == 0


@pytest.mark.large
def test_another_process_writes_the_same_bytes(run, pictures, tmp_path):
    import os
    import subprocess
    import sys

    script = """
import sys
from greffon.exporting.export import export
from greffon.exporting.formats import FORMATS
from importlib.util import find_spec
for name, one in FORMATS.items():
    if all(map(find_spec, one.packages)):
        for precision in one.precisions:
            out = f"{sys.argv[2]}/{name}-{precision}{one.suffix}"
            export(sys.argv[1], name, out=out, precision=precision, pictures=sys.argv[3], max_drop=1)
"""
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        words = [sys.executable, "-c", script, str(run), str(tmp_path / seed), str(pictures[0])]
        cache = {"GREFFON_CACHE": str(tmp_path / f"cache {seed}")}
        subprocess.run(words, check=True, env=os.environ | cache | {"PYTHONHASHSEED": seed})
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(names) >= 5
    for name in names:
        assert files_of(tmp_path / "1" / name) == files_of(tmp_path / "2" / name), name
