"""docs/data.md: its Python runs and answers as it stands, its commands are understood, its checks find what it says."""

import json
import sys
from pathlib import Path

import pytest
from markdown_blocks import ROOT, blocks_of, commands_of, run

DATA = ROOT / "docs" / "data.md"


@pytest.fixture
def photos(session_folder, monkeypatch):
    """The pictures that the document speaks of: two classes, a picture in both, a file that is empty."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "checking"))
    from rendered import rendered

    for hue, (name, count) in enumerate({"bird": 16, "flower": 13}.items()):
        (session_folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            rendered(100 * hue + number, hue).save(session_folder / "photos" / name / f"{number:02}.png")
    content = (session_folder / "photos/bird/03.png").read_bytes()
    (session_folder / "photos/flower/copy.png").write_bytes(content)
    (session_folder / "photos/flower/broken.jpg").write_bytes(b"")
    yield session_folder / "photos"
    sys.modules.pop("rendered", None)


def test_its_python_runs_as_it_stands(photos):
    run(DATA, blocks_of(DATA), {"__name__": "__main__"})


def test_its_commands_are_understood_and_the_checks_run(photos, capsys):
    from greffon.cli import main
    from greffon.cli.app import app

    commands = [words[1:] for words in commands_of(DATA)]
    assert {words[0] for words in commands} == {"train", "check"}
    for words in commands:
        app.parse_args(words, exit_on_error=False, print_error=False)
    quick = next(words for words in commands if "--json" in words)
    assert main(quick) == 4
    assert json.loads(capsys.readouterr().out)["counts"]["unreadable: empty"] == 1


def test_every_source_is_told():
    from greffon.pictures.sources.choose import UNDERSTOOD

    text = DATA.read_text(encoding="utf-8")
    for word in ("train/", "Parquet", "WebDataset", "datasets", "tf.data.Dataset", "https://", "pairs"):
        assert word in text
    assert "tar shards" in UNDERSTOOD
