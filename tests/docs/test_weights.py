"""docs/weights.md: its commands and its Python run as they stand, and its table of sets is that of the records."""

import hashlib
import re
from dataclasses import replace

from markdown_blocks import ROOT, blocks_of, commands_of, run

WEIGHTS = ROOT / "docs" / "weights.md"


def test_the_table_of_sets_is_that_of_the_records():
    from greffon.weights.sets import WEIGHT_SETS

    told = re.findall(
        r"^\| `([\w-]+)` \| (ResNet.*?) \| (.*?) ?\| (.*?) \| (.*?) \|$", WEIGHTS.read_text(), re.MULTILINE
    )
    expected = []
    for record in WEIGHT_SETS.values():
        if record.files:
            network = (
                "ResNet-50 v1, half width" if record.variant == "thin" else f"ResNet-{record.depth} {record.variant}"
            )
            accuracy = f"{record.accuracy.top1:.1f} at {record.accuracy.size}" if record.accuracy else ""
            expected.append((record.name, network, accuracy, record.file().published_hash, record.licence))
    assert told == expected


def test_the_table_of_formats_is_that_of_convert():
    from greffon.backbone.formats import FORMATS

    section = WEIGHTS.read_text().split("## Other formats")[1]
    assert tuple(re.findall(r"^\| `([\w-]+)`(?: \(`--to torch`\))? \| `\.", section, re.MULTILINE)) == FORMATS


def test_runs_as_it_stands(session_folder, mirror, monkeypatch):
    from safetensors.numpy import load_file, save_file

    from greffon.cli import main
    from greffon.weights.sets import WEIGHT_SETS, embedded_path, weight_set

    save_file(load_file(embedded_path(weight_set("thin").file())), "my_weights.safetensors", {"variant": "thin"})
    published = weight_set("torchvision-v2")
    content = b"weights " * 1000
    file = replace(published.file(), sha256_prefix=hashlib.sha256(content).hexdigest()[:8])
    (mirror.folder / file.filename).write_bytes(content)
    monkeypatch.setitem(WEIGHT_SETS, published.name, replace(published, files=(file,)))

    commands = [words[1:] for words in commands_of(WEIGHTS)]
    for words in commands:
        assert main(words) == 0, words
    assert {words[1] for words in commands} == {"inspect", "fetch", "add", "convert"}
    assert mirror.asked == [f"/{file.filename}"]
    run(WEIGHTS, blocks_of(WEIGHTS), {"__name__": "__main__"})
