from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from greffon.cli import main
from greffon.weights import sets


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A weight set `small` with one file, on a server of this machine; gives the file's bytes."""
    folder = tmp_path / "served"
    folder.mkdir()
    content = b"weights " * 400_000
    (folder / "small.h5").write_bytes(content)
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/small.h5"
    digest = hashlib.sha256(content).hexdigest()
    file = sets.WeightFile("small.h5", url, len(content), None, digest, include_top=False)
    record = replace(sets.WEIGHT_SETS["imagenet"], name="small", files=(file,))
    monkeypatch.setitem(sets.WEIGHT_SETS, "small", record)
    yield content
    server.shutdown()
    server.server_close()
    thread.join()


def test_list(capsys):
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    for name, record in sets.WEIGHT_SETS.items():
        assert name in out
        assert record.licence in out
    assert "unverified" in out
    assert "81.2 at 288" in out
    assert main(["weights", "list", "--all"]) == 0
    assert sets.weight_set("timm-a1").source in capsys.readouterr().out
    assert main(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["weight_sets"]
    assert [(row["name"], row["cached"]) for row in rows][:2] == [("imagenet", False), ("thin", True)]


def test_fetch_into_the_cache_then_it_is_there(served, cache_folder, capsys):
    assert main(["weights", "fetch", "small", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["path"] == str(cache_folder / "weights" / "small.h5")
    assert found["size"] == len(served)
    assert "small  3 MB in" in err
    assert main(["weights", "fetch", "small"]) == 0
    out, err = capsys.readouterr()
    assert "hash is right" in out
    assert "MB in" not in err + out


def test_fetch_into_a_folder(served, tmp_path, capsys):
    folder = tmp_path / "for another machine"
    assert main(["weights", "fetch", "small", "-o", str(folder)]) == 0
    assert (folder / "small.h5").read_bytes() == served
    out = capsys.readouterr().out
    assert str(folder / "small.h5") in out
    assert "greffon weights add" in out
    assert json.loads((folder / "small.h5.greffon.json").read_text())["licence"] == "MIT"


def test_a_package_is_added_where_there_is_no_network(served, tmp_path, cache_folder, monkeypatch, capsys):
    assert main(["weights", "fetch", "small", "-o", str(tmp_path / "stick")]) == 0
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("GREFFON_MIRROR", "http://127.0.0.1:1/")
    capsys.readouterr()
    assert main(["weights", "add", str(tmp_path / "stick"), "--json"]) == 0
    (added,) = json.loads(capsys.readouterr().out)["added"]
    assert (added["name"], added["path"]) == ("small", str(tmp_path / "other" / "weights" / "small.h5"))
    assert main(["weights", "fetch", "small"]) == 0
    assert "hash is right" in capsys.readouterr().out
    assert main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weight_sets"]}
    assert (rows["small"]["cached"], rows["small"]["verified"]) == (True, "SHA-256")


@pytest.fixture
def own_file(tmp_path):
    """The embedded weights in a file that no set knows."""
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "own.safetensors"
    save_file(load_file(sets.embedded_path(sets.weight_set("thin").file())), path, metadata={"variant": "thin"})
    return path


def test_a_file_of_ones_own_is_added_under_a_name(own_file, capsys):
    assert main(["weights", "add", str(own_file)]) == 2
    assert "--name NAME" in capsys.readouterr().err
    words = ["weights", "add", str(own_file), "--preprocessing", "open_nsfw"]
    assert main(words) == 2
    assert "give it a name too" in capsys.readouterr().err
    assert main([*words, "--name", "mine", "--licence", "CC0-1.0"]) == 0
    out = capsys.readouterr().out
    assert "mine: " in out
    assert "half width (thin)" in out
    assert main(["weights", "list"]) == 0
    assert "CC0-1.0" in capsys.readouterr().out
    assert main(["weights", "inspect", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == "thin"


def test_convert(tmp_path, capsys):
    out = tmp_path / "out.weights.h5"
    assert main(["weights", "convert", "thin", "-o", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["variant"], found["size"]) == ("weights-h5", "thin", out.stat().st_size)
    assert main(["weights", "convert", "thin", "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["weights", "convert", "thin", "-o", str(tmp_path / "out.safetensors"), "--to", "torch"]) == 2
    assert "cannot be written as torch" in capsys.readouterr().err
    assert main(["weights", "convert", "thin"]) == 2
    assert "needs --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [(["fetch", "smal"], "did you mean 'small'"), (["fetch", "none"], "no file"), (["fetch"], "needs NAME")],
)
def test_fetch_what_is_not_there(words, text, served, capsys):
    assert main(["weights", *words]) == 2
    assert text in capsys.readouterr().err


def test_inspect(tmp_path, capsys):
    from safetensors.numpy import save_file

    arrays = {f"conv{number}_conv/kernel": np.ones((3, 3, 2, 4), "float32") for number in range(20)}
    file = tmp_path / "odd name"
    save_file(arrays, file, metadata={"author": "somebody [x]"})
    assert main(["weights", "inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "safetensors" in out
    assert "1,440 parameters in 20 arrays of 20 layers" in out
    assert "author: somebody [x]" in out
    assert "8 more (--all)" in out
    assert main(["weights", "inspect", str(file), "--all"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in arrays)
    assert main(["weights", "inspect", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {array["name"]: array["shape"] for array in found["arrays"]} == {name: [3, 3, 2, 4] for name in arrays}


def test_inspect_a_set_reads_no_numbers(monkeypatch, capsys):
    from greffon.weights.read.arrays import Tensor

    def load(tensor):
        raise AssertionError("inspect must not read numbers")

    monkeypatch.setattr(Tensor, "load", load)
    assert main(["weights", "inspect", "thin"]) == 0
    out = capsys.readouterr().out
    assert "ResNet-50 v1, half width (thin)" in out
    assert "SHA-256" not in out
    assert main(["weights", "inspect", "thin", "--hash", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == sets.weight_set("thin").file().sha256


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thn", "did you mean 'thin'"),
        ("none", "no file"),
        ("imagenet", "are not on this machine"),
        ("no/such.h5", "is neither"),
    ],
)
def test_inspect_what_is_not_there(name, text, capsys):
    assert main(["weights", "inspect", name]) == 2
    assert text in capsys.readouterr().err


def test_inspect_what_is_no_weight_file(tmp_path, capsys):
    (tmp_path / "page.h5").write_text("<html>403</html>")
    assert main(["weights", "inspect", str(tmp_path / "page.h5")]) == 2
    assert "web page" in capsys.readouterr().err
