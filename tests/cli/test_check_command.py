from __future__ import annotations

import json
import sys
import types

import pytest
from PIL import Image

from greffon.cli import main


@pytest.fixture
def pictures(tmp_path):
    """Two classes of small plain pictures; one file cannot be read."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for shade in range(4):
            image = Image.effect_noise((40, 40), 50 + shade + 10 * number).convert("RGB")
            image.save(tmp_path / "in" / name / f"{shade}.png")
    return tmp_path / "in"


@pytest.fixture
def bad(pictures):
    (pictures / "cat" / "empty.jpg").write_bytes(b"")
    return pictures


def run(*words):
    return main(["check", *map(str, words), "--weights", "none"])


def test_all_well_is_0(pictures, capsys):
    assert run(pictures) == 0
    assert "8 pictures of 2 classes: 0 wrong" in capsys.readouterr().out


def test_wrong_is_4_and_a_table(bad, capsys):
    assert run(bad) == 4
    out = capsys.readouterr().out
    assert "wrong" in out
    assert "cat/empty.jpg: is empty (0 bytes)" in out
    assert f"the finding, with pictures: greffon check {bad} --weights none -o checked" in out


def test_what_is_to_be_looked_at_is_4_only_if_asked_for(pictures, capsys):
    Image.new("RGB", (40, 40), "red").save(pictures / "cat" / "plain.png")
    assert run(pictures) == 0
    assert run(pictures, "--strict") == 4


def test_json_is_the_result_and_nothing_else(bad, capsys):
    assert run(bad, "--json") == 4
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["counts"]["unreadable: empty"] == 1


def test_files_are_written_and_named(bad, tmp_path, capsys):
    words = ["-o", tmp_path / "out", "--html", tmp_path / "page.html", "--preview", tmp_path / "sheet.jpg"]
    assert run(bad, *words) == 4
    out = capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["check.html", "manifest.csv", "preview.png"]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "sheet.jpg").read_bytes().startswith(b"\xff\xd8")
    assert f"greffon train obeys it: greffon train {bad} -o RUN --manifest {tmp_path / 'out' / 'manifest.csv'}" in out
    assert "with pictures: greffon check" not in out


def test_decisions_make_it_0(bad, tmp_path, capsys):
    assert run(bad, "-o", tmp_path / "out") == 4
    manifest = tmp_path / "out" / "manifest.csv"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    lines = [line.rsplit(",", 1)[0] + ",leave out" if "empty.jpg" in line else line for line in lines]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run(bad, "-o", tmp_path / "out") == 0


def test_columns_are_passed_on(pictures, tmp_path, capsys):
    table = tmp_path / "in" / "table.csv"
    rows = [f"{name}/{n}.png,{name}" for name in ("cat", "dog") for n in range(4)]
    table.write_text("\n".join(["which,what", *rows]), encoding="utf-8")
    capsys.readouterr()
    Image.new("RGB", (40, 40), "red").save(pictures / "cat" / "0.png")
    words = ["--column", "path=which", "--column", "label=what", "--image-size", "64"]
    assert run(table, *words) == 0
    again = "--weights none --image-size 64 --column path=which --column label=what -o checked"
    assert f"greffon check {table} {again}" in capsys.readouterr().out
    assert run(table, "--column", "paht=which") == 2


def test_options_are_passed_on(monkeypatch, capsys):
    asked = {}

    def check(data, **options):
        asked.update(options, data=data)
        return types.SimpleNamespace(ok=True, spotless=True, to_dict=dict, __str__=str)

    module = types.ModuleType("greffon.checking.check")
    module.check = check
    monkeypatch.setitem(sys.modules, "greffon.checking.check", module)
    words = [
        "--weights",
        "thin",
        "--image-size",
        "64",
        "--resize",
        "pad",
        "--seed",
        "3",
        "--manifest",
        "m.csv",
        "--json",
    ]
    assert main(["check", "photos", *words]) == 0
    assert (asked["data"], asked["weights"], asked["image_size"], asked["resize"], asked["seed"]) == (
        "photos", "thin", 64, "pad", 3
    )  # fmt: skip
    assert str(asked["manifest"]) == "m.csv"


def test_no_such_folder_is_2(capsys):
    assert run("nowhere") == 2


def test_a_narrow_terminal_has_sentences_below_their_kind(bad):
    from rich.console import Console

    from greffon.checking.check import check

    (bad / "dog" / "copy.png").write_bytes((bad / "dog" / "1.png").read_bytes())
    (bad / "dog" / "copy too.png").write_bytes((bad / "dog" / "2.png").read_bytes())
    found = check(bad, weights="none", reporter=None)
    narrow, wide = Console(width=80, record=True), Console(width=1000, record=True)
    for console in (narrow, wide):
        console.print(found)
    lines = narrow.export_text().splitlines()
    assert "wrong   unreadable: empty (1)" in [line.rstrip() for line in lines]
    assert "        cat/empty.jpg: is empty (0 bytes)" in [line.rstrip() for line in lines]
    assert any("exact copies (2)" in line and "  the first: " in line for line in wide.export_text().splitlines())
