"""The README: its Python runs as it stands on few pictures, its commands are ones that exist, and so are its links.

The network is the whole `thin` one at 224 pixels, every epoch of the default recipe included; only the pictures are
few and made up.
"""

import re

import numpy as np
import pytest
from markdown_blocks import ROOT, anchors_of, blocks_of, commands_of, links_of, run

README = ROOT / "README.md"
DOCUMENTS = sorted([README, ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
# Commands that take a moment only, once there is a run.
CHEAP = {"evaluate", "predict", "layers", "cache"}


@pytest.fixture
def photos_folder(session_folder):
    """Three classes that colour alone tells apart, six pictures each."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name, colour in {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}.items():
        folder = session_folder / "photos" / name
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(random.normal(colour, 30, (64, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return session_folder / "photos"


def session():
    """What the README says that the reader has."""
    random = np.random.default_rng(1)
    data = {"__name__": "__main__"}
    for side, rows in (("train", 6), ("val", 3)):
        data[f"{side}_data"] = random.integers(0, 256, (rows, 224, 224, 3), np.uint8)
        data[f"{side}_labels"] = np.eye(10, dtype=np.float32)[random.integers(0, 10, rows)]
    return data


def greffon_commands():
    return [words[1:] for file in DOCUMENTS for words in commands_of(file) if words[0] == "greffon"]


def test_runs_as_it_stands(photos_folder, session_folder, capsys):
    import keras

    from greffon.cli import main

    names = session()
    run(README, blocks_of(README), names)

    assert len(names["history"].history["val_accuracy"]) == 10
    assert names["history"].greffon.why_not is None
    assert isinstance(keras.models.load_model("model.keras", compile=False), keras.Model)
    assert "green" in capsys.readouterr().out
    listed = re.findall(r"^\| `([\w.]+)` \|", section("What comes out"), re.MULTILINE)
    assert sorted(listed) == sorted(file.name for file in (session_folder / "runs" / "first").iterdir())

    ran = [words for words in readme_commands() if words[0] in CHEAP]
    assert {words[0] for words in ran} == CHEAP
    for words in ran:
        assert main(words) == 0, words


def readme_commands():
    return [words[1:] for words in commands_of(README) if words[0] == "greffon"]


def section(title):
    return README.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_commands_of_all_documents_parse():
    from greffon.cli.app import COMMANDS, app

    commands = greffon_commands()
    assert {"train", "evaluate", "predict", "layers", "weights", "cache"} <= {words[0] for words in commands}
    for words in commands:
        assert words[0] in COMMANDS
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_commands_in_the_text_of_the_readme_parse():
    from greffon.cli.app import app

    text = README.read_text(encoding="utf-8")
    inline = re.findall(r"`greffon ([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    whole = [command.split() for command in inline if len(command.split()) > 1]
    assert whole
    for words in whole:
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("words", [["train", "photos", "--wat"], ["layers", "thin", "--unfroze", "1"], ["wat"]])
def test_a_command_that_does_not_exist_would_be_found(words):
    from cyclopts.exceptions import CycloptsError

    from greffon.cli.app import app

    with pytest.raises(CycloptsError):
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_make_has_the_targets():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {words[1] for words in commands_of(README) if words[0] == "make"}
    assert named == {"demo", "test"}
    assert named <= targets


def test_weight_sets_and_variables_are_those_that_exist():
    from greffon.weights.sets import WEIGHT_SETS

    text = section("Where weights come from")
    names = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE))
    assert {"imagenet", "thin", "none"} <= names <= set(WEIGHT_SETS)  # all of them are in docs/weights.md
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py"))
    variables = set(re.findall(r"^\| `(GREFFON_\w+)` \|", text, re.MULTILINE))
    assert variables == set(re.findall(r"GREFFON_[A-Z_]+[A-Z]", source))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(document):
    for link in links_of(document):
        if link.startswith(("http:", "https:")):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not fragment or fragment in anchors_of(target), link
