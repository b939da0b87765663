"""The manifest: written, edited, read, obeyed; and pictures that go bad while a run goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from picture_folders import picture

from greffon.errors import DataError, InputError
from greffon.pictures.quarantine import SCHEMA, load_manifest, manifest_of, obey, save_manifest
from greffon.pictures.scan import read_picture
from greffon.pictures.skipped import Skipped


@pytest.fixture
def scanned(tmp_path):
    """A good picture, one with a wrong extension, and one that is cut short."""
    picture(1, (60, 50)).save(tmp_path / "good.png")
    picture(2, (60, 50)).save(tmp_path / "other.jpg", "PNG")
    picture(3, (60, 50)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-900])
    names = ["good.png", "other.jpg", "cut.png"]
    return [(name, read_picture(tmp_path / name)) for name in names]


def catalog_of(scanned):
    rows = [(path, s.hash, "quarantined" if s.reason else "ok", s.reason, s.width) for path, s in scanned]
    names = {"path": pl.String, "hash": pl.String, "state": pl.String, "reason": pl.String, "width": pl.Int64}
    return pl.DataFrame(rows, schema=names, orient="row")


def decided(manifest, path, decision):
    return manifest.with_columns(decision=pl.when(pl.col("path") == path).then(pl.lit(decision)).otherwise("decision"))


def test_a_row_for_each_finding_the_worst_first(scanned):
    manifest = manifest_of(scanned, [("notes.txt", "not a picture by its name (.txt)")])
    assert manifest.schema == pl.Schema(SCHEMA)
    assert manifest.select("path", "kind", "severity").rows() == [
        ("cut.png", "truncated", "quarantine"),
        ("other.jpg", "wrong extension", "warning"),
        ("notes.txt", "ignored", "ignored"),
    ]
    assert len(manifest_of([])) == 0


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_saved_and_read_it_is_the_same(scanned, tmp_path, name):
    manifest = decided(manifest_of(scanned), "other.jpg", "leave out")
    save_manifest(manifest, tmp_path / name)
    assert load_manifest(tmp_path / name).equals(manifest)


def test_undecided_it_changes_nothing(scanned):
    catalog = catalog_of(scanned)
    table, notes = obey(catalog, manifest_of(scanned))
    assert table.equals(catalog)
    assert notes == []


def test_what_is_to_be_left_out_is(scanned):
    table, notes = obey(catalog_of(scanned), decided(manifest_of(scanned), "other.jpg", "leave out"))
    assert dict(table.select("path", "state").iter_rows()) == {
        "good.png": "ok",
        "other.jpg": "quarantined",
        "cut.png": "quarantined",
    }
    assert table["reason"][1].startswith("left out by the manifest: is a PNG file")
    assert notes == []


def test_what_cannot_be_read_cannot_be_used_either(scanned):
    table, notes = obey(catalog_of(scanned), decided(manifest_of(scanned), "cut.png", "use"))
    assert table["state"][2] == "quarantined"
    assert "cut.png is to be used" in notes[0]


def test_a_readable_picture_in_quarantine_is_used_when_the_user_says_so(scanned):
    manifest = manifest_of(scanned[:1])
    row = ("good.png", scanned[0][1].hash, "outlier", "quarantine", "is far from all others", "")
    manifest = pl.concat([manifest, pl.DataFrame([row], schema=SCHEMA, orient="row")])
    catalog = catalog_of(scanned[:1])
    assert obey(catalog, manifest)[0]["state"].to_list() == ["quarantined"]
    assert obey(catalog, decided(manifest, "good.png", "use"))[0]["state"].to_list() == ["ok"]


def test_a_decision_is_about_a_content(scanned):
    manifest = decided(manifest_of(scanned), "other.jpg", "leave out").with_columns(hash=pl.lit("0" * 32))
    table, notes = obey(catalog_of(scanned), manifest)
    assert table["state"][1] == "ok"
    assert notes == ["other.jpg is another file than the one that was decided about in the manifest: look again"]


def test_decisions_about_what_is_gone_are_counted(scanned):
    manifest = decided(manifest_of(scanned), "other.jpg", "use")
    _, notes = obey(catalog_of(scanned[:1]), manifest)
    assert notes == ["1 pictures that were decided about in the manifest are not there"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,hash\na.jpg,1\n", "kind, severity, reason, decision is missing"),
        ("path,hash,kind,severity,reason,decision\na.jpg,1,x,bad,r,\n", "severity in .* got 'bad'"),
        ("path,hash,kind,severity,reason,decision\na.jpg,1,x,warning,r,leaveout\n", "got 'leaveout'.*leave out"),
    ],
)
def test_a_manifest_that_was_edited_wrongly_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path / "manifest.csv")


def test_what_is_no_manifest_is_refused(tmp_path, scanned):
    (tmp_path / "manifest.parquet").write_bytes(b"nothing")
    for name in ("manifest.parquet", "missing.csv", "manifest.txt"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_manifest(tmp_path / name)
    with pytest.raises(InputError, match="cannot be written"):
        save_manifest(manifest_of(scanned), tmp_path / "no" / "folder.csv")


def test_a_few_skipped_pictures_are_counted_and_more_than_that_stop_the_run():
    skipped = Skipped(500)
    assert not len(skipped)
    assert skipped.note() == ""
    for number in [0, 1, 2, 3, 4, 0, 1]:
        skipped.add(f"{number}.jpg", DataError(f"{number}.jpg: is empty (0 bytes)"))
    assert len(skipped) == 5
    assert "5 of 500 pictures" in skipped.note()
    assert "and 2 more" in skipped.note()
    with pytest.raises(DataError, match=r"6 of 500 .* more than 1% of them: see whether"):
        skipped.add("5.jpg", DataError("5.jpg: there is no such file"))


def test_one_picture_of_few_may_always_go_bad():
    skipped = Skipped(9)
    skipped.add("a.jpg", DataError("a.jpg: is empty"))
    with pytest.raises(DataError):
        skipped.add("b.jpg", DataError("b.jpg: is empty"))


def test_threads_count_together():
    skipped = Skipped(10_000)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: skipped.add(f"{number % 90}.jpg", DataError("x")), range(900)))
    assert len(skipped) == 90
    assert sorted(skipped.paths) == sorted(f"{number}.jpg" for number in range(90))


@pytest.mark.parametrize(("total", "most"), [(0, 0.1), (5, 2), (5, -1)])
def test_impossible_limits_are_refused(total, most):
    with pytest.raises(InputError):
        Skipped(total, most=most)
