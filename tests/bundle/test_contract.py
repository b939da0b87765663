from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import yaml
from made_up_runs import NAMES, SIDE, contents_of, grafted, picture
from PIL import Image

from greffon.bundle.contract import choose_pixels, contract_of, probes_of
from greffon.bundle.neighbours import Neighbours
from greffon.bundle.read import read_bundle
from greffon.bundle.verify import check_replays, compare, verify
from greffon.bundle.write import write_bundle
from greffon.cli import main
from greffon.errors import CheckFailedError, InputError
from greffon.evaluation.calibration import Calibration
from greffon.evaluation.table import prediction_table
from greffon.pictures.decode import decode


def _validation(labels, hashes, folder=None):
    paths = [f"{digest}.png" for digest in hashes]
    if folder is not None:
        for number, path in enumerate(paths):
            Image.fromarray(picture(number)).save(folder / path)
    values = np.full((len(labels), len(NAMES)), 1 / 3, np.float32)
    return prediction_table(paths, hashes, labels, values, NAMES)


def _changed(run, file, change):
    """A run of which one JSON file says something else, and whose manifest agrees."""
    from greffon.bundle.manifest import write_manifest

    values = json.loads((run / file).read_text(encoding="utf-8"))
    change(values)
    (run / file).write_text(json.dumps(values), encoding="utf-8")
    write_manifest(run)


def test_the_contract_says_how_a_picture_goes_in_and_what_comes_out(run, model):
    terms = contract_of(read_bundle(run))
    assert (terms["size"], terms["resize"], terms["decoder"], terms["exif_orientation"]) == (64, "crop", "1", "applied")
    assert (terms["class_names"], terms["several_labels"], terms["temperature"]) == (NAMES, False, 1.0)
    assert (terms["input"]["channels"], terms["input"]["dtype"]) == ("RGB", "uint8")
    pixels = np.stack([np.asarray(Image.open(run / probe["file"])) for probe in terms["probes"]])
    assert pixels.shape == (8, SIDE, SIDE, 3)
    expected = model.predict(pixels, verbose=0)  # Keras makes floats of them
    np.testing.assert_allclose([probe["probabilities"] for probe in terms["probes"]], expected, atol=1e-5)
    assert [probe["label"] for probe in terms["probes"]] == [NAMES[column] for column in expected.argmax(axis=1)]


def test_probes_are_validation_pictures_of_every_class_at_the_networks_size(tmp_path):
    labels = ["cat"] * 8 + ["dog", "dog", "owl 🦉"]
    hashes = [f"{number:02d}" for number in range(11)]
    table = _validation(labels, hashes, tmp_path)
    (tmp_path / "08.png").write_bytes(b"damaged meanwhile")
    chosen = choose_pixels(table, tmp_path, SIDE, "pad")
    assert [origin for origin, _ in chosen] == ["validation"] * 8
    wanted = ["00", "10", "01", "09", "02", "03", "04", "05"]
    for (_, pixels), name in zip(chosen, wanted, strict=True):
        np.testing.assert_array_equal(pixels, decode(tmp_path / f"{name}.png", SIDE, "pad"))


def test_without_the_users_pictures_or_with_too_few_they_are_rendered(tmp_path):
    table = _validation(["cat", "dog"], ["a", "b"], tmp_path)
    assert [origin for origin, _ in choose_pixels(table, None, SIDE, "crop")] == ["rendered"] * 8
    mixed = choose_pixels(table, tmp_path, SIDE, "crop")
    assert [origin for origin, _ in mixed] == ["validation"] * 2 + ["rendered"] * 6
    small = choose_pixels(table, None, 4, "crop")
    assert {pixels.shape for _, pixels in small} == {(4, 4, 3)}


def test_a_picture_without_a_path_is_no_probe():
    table = prediction_table([None], ["a"], ["cat"], np.full((1, 3), 1 / 3, np.float32), NAMES)
    assert {origin for origin, _ in choose_pixels(table, "/nowhere", 16, "crop")} == {"rendered"}


def test_several_labels_are_kinds_of_their_own(tmp_path):
    values = np.full((2, 3), 0.6, np.float32)
    table = prediction_table(
        ["a.png", "b.png"], ["a", "b"], [["cat"], ["cat", "dog"]], values, NAMES, several_labels=True
    )
    for name in ("a", "b"):
        Image.fromarray(picture(1)).save(tmp_path / f"{name}.png")
    assert len([origin for origin, _ in choose_pixels(table, tmp_path, SIDE, "crop") if origin == "validation"]) == 2
    assert isinstance(table.schema["label"], pl.List)


def test_probes_of_the_users_pictures_are_in_the_run(model, tmp_path):
    table = _validation(["cat", "dog"], ["h2", "h3"], tmp_path)
    calibration = Calibration(temperature=2.0, fitted_on="validation", count=2)
    contents = contents_of(model, validation=table, pictures=tmp_path, calibration=calibration)
    bundle = read_bundle(write_bundle(tmp_path / "run", contents))
    assert [probe.origin for probe in probes_of(bundle)] == ["validation"] * 2 + ["rendered"] * 6
    assert contract_of(bundle)["temperature"] == 2.0
    assert all(replay.kept for replay in verify(bundle.path))


def test_a_whole_run_keeps_its_contract_in_both_engines(run):
    replays = verify(run, keras=True)
    assert [replay.engine for replay in replays] == ["onnx", "keras"]
    assert all(replay.kept and replay.difference < 1e-4 and not replay.changed for replay in replays)
    check_replays(replays)
    assert str(replays[0]).startswith("onnx: 8 probe pictures, probabilities differ by at most ")


def test_another_answer_is_no_kept_contract(copied_run):
    def other_answer(terms):
        values = terms["probes"][2]["probabilities"]
        values[0], values[1] = values[0] + 2e-4, values[1] - 2e-4

    _changed(copied_run, "contract.json", other_answer)
    (replay,) = verify(copied_run)
    assert not replay.kept
    assert replay.difference == pytest.approx(2e-4, rel=0.1)
    with pytest.raises(CheckFailedError, match=r"differ by at most 2\.0e-04, the same labels"):
        check_replays([replay])


def test_another_model_in_its_place_is_found_out(copied_run, tmp_path):
    other = write_bundle(tmp_path / "other", contents_of(grafted(seed=5)))
    for name in ("model.onnx", "model.keras"):
        (copied_run / name).write_bytes((other / name).read_bytes())
    with pytest.raises(CheckFailedError, match=r"model\.keras is not the file(.|\n)*model\.onnx is not the file"):
        verify(copied_run)
    _changed(copied_run, "classes.json", lambda values: None)  # as if the manifest had been made to agree
    replays = verify(copied_run, keras=True)
    assert not any(replay.kept for replay in replays)


def test_labels_are_compared_even_where_numbers_are_close(run):
    probes = probes_of(read_bundle(run))
    for probe in probes:
        probe.probabilities[:] = [0.49999, 0.50001, 0]
    turned = np.tile(np.float32([0.50001, 0.49999, 0]), (8, 1))
    replay = compare("onnx", probes, turned)
    assert replay.difference < 1e-4
    assert not replay.kept
    assert len(replay.changed) == 8
    several = compare("onnx", probes, turned, several_labels=True)
    assert len(several.changed) == 8
    assert compare("onnx", probes, np.full((8, 3), np.nan)).difference is None
    with pytest.raises(CheckFailedError, match="shape"):
        compare("onnx", probes, np.zeros((8, 2)))


def test_a_run_without_a_contract_or_with_a_newer_one_is_refused(copied_run):
    _changed(copied_run, "contract.json", lambda terms: terms.update(version=99))
    with pytest.raises(InputError, match=r"contract has version 99.*Install a newer"):
        verify(copied_run)
    (copied_run / "contract.json").unlink()
    _changed(copied_run, "classes.json", lambda values: None)
    with pytest.raises(InputError, match=r"holds no contract\.json"):
        verify(copied_run)


def test_a_model_that_gives_no_numbers_keeps_no_contract(tmp_path):
    model = grafted()
    model.get_layer("head_output").bias.assign([float("nan"), 0, 0])
    run = write_bundle(tmp_path / "run", contents_of(model))
    replays = verify(run)
    assert [(replay.kept, replay.difference) for replay in replays] == [(False, None)]


def test_the_model_card_can_be_read_by_the_hub_and_by_people(model, tmp_path):
    record = {
        "accuracy": 0.9123,
        "accuracy_interval": [0.85, 0.96],
        "balanced_accuracy": 0.9,
        "log_loss": 0.3,
        "pictures": {"train": 1200, "val": 100, "test": 0},
        "left_out": {"unreadable": 2, "ignored": 0},
    }
    names = ["cat", "a_b [x]\n# no heading", "owl 🦉"]
    text = (write_bundle(tmp_path / "run", contents_of(model, record=record, names=names)) / "README.md").read_text(
        encoding="utf-8"
    )
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert (values["pipeline_tag"], values["library_name"], values["metrics"]) == (
        "image-classification",
        "keras",
        ["accuracy"],
    )
    assert values["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.9123}
    assert "image-classification" in values["tags"]
    assert "accuracy 0.912 (95 % interval 0.850 to 0.960)" in body
    assert "1,200 pictures learned from" in body
    assert "2 left out because they cannot be read" in body
    assert "a\\_b \\[x\\] \\# no heading" in body
    assert "Nothing is known of the weights" in body


def test_the_card_names_the_licence_of_the_weights(model, tmp_path, monkeypatch):
    from greffon.weights.sets import Restored

    monkeypatch.setattr(model, "greffon_weights", Restored("thin", "thin", None, "3bc1"), raising=False)
    text = (write_bundle(tmp_path / "run", contents_of(model)) / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "bsd-2-clause"
    assert "The weights `thin` (network thin), SHA-256 `3bc1`, licence BSD-2-Clause" in text


def test_the_card_says_which_pictures_lie_in_the_folder(model, tmp_path):
    def card(name, **changes):
        return (write_bundle(tmp_path / name, contents_of(model, **changes)) / "README.md").read_text(encoding="utf-8")

    near = Neighbours(np.ones((2, 4)), np.eye(3, dtype=bool)[:2], ("a.png", "b.png"), (b"one", b"two"))
    with_all = card("all", pictures=tmp_path, neighbours=near)
    assert "`neighbours.npz`: of 2 pictures that it learned from the path, the classes, a JPEG" in with_all
    assert "pooled features" in with_all
    assert "`probes/`: validation pictures" in with_all
    assert "trained with `--no-pictures` holds none" in with_all
    only_probes = card("probes", pictures=tmp_path)
    assert "`probes/`: validation pictures" in only_probes
    assert "neighbours.npz" not in only_probes
    assert "None of the pictures that it learned from: `probes/` holds rendered ones" in card("none")


@pytest.mark.parametrize("name", ["manifest.json", "classes.json", "model.onnx", "split.parquet", "probes/3.png"])
@pytest.mark.parametrize("missing", [False, True])
def test_to_verify_a_changed_or_missing_file_is_a_failed_check(copied_run, name, missing, capsys):
    """With the exit code 4; 2 where there is no manifest that says what a run is."""
    place = copied_run / name
    content = place.read_bytes()
    place.unlink()
    if not missing:
        place.write_bytes(content[:-9] + b"?" + content[-8:])
    code = 2 if name == "manifest.json" else 4
    assert main(["verify", str(copied_run)]) == code
    assert main(["verify", str(copied_run / "model.keras"), "--run", str(copied_run)]) == code
    assert code == 2 or capsys.readouterr().err.count(f"{name} is ") == 2
