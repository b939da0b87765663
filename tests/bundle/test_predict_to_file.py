"""`greffon predict --out`: a real run, in processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_runs import contents_of, grafted, picture
from PIL import Image

from greffon.cli import main


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(6):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    Image.fromarray(picture(9)).save(folder / "more" / "9.jpg")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def test_one_row_for_each_picture_and_the_reason_for_those_that_cannot_be_read(run, photos, tmp_path, capsys):
    out = tmp_path / "answers.parquet"
    assert main(["predict", str(run), str(photos), "-o", str(out), "--min-confidence", "0.4"]) == 3
    table = pl.read_parquet(out)
    assert [Path(path).name for path in table["path"]] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "4.png",
        "5.png",
        "9.jpg",
    ]
    assert table["error"].is_not_null().to_list() == [False, False, False, True, False, False, False]
    assert table["sure"].null_count() == 1
    printed, said = capsys.readouterr()
    assert printed.strip() == f"7 pictures in {out}"
    assert "cannot be read: " in said
    assert "7 pictures in" in said  # the bar's last line
    assert main(["predict", str(run), str(photos), "-o", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["predict", str(run), str(photos / "0.png"), "-o", str(out), "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 1
    assert pl.read_parquet(out)["path"].to_list() == [str(photos / "0.png")]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--out", "answers.xlsx"], "must end in .csv, .jsonl, .parquet"),
        (["--out", "absent/answers.csv"], "there is no folder"),
        (["--overwrite"], "--overwrite is for the file of --out"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_computed(run, photos, words, text, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    assert main(["predict", str(run), "0.png", *words]) == 2
    assert text in capsys.readouterr().err


def test_a_job_that_was_killed_goes_on_where_it_was(run, tmp_path, capsys):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    out, journal = tmp_path / "answers.csv", tmp_path / "answers.csv.part"
    command = [sys.executable, "-m", "greffon", "predict", str(run), str(folder), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as job:
        for _ in range(6000):
            if journal.is_file() and journal.read_bytes().count(b"\n") > 32:
                break
            time.sleep(0.005)
        job.kill()
    assert job.returncode == (-signal.SIGKILL if os.name == "posix" else 1)
    assert not out.exists()
    with journal.open("rb") as stream:
        answered = sum(1 for line in stream if line.endswith(b"\n")) - 1
    assert 0 < answered < 400
    Image.fromarray(picture(1000)).save(folder / "0.png")  # changed meanwhile: its answer is not taken over
    assert main(["predict", str(run), str(folder), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["kept"]) == (400, answered - 1)
    assert not journal.exists()
    assert main(["predict", str(run), str(folder), "--out", str(tmp_path / "at_once.csv")]) == 0
    np.testing.assert_array_equal(out.read_bytes(), (tmp_path / "at_once.csv").read_bytes())


def test_several_labels_are_lists(tmp_path, photos, capsys):
    import greffon
    from greffon.bundle.write import write_bundle

    head = greffon.Head(output="sigmoid")
    run = write_bundle(tmp_path / "several", contents_of(grafted(head=head), several_labels=True))
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        assert main(["predict", str(run), str(photos / "1.png"), "--out", str(tmp_path / name)]) == 0
    row = json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))
    expected = [label for label, score in row["scores"].items() if score >= 0.5]
    assert sorted(row["labels"]) == sorted(expected)
    assert pl.read_parquet(tmp_path / "a.parquet")["labels"].to_list() == [row["labels"]]
    assert json.loads(pl.read_csv(tmp_path / "a.csv")["labels"][0]) == row["labels"]
