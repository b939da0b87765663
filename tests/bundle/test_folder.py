from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from greffon.bundle import folder as folders
from greffon.bundle.folder import check_out, new_folder
from greffon.bundle.manifest import is_run, read_manifest, to_json
from greffon.errors import InputError


def _write(out, text="new", **options):
    with new_folder(out, **options) as folder:
        (folder.temporary / "model.keras").write_text(text)
    return folder.place


def _names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "a" / "b" / "run"
    with new_folder(out) as folder:
        (folder.temporary / "inner").mkdir()
        (folder.temporary / "inner" / "x.txt").write_text("x")
        assert not out.exists()
    assert folder.place == out
    assert _names(out.parent) == ["run"]
    assert _names(out) == ["inner", "manifest.json"]
    assert list(read_manifest(out).files) == ["inner/x.txt"]
    assert is_run(out)


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "run") as folder:
        (folder.temporary / "x").write_text("x")
        raise RuntimeError
    assert _names(tmp_path) == []


def test_what_stands_there_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        check_out(tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be made: .*file is a file"):
        check_out(tmp_path / "file" / "inside")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"is not empty and is no run of greffon"):
            check_out(tmp_path / "photos", overwrite=overwrite)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").write_text("")
    assert _names(_write(tmp_path / "run")) == ["manifest.json", "model.keras"]
    assert _names(tmp_path) == ["run"]


def test_a_run_is_replaced_when_asked(tmp_path):
    out = _write(tmp_path / "run", "old")
    with pytest.raises(InputError, match="holds a run already"):
        _write(out)
    assert (out / "model.keras").read_text() == "old"
    _write(out, overwrite=True)
    assert (out / "model.keras").read_text() == "new"
    assert _names(tmp_path) == ["run"]


def test_files_of_the_users_in_a_run_are_not_lost(tmp_path):
    out = _write(tmp_path / "run", "old")
    (out / "my notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"would be lost: my notes\.txt\."):
        _write(out, overwrite=True)
    assert (out / "my notes.txt").read_text() == "precious"


@pytest.mark.parametrize("out", [".", "..", "/", "runs/.."])
def test_folders_without_a_name_of_their_own_are_refused(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give a folder inside it"):
        check_out(out)


def test_the_current_folder_and_mounts_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the current folder"):
        check_out(tmp_path)
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    with pytest.raises(InputError, match="is a mounted folder"):
        check_out(tmp_path / "volume")
    assert check_out(tmp_path / "volume" / "run")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_system_takes_are_refused_before_training(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be written to|is no name"):
        check_out(tmp_path / name)


def test_the_longest_name_works(tmp_path):
    assert _write(tmp_path / ("x" * 255)).is_dir()


def test_checking_leaves_nothing_behind(tmp_path):
    assert check_out(tmp_path / "a" / "run") == tmp_path / "a" / "run"
    assert _names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to: Permission denied"):
        check_out(tmp_path / "run")


def test_an_error_of_the_disk_says_so(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_manifest", full)
    with pytest.raises(InputError, match="could not be written: No space left"):
        _write(tmp_path / "run")
    assert _names(tmp_path) == []


def test_a_place_taken_meanwhile_costs_no_training(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "greffon"), new_folder(tmp_path / "run", if_taken="beside") as folder:
        (folder.temporary / "model.keras").write_text("hours")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "other.txt").write_text("somebody's")
    assert folder.place == tmp_path / "run-2"
    assert "run-2 instead" in caplog.text
    assert (tmp_path / "run-2" / "model.keras").read_text() == "hours"
    assert _names(tmp_path / "run") == ["other.txt"]
    assert _write(tmp_path / "run", if_taken="beside") == tmp_path / "run-3"


def test_a_place_taken_meanwhile_is_refused_otherwise(tmp_path):
    with pytest.raises(InputError, match="is not empty"), new_folder(tmp_path / "run") as folder:
        (folder.temporary / "model.keras").write_text("seconds")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "other.txt").write_text("somebody's")
    assert _names(tmp_path) == ["run"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert _write(tmp_path / "run") == tmp_path / "disk"
    assert (tmp_path / "run").is_symlink()
    assert is_run(tmp_path / "run")


def _killed(tmp_path, script):
    """Run a script that says `ready` and waits; kill it there."""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


_WRITING = """
import sys, time, pathlib
from greffon.bundle.folder import new_folder
with new_folder(sys.argv[1], overwrite=True) as folder:
    (folder.temporary / "model.keras").write_text("new")
    print("ready", flush=True)
    time.sleep(600)
"""
_BETWEEN_TWO_NAMES = """
import sys, time, pathlib
from greffon.bundle.folder import new_folder
rename = pathlib.Path.rename
def slow(path, target):
    if path.suffix == ".part":
        print("ready", flush=True)
        time.sleep(600)
    return rename(path, target)
pathlib.Path.rename = slow
with new_folder(sys.argv[1], overwrite=True) as folder:
    (folder.temporary / "model.keras").write_text("new")
"""


@pytest.mark.skipif(os.name != "posix", reason="killed processes are told by their number")
def test_a_process_killed_while_writing_leaves_no_run_and_is_cleared_away(tmp_path):
    _killed(tmp_path, _WRITING)
    assert len(_names(tmp_path)) == 1
    assert not (tmp_path / "run").exists()
    check_out(tmp_path / "run")
    assert _names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="killed processes are told by their number")
def test_a_process_killed_while_writing_leaves_the_old_run(tmp_path):
    _write(tmp_path / "run", "old")
    _killed(tmp_path, _WRITING)
    check_out(tmp_path / "run", overwrite=True)
    assert _names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "model.keras").read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="killed processes are told by their number")
def test_a_process_killed_between_two_names_has_the_new_run_put_in_place(tmp_path):
    _write(tmp_path / "run", "old")
    _killed(tmp_path, _BETWEEN_TWO_NAMES)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="holds a run already"):
        check_out(tmp_path / "run")
    assert _names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "model.keras").read_text() == "new"
    assert read_manifest(tmp_path / "run")


def test_what_others_are_writing_stays(tmp_path):
    with new_folder(tmp_path / "run") as folder:
        check_out(tmp_path / "run")
        assert folder.temporary.is_dir()
        (folder.temporary / "x").write_text("x")
    elsewhere = tmp_path / folder.temporary.name.replace(folders._machine(), folders._number("another machine"))
    elsewhere.mkdir()
    check_out(tmp_path / "run", overwrite=True)
    assert elsewhere.is_dir()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(elsewhere, (long_ago, long_ago))
    check_out(tmp_path / "run", overwrite=True)
    assert not elsewhere.exists()


def test_names_that_only_look_like_leftovers_stay(tmp_path):
    mine = tmp_path / f"{folders._prefix(tmp_path / 'run')}mine.part"
    mine.mkdir()
    check_out(tmp_path / "run")
    assert mine.is_dir()


def test_equal_values_give_equal_json():
    import numpy as np

    first = {"b": np.float32(0.5), "a": [Path("x"), {"é": float("nan")}], "c": np.arange(2), "d": {2, 1}}
    assert to_json(first) == to_json(dict(reversed(first.items())))
    assert json.loads(to_json(first)) == {"a": ["x", {"é": None}], "b": 0.5, "c": [0, 1], "d": [1, 2]}
    assert "é" in to_json(first)
    with pytest.raises(InputError, match="plain values"):
        to_json({"a": object()})
