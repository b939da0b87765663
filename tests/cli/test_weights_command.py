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
    thread = threading.Thread(target=server.serve_forever)
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
    assert str(folder / "small.h5") in capsys.readouterr().out


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


def test_inspect_what_is_no_weight_file(tmp_path, capsys):
    (tmp_path / "page.h5").write_text("<html>403</html>")
    assert main(["weights", "inspect", str(tmp_path / "page.h5")]) == 2
    assert "web page" in capsys.readouterr().err
