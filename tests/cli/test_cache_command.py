from __future__ import annotations

import json

import numpy as np
import pytest

from greffon.cli import main
from greffon.cli.output import size
from greffon.frozen.store import ActivationStore


@pytest.fixture
def filled(cache_folder):
    """A cache with the activations of two pictures and one fetched file."""
    with ActivationStore(cache_folder / "activations") as store:
        trunk = store.trunk(b"t" * 16, label="thin [conv5]")
        trunk.put_many([b"a" * 16, b"b" * 16], (np.ones((2, 4), "float16"),))
    (cache_folder / "weights").mkdir()
    (cache_folder / "weights" / "some.h5").write_bytes(bytes(1500))
    return cache_folder


def told(capsys, *words: str):
    assert main(["cache", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_empty_cache(cache_folder, capsys):
    found = told(capsys, "info")
    assert found["folder"] == str(cache_folder)
    assert found["activations"]["trunks"] == found["weights"] == []
    assert list(cache_folder.iterdir()) == []  # looking makes nothing
    assert main(["cache", "info"]) == 0
    assert "weights: none fetched" in capsys.readouterr().out


def test_info(filled, capsys):
    found = told(capsys, "info")
    [trunk] = found["activations"]["trunks"]
    assert (trunk["label"], trunk["activations"]) == ("thin [conv5]", 2)
    assert found["weights"] == [{"file": "some.h5", "bytes": 1500}]
    assert main(["cache", "info"]) == 0
    out = capsys.readouterr().out
    assert str(filled) in out
    assert "thin [conv5]" in out
    assert "1.5 kB" in out


def test_the_table_fits_into_80_columns(cache_folder, capsys):
    from rich.console import Console

    from greffon.cli.cache import _contents, _tables

    label = "resnet50-thin, conv4_block6_out and conv5_block1_0_conv, float16, int8"
    with ActivationStore(cache_folder / "activations") as store:
        store.trunk(b"t" * 16, label=label).put_many([b"a" * 16], (np.ones((1, 4), "float16"),))
    console = Console(width=80, record=True)
    console.print(_tables(_contents()))
    lines = console.export_text().splitlines()
    assert sum("UTC" in line or " bytes" in line for line in lines if "activations:" not in line) == 2
    assert " ".join(line[:44].strip() for line in lines).count(label) == 1  # broken at blanks alone


def test_a_label_of_many_cuts_is_shortened(cache_folder, capsys):
    cuts = [f"head_flatten_conv{n}" for n in range(16)]
    with ActivationStore(cache_folder / "activations") as store:
        label = ", ".join(["greffon", "conv5_block2_out", *cuts, "float16"])
        store.trunk(b"t" * 16, label=label).put_many([b"a" * 16], (np.ones((1, 4), "float16"),))
    assert main(["cache", "info"]) == 0
    assert "greffon, conv5_block2_out, head_flatten_conv0, 15 more, float16" in capsys.readouterr().out
    assert told(capsys, "info")["activations"]["trunks"][0]["label"] == label


def test_solved_heads_are_one_row_and_for_programs_each_a_trunk(cache_folder, capsys):
    with ActivationStore(cache_folder / "activations") as store:
        for number in range(3):
            label = f"heads solved: {number} pictures"
            store.trunk(bytes([number]) * 16, label=label).put_many([b"a" * 16], (np.ones((1, 4), "float16"),))
        store.trunk(b"t" * 16, label="a trunk").put_many([b"a" * 16], (np.ones((1, 4), "float16"),))
    main(["cache", "info"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("heads", "a trunk"))]
    assert sorted(line.split("  ")[0] for line in lines) == ["a trunk", "heads solved"]
    assert next(line for line in lines if line.startswith("heads")).split()[2] == "3"
    assert len(told(capsys, "info")["activations"]["trunks"]) == 4


def test_clear_leaves_weights_unless_asked(filled, capsys):
    assert told(capsys, "clear", "--yes")["freed_bytes"] > 0
    found = told(capsys, "info")
    assert found["activations"]["trunks"] == []
    assert len(found["weights"]) == 1
    assert told(capsys, "clear", "weights", "-y") == {"freed_bytes": 1500}
    assert told(capsys, "info")["weights"] == []


def test_clear_all(filled, capsys):
    assert main(["cache", "clear", "all", "--yes"]) == 0
    assert capsys.readouterr().out.endswith(" freed\n")
    found = told(capsys, "info")
    assert found["activations"]["trunks"] == found["weights"] == []


def test_clear_does_not_delete_without_an_answer(filled, capsys, monkeypatch):
    assert main(["cache", "clear"]) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda *_, **__: False)
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "nothing deleted\n"
    assert len(told(capsys, "info")["activations"]["trunks"]) == 1


def test_a_damaged_store_is_shown_and_can_be_cleared(cache_folder, capsys):
    (cache_folder / "activations").mkdir()
    (cache_folder / "activations" / "data.mdb").write_bytes(b"no store" * 2000)
    assert told(capsys, "info")["activations"]["problem"]
    assert told(capsys, "clear", "--yes")["freed_bytes"] == 16_000
    assert told(capsys, "info")["activations"]["problem"] is None


def test_an_unknown_part_is_answered_with_the_known_ones(capsys):
    assert main(["cache", "clear", "activation", "--yes"]) == 2
    assert "activations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (94_765_736, "94.8 MB"), (20 * 10**9, "20.0 GB")],
)
def test_sizes(count, words):
    assert size(count) == words


def test_copies_of_pictures_are_shown_and_cleared(cache_folder, capsys):
    for name in ("pictures", "remote"):
        (cache_folder / name / "inner").mkdir(parents=True)
        (cache_folder / name / "inner" / "1.ppm").write_bytes(bytes(2500))
    assert told(capsys, "info")["pictures"] == {"pictures": 2500, "remote": 2500}
    assert main(["cache", "info"]) == 0
    assert "pictures fetched from addresses: 2.5 kB" in capsys.readouterr().out
    assert told(capsys, "clear", "-y")["freed_bytes"] == 0
    assert told(capsys, "clear", "pictures", "-y")["freed_bytes"] == 5000
    assert told(capsys, "info")["pictures"] == {"pictures": 0, "remote": 0}
