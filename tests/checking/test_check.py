"""A check of a folder with one fault of each kind, its manifest, its page, and what decisions change."""

import json
import re
import sys
from html.parser import HTMLParser

import polars as pl
import pytest
from PIL import Image
from rendered import rendered

from greffon.checking.check import check
from greffon.checking.findings import Finding, manifest_rows, ordered, with_accepted, with_decisions
from greffon.errors import DataError, InputError
from greffon.pictures.quarantine import SCHEMA, load_manifest, obey
from greffon.training.progress import Reporter


def plain(data, **options):
    return check(data, weights="none", reporter=Reporter(), **options)


def paths_of(found, kind):
    return {each.paths for each in found.of_kind(kind)}


# --- the check as a whole --------------------------------------------------------------------------------------------


def test_every_planted_fault_is_found(checked):
    found = checked.found
    assert paths_of(found, "exact copies across the split") == {("train/red/00.png", "val/red/copy.png")}
    conflict = paths_of(found, "exact copies under different labels")
    assert conflict == {("train/green/conflict.png", "train/red/01.png")}
    assert paths_of(found, "near-copies across the split") == {("train/red/02.png", "val/red/mirrored.png")}
    assert ("train/green/wrong.png",) in paths_of(found, "likely label errors")
    assert paths_of(found, "unreadable: empty") == {("train/red/empty.jpg",)}
    assert paths_of(found, "ignored files") == {("train/red/notes.txt",)}
    assert not found.ok


def test_classes_of_different_colours_are_a_shortcut(checked):
    [one] = checked.found.of_kind("shortcut")
    assert "mean colour" in one.sentence


def test_wrong_comes_first_and_ignored_files_last(checked):
    severities = [each.severity for each in checked.found.findings]
    assert severities == sorted(severities, key=("wrong", "look", "note").index)


def test_every_finding_about_pictures_is_in_the_manifest(checked):
    found = checked.found
    rows = set(found.manifest.select("path", "kind").iter_rows())
    assert rows == {(path, each.kind) for each in found.findings for path in each.paths}
    assert dict(found.manifest.schema) == SCHEMA
    severity = dict(found.manifest.select("kind", "severity").iter_rows())
    assert severity["unreadable: empty"] == "quarantine"
    assert severity["ignored files"] == "ignored"
    assert severity["likely label errors"] == "warning"
    hashes = dict(found.catalog.frame.select("path", "hash").iter_rows())
    assert all(hashes[path] == content for path, content in found.manifest.select("path", "hash").iter_rows())


def test_what_was_written(checked):
    assert sorted(file.name for file in checked.out.iterdir()) == ["check.html", "manifest.csv", "preview.png"]
    assert load_manifest(checked.out / "manifest.csv").equals(checked.found.manifest)
    with Image.open(checked.out / "preview.png") as sheet:
        assert sheet.size[0] > 200


def test_as_plain_values(checked):
    values = json.loads(json.dumps(checked.found.to_dict()))
    assert values["ok"] is False
    assert values["counts"]["unreadable: empty"] == 1
    assert values["pictures"] == len(checked.found.catalog.ok)
    assert set(values["files"]) == {"page", "manifest", "preview"}
    assert sum(values["counts"].values()) == len(values["findings"])


def test_as_text(checked):
    text = str(checked.found)
    assert "wrong  exact copies across the split  1  train/red/00.png = val/red/copy.png" in text
    assert f"{len(checked.found.catalog.ok)} pictures of 2 classes" in text


def test_a_second_check_computes_nothing_anew(checked, built, faulty, monkeypatch):
    monkeypatch.setenv("GREFFON_CACHE", str(checked.cache))
    monkeypatch.setattr("greffon.frozen.trunk.build_engine", None)
    again = check(faulty, weights="thin", image_size=64, reporter=Reporter())
    assert again.findings == checked.found.findings


def test_a_training_obeys_what_was_decided(checked, faulty):
    manifest = checked.found.manifest.with_columns(
        decision=pl.when(pl.col("path") == "val/red/copy.png").then(pl.lit("leave out")).otherwise(pl.lit(""))
    )
    frame, notes = obey(checked.found.catalog.frame, manifest)
    states = dict(frame.select("path", "state").iter_rows())
    assert states["val/red/copy.png"] == "quarantined"
    assert states["train/red/00.png"] == "ok"
    assert notes == []


def test_decisions_are_obeyed_and_kept(faulty, tmp_path, monkeypatch):
    monkeypatch.setattr("greffon.checking.report.contact_sheet", lambda *_, **__: None)  # which takes most of the time
    first = plain(faulty, out=tmp_path)
    wrong = {each.kind for each in first.open("wrong")}
    assert {"exact copies across the split", "exact copies under different labels", "unreadable: empty"} == wrong
    decisions = {
        "val/red/copy.png": "leave out", "train/green/conflict.png": "leave out", "train/red/empty.jpg": "leave out",
    }  # fmt: skip
    decide(tmp_path / "manifest.csv", decisions)
    for _ in range(2):  # the second time from what the first one wrote
        again = plain(faulty, out=tmp_path)
        assert again.ok
        assert "val/red/copy.png" not in again.catalog.ok["path"]
        assert any("2 pictures are left out" in note for note in again.notes)
        kept = load_manifest(tmp_path / "manifest.csv").filter(pl.col("decision") == "leave out")
        assert set(kept["path"]) == set(decisions)


def test_what_is_to_be_used_is_not_told_as_wrong(faulty, tmp_path):
    file = tmp_path / "manifest.csv"
    plain(faulty).save_manifest(file)
    decide(file, dict.fromkeys(load_manifest(file)["path"], "use"))
    again = plain(faulty, manifest=file)
    [copies] = again.of_kind("exact copies across the split")
    assert copies.accepted
    # What cannot be read cannot be used, whatever was decided.
    assert [each.kind for each in again.open("wrong")] == ["unreadable: empty"]


def decide(file, decisions):
    rows = load_manifest(file)
    said = pl.col("path").replace_strict(decisions, default="", return_dtype=pl.String)
    rows.with_columns(decision=said).write_csv(file)


def test_nothing_left_is_refused(faulty, tmp_path):
    found = plain(faulty)
    paths = found.catalog.ok.select("path", "hash")
    everything = paths.with_columns(
        kind=pl.lit("mine"), severity=pl.lit("warning"), reason=pl.lit(""), decision=pl.lit("leave out")
    )
    everything.write_csv(tmp_path / "all.csv")
    with pytest.raises(DataError, match="no picture is left"):
        plain(faulty, manifest=tmp_path / "all.csv")


def test_a_saved_catalog_is_looked_at_again(faulty, tmp_path):
    catalog = plain(faulty).catalog
    catalog.save(tmp_path / "catalog.parquet")
    from greffon.pictures.catalog import Catalog

    loaded = Catalog.load(tmp_path / "catalog.parquet", root=faulty)
    found = plain(loaded)
    assert {each.kind for each in found.open("wrong")} >= {"exact copies across the split"}
    assert found.of_kind("shortcut")


def test_a_class_without_a_readable_picture_is_told_not_refused(tmp_path):
    for number in range(3):
        (tmp_path / "good").mkdir(exist_ok=True)
        rendered(number).save(tmp_path / "good" / f"{number}.png")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_bytes(b"not a picture at all")
    found = plain(tmp_path)
    assert {each.kind for each in found.open("wrong")} >= {"classes without pictures"}
    assert any(each.kind.startswith("unreadable") for each in found.findings)


def test_a_picture_that_goes_bad_meanwhile_is_quarantined(checked, built, faulty, monkeypatch):
    from greffon.pictures.faults import PictureError
    from greffon.training import near_copies
    from greffon.training.samples import GoneBadError

    monkeypatch.setenv("GREFFON_CACHE", str(checked.cache))
    real, asked = near_copies.near_pairs, []

    def near_pairs(catalog, frame, values, store):
        asked.append(len(values))
        if len(asked) == 1:
            content = catalog.ok.filter(pl.col("path") == "train/red/05.png")["hash"][0]
            raise GoneBadError({content: PictureError("05.png: is gone", "missing")})
        return real(catalog, frame, values, store)

    monkeypatch.setattr(near_copies, "near_pairs", near_pairs)
    found = check(faulty, weights="thin", image_size=64, reporter=Reporter())
    assert asked == [len(checked.found.catalog.ok), len(checked.found.catalog.ok) - 1]
    assert any(each.paths == ("train/red/05.png",) and each.severity == "wrong" for each in found.findings)


def test_tables_with_several_labels(checked, built, faulty, monkeypatch):
    monkeypatch.setenv("GREFFON_CACHE", str(checked.cache))
    rows = [
        {"path": str(faulty / f"train/{label}/{number:02}.png"), "label": f"{label};any" if number % 3 else label}
        for label in ("red", "green")
        for number in range(16)
    ]
    rows[7]["label"] = "green;any"  # a red picture without near-copies
    from greffon.pictures.sources.columns import Columns

    found = check(
        pl.DataFrame(rows), columns=Columns(separator=";"), weights="thin", image_size=64, reporter=Reporter()
    )
    assert found.catalog.several_labels
    assert not found.of_kind("shortcut")
    assert any("several labels" in note for note in found.notes)
    errors = {each.paths[0]: each.sentence for each in found.of_kind("likely label errors")}
    [wrong] = [sentence for path, sentence in errors.items() if path.endswith("red/07.png")]
    assert "red is missing" in wrong
    assert "green is doubtful" in wrong


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 16}, "32 to 1024"),
        ({"image_size": "64"}, "whole number"),
        ({"resize": "squash"}, "resize rule"),
        ({"weights": "imagenett"}, "did you mean"),
        ({"manifest": "nowhere.csv"}, "cannot be read"),
    ],
)
def test_wrong_options_are_refused_before_a_picture_is_read(options, said):
    with pytest.raises(InputError, match=said):
        check("nowhere", **({"weights": "none"} | options), reporter=Reporter())


@pytest.mark.parametrize(
    ("package", "options"), [("cleanlab", {"weights": "thin"}), ("jinja2", {"weights": "none", "out": "x"})]
)
def test_missing_packages_are_told_before_a_picture_is_read(monkeypatch, package, options):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=re.escape('pip install "greffon[check]"')):
        check("nowhere", **options, reporter=Reporter())


# --- findings and their manifest -------------------------------------------------------------------------------------


def test_findings_are_ordered_by_severity_then_kind_then_score():
    findings = [Finding("b", "look", "", score=1), Finding("a", "look", "", score=9), Finding("b", "look", "", score=2),
                Finding("c", "note", ""), Finding("d", "wrong", "")]  # fmt: skip
    assert [(each.kind, each.score) for each in ordered(findings)] == [
        ("d", 0), ("b", 2), ("b", 1), ("a", 9), ("c", 0)
    ]  # fmt: skip


def test_reasons_name_the_others():
    one = Finding("copies", "look", "many", tuple("abcde"), each="is a copy of")
    assert one.reason("a") == "is a copy of b, c, d and 1 more"
    assert Finding("odd", "look", "is odd", ("a",)).reason("a") == "is odd"


def test_decisions_hold_for_the_same_content_and_kind():
    findings = [Finding("k", "look", "is odd", ("a",)), Finding("l", "wrong", "is bad", ("a", "b"))]
    new = manifest_rows(findings, {"a": "1", "b": "2"})
    earlier = pl.DataFrame(
        [("a", "1", "k", "warning", "is odd", "use"), ("b", "9", "l", "warning", "is bad", "leave out")],
        schema=SCHEMA, orient="row",
    )  # fmt: skip
    merged = with_decisions(new, earlier)
    assert merged.filter(pl.col("kind") == "k")["decision"].to_list() == ["use"]
    assert merged.filter((pl.col("path") == "b") & (pl.col("hash") == "2"))["decision"].to_list() == [""]
    assert merged.filter(pl.col("hash") == "9")["decision"].to_list() == ["leave out"]
    assert [each.accepted for each in with_accepted(findings, merged)] == [True, False]


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self._in_script = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in_script = dict(attributes) if tag == "script" else None

    def handle_data(self, data):
        if self._in_script is not None:
            self.scripts.append((self._in_script, data))
            self._in_script = None


def test_the_page_holds_everything_and_asks_for_nothing(checked):
    page = Page((checked.out / "check.html").read_text(encoding="utf-8"))
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert images
    assert all(source.startswith("data:image/jpeg;base64,") for source in images)
    assert not [tag for tag, _ in page.tags if tag in {"link", "iframe", "object", "form"}]
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"href", "src"}]
    assert all(value.startswith(("data:", "#")) for value in addresses)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_only_the_pages_own_script_may_run(checked):
    import base64
    import hashlib

    page = Page((checked.out / "check.html").read_text(encoding="utf-8"))
    [policy] = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    [script] = [text for attributes, text in page.scripts if not attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_page_gives_back_the_manifest(checked):
    page = Page((checked.out / "check.html").read_text(encoding="utf-8"))
    [data] = [json.loads(text) for attributes, text in page.scripts if attributes.get("id") == "manifest"]
    assert data["columns"] == list(SCHEMA)
    assert [tuple(row) for row in data["rows"]] == checked.found.manifest.rows()
    places = [int(attributes["data-row"]) for _, attributes in page.tags if "data-row" in attributes]
    assert places
    assert all(0 <= place < len(data["rows"]) for place in places)


HOSTILE = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>{{7*7}}&amp;.png'


def test_hostile_names_stay_text(tmp_path):
    name = HOSTILE.replace("/", "\N{DIVISION SLASH}")
    for label in ("a<b>", "{{c}}"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(4):
            rendered(len(label) * 10 + number).save(tmp_path / "in" / label / f"{number}.png")
        rendered(7).save(tmp_path / "in" / label / name)
    found = plain(tmp_path / "in", out=tmp_path / "out")
    assert found.of_kind("exact copies under different labels")
    text = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 2
    assert "{{7*7}}" in text
    assert "<b>" not in [tag for tag, _ in page.tags if tag == "b<b"]
    [data] = [json.loads(content) for attributes, content in page.scripts if attributes.get("id") == "manifest"]
    assert any(row[0].endswith(name) for row in data["rows"])


def test_the_page_has_a_limit(tmp_path, monkeypatch):
    from greffon.checking import page

    monkeypatch.setattr(page, "MOST_PICTURES", 3)
    monkeypatch.setattr(page, "MOST_OF_A_KIND", 2)
    for label in ("a", "b"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (40, 40), (10 * number, 5, 5)).save(tmp_path / "in" / label / f"{label}{number}.png")
    found = plain(tmp_path / "in", out=tmp_path / "out")
    text = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
    assert len([tag for tag, _ in Page(text).tags if tag == "img"]) <= 2 * 3
    assert len(found.of_kind("one colour")) == 10
    assert "and 8 more, in the manifest" in text


def test_a_page_that_cannot_be_written(checked, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        checked.found.save_page(tmp_path / "nowhere" / "check.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        checked.found.save(tmp_path / "file")
