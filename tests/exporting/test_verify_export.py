from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

from greffon.cli import main
from greffon.errors import CheckFailedError, InputError
from greffon.exporting.export import export
from greffon.exporting.formats import FORMATS
from greffon.exporting.verify import format_of, verify_export


@pytest.fixture(scope="module")
def onnx_file(run, shipped, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("greffon.exporting.shipped.ship", lambda bundle, **options: shipped)
        return export(run, "onnx", out=tmp_path_factory.mktemp("exports") / "first.onnx").path


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "onnx"])
def test_every_format_is_replayed_by_its_runtime(name, run, made_once, tmp_path):
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    place = export(run, name, out=tmp_path / f"first{FORMATS[name].suffix}").path
    found, proof = verify_export(place, run)
    assert found == name
    assert proof.difference <= 1e-4
    assert proof.batches == (1, 8)


def test_the_command_says_how_a_file_answered(run, onnx_file, capsys):
    assert main(["verify", str(onnx_file), "--run", str(run)]) == 0
    assert "(onnx): 8 probe pictures in batches of 1 and 8" in capsys.readouterr().out
    assert main(["verify", str(onnx_file), "--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"
    assert main(["verify", str(onnx_file)]) == 2
    assert "give the run that it was exported from" in capsys.readouterr().err


def test_a_file_of_another_model_is_found_out(run, onnx_file, tmp_path, capsys):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(onnx_file)
    bias = model.graph.initializer[-1]
    changed = numpy_helper.to_array(bias).copy()
    changed.flat[0] += 1.0
    bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckFailedError, match="does not answer as the run"):
        verify_export(tmp_path / "other.onnx", run)
    assert main(["verify", str(tmp_path / "other.onnx"), "--run", str(run)]) == 4
    (tmp_path / "torn.onnx").write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(CheckFailedError, match="cannot be opened as onnx"):
        verify_export(tmp_path / "torn.onnx", run)


def test_what_is_no_export_is_refused(run, onnx_file, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        format_of(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="nothing that greffon export writes"):
        format_of(tmp_path)
    shutil.copy(onnx_file, tmp_path / "first.bin")
    with pytest.raises(InputError, match="nothing that greffon export writes"):
        format_of(tmp_path / "first.bin")
    with pytest.raises(InputError, match="tolerance must be above 0"):
        verify_export(onnx_file, run, tolerance=0)
