"""Tar shards: the WebDataset convention, patterns, hostile and damaged archives; and locators of members."""

from __future__ import annotations

import io
import json
import random
import tarfile

import pytest
from picture_folders import picture

from greffon.errors import DataError, InputError
from greffon.pictures.sources.choose import catalog_of
from greffon.pictures.sources.columns import Columns
from greffon.pictures.sources.locate import is_local, member_of, missing, read_bytes, stamp
from greffon.pictures.sources.tars import members
from greffon.pictures.sources.web_dataset import expanded


def png(number):
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def shard(file, contents):
    with tarfile.open(file, "w") as tar:
        for name, content in contents:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def samples(first, count, names=("cat", "dog")):
    return [
        part
        for i in range(first, first + count)
        for part in ((f"{i:04}.png", png(i)), (f"{i:04}.cls", names[i % 2].encode()))
    ]


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        shard(tmp_path / f"shard-{number:03}.tar", samples(10 * number, 4))
    return tmp_path


@pytest.mark.parametrize("pattern", ["shard-{000..002}.tar", "shard-*.tar", "shard-00{0,1,2}.tar", ""])
def test_shards_by_pattern_or_folder(shards, pattern):
    catalog = catalog_of(f"{shards}/{pattern}" if pattern else shards)
    assert catalog.counts() == {"cat": 6, "dog": 6}
    assert catalog.ok["path"][1] == f"{shards.as_posix()}/shard-000.tar::0001.png"
    assert [read_bytes(place) for place in catalog.locators(catalog.ok)[4:6]] == [png(10), png(11)]
    assert catalog.ok["width"].unique().to_list() == [12]
    assert {file.name for file in shards.iterdir()} == {f"shard-00{i}.tar" for i in range(3)}  # nothing is unpacked


def test_one_shard_and_shards_that_are_not_there(shards):
    assert len(catalog_of(shards / "shard-001.tar").ok) == 4
    with pytest.raises(InputError, match=r"2 of 5 files of .* are not there: .*shard-003.tar, .*shard-004.tar"):
        catalog_of(f"{shards}/shard-{{000..004}}.tar")
    with pytest.raises(InputError, match="no file is called like"):
        catalog_of(f"{shards}/x-*.tar")
    with pytest.raises(InputError, match="there is no such file"):
        catalog_of(shards / "absent.tar")


def test_sides_by_the_names_of_shards(tmp_path):
    shard(tmp_path / "birds-train-0.tar", samples(0, 4))
    shard(tmp_path / "birds-val-0.tar", samples(10, 2))
    catalog = catalog_of(tmp_path)
    assert catalog.counts("train") == {"cat": 2, "dog": 2}
    assert catalog.counts("val") == {"cat": 1, "dog": 1}


def test_labels_in_json_and_txt(tmp_path):
    told = [{"label": "cat"}, {"labels": ["cat", "dog"]}, {"x": 1}, {"cls": 7}]
    contents = [
        part for i, t in enumerate(told) for part in ((f"{i}.png", png(i)), (f"{i}.json", json.dumps(t).encode()))
    ]
    catalog = catalog_of(shard(tmp_path / "a.tar", contents))
    assert catalog.labels_of(catalog.ok) == [["cat"], ["cat", "dog"], [], ["7"]]
    texts = [("a/1.left.png", png(1)), ("a/1.txt", b"wolf\n"), ("b/1.PNG", png(2)), ("b/1.txt", b"hare")]
    with pytest.raises(DataError, match="holds no pictures"):
        catalog_of(shard(tmp_path / "b.tar", texts[:2]))  # left.png is the extension of the key a/1
    texts[0] = ("a/1.png", png(1))
    assert catalog_of(shard(tmp_path / "b.tar", texts)).class_names == ("hare", "wolf")
    fields = [
        part
        for i in range(2)
        for part in (
            (f"{i}.png", png(i)),
            (f"{i}.cls", b"0"),
            (f"{i}.json", json.dumps({"kind": "ab"[i], "label": 1}).encode()),
        )
    ]
    named = catalog_of(shard(tmp_path / "c.tar", fields), columns=Columns(label="kind"))
    assert named.class_names == ("a", "b")
    fields[2] = ("0.json", b"{")
    with pytest.raises(DataError, match=r"c.tar::0.json is no JSON"):
        catalog_of(shard(tmp_path / "c.tar", fields), columns=Columns(label="kind"))


def test_numbers_are_named_by_class_names_and_missing_labels_are_told(tmp_path):
    contents = [*samples(0, 4, names=("0", "1")), ("9.png", png(9)), ("8.png", b"broken"), ("8.cls", b"0")]
    catalog = catalog_of(shard(tmp_path / "a.tar", contents), class_names=["cat", "dog"])
    assert catalog.counts() == {"cat": 2, "dog": 2}
    assert catalog.ignored["reason"].to_list() == ["has no label"]
    assert catalog.quarantined["reason"][0].startswith("is not a picture")


def test_names_that_lead_elsewhere_are_only_names(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    contents = [("../../evil.png", png(0)), ("../../evil.cls", b"a"), ("/etc/x.png", png(1)), ("/etc/x.cls", b"b")]
    file = shard(folder / "a.tar", contents)
    with tarfile.open(file, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    catalog = catalog_of(file)
    assert catalog.ok["label"].to_list() == ["a", "b"]
    assert [read_bytes(place) for place in catalog.locators(catalog.ok)] == [png(0), png(1)]
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.tar"]
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{file}::link.png")


def test_a_second_picture_of_a_key_is_ignored(tmp_path):
    catalog = catalog_of(shard(tmp_path / "a.tar", [*samples(0, 2), ("0000.jpg", b"x")]))
    assert catalog.ignored.select("path", "reason").rows() == [
        (f"{tmp_path.as_posix()}/a.tar::0000.jpg", "a second picture of its key")
    ]


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_packed_archives_say_so(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", f"w:{mode}") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    with pytest.raises(DataError, match=r"a.tar is packed with .*zip2?:|packed with xz:"):
        catalog_of(tmp_path / "a.tar")
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(InputError, match=r"got .gz: unpack"):
        catalog_of(tmp_path / "a.tar.gz")


def test_a_damaged_archive_gives_what_is_before_the_damage_and_says_so(tmp_path):
    file = shard(tmp_path / "a.tar", samples(0, 8))
    content = bytearray(file.read_bytes())
    at = list(members(file))[10].offset - 512
    content[at + 148 : at + 156] = b"garbage!"  # the checksum of a header
    file.write_bytes(content)
    catalog = catalog_of(file)
    assert len(catalog.ok) == 5
    assert "5 pictures before the damage are used" in catalog.notes[0]
    file.write_bytes(content[: list(members_before(file))[4].offset + 20])
    cut = catalog_of(file).frame  # the picture that the end cuts has no label after it
    assert cut["state"].to_list() == ["ok", "ok", "ignored"]
    for junk in (b"", b"junk" * 300):
        file.write_bytes(junk)
        with pytest.raises(DataError, match="no tar archive"):
            catalog_of(file)


def members_before(file):
    try:
        yield from members(file)
    except DataError:
        return


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.large)])
def test_damaged_archives_end_in_a_data_error(tmp_path, count):
    data = shard(tmp_path / "a.tar", [*samples(0, 2), ("z" * 150 + ".png", png(3))]).read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(count):
        content = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            content[draw.choice((draw.randrange(len(content)), draw.randrange(512)))] = draw.randrange(256)
        content = content[: draw.randrange(len(content))] if draw.random() < 0.3 else content
        (tmp_path / "b.tar").write_bytes(content)
        try:
            assert all(member.problem or member.offset + member.size <= len(content) for member in
                       members(tmp_path / "b.tar"))  # fmt: skip
        except DataError:
            refused += 1
    assert 0 < refused < count


def test_a_size_below_zero_does_not_go_round_for_ever(tmp_path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (2**16 - 512).to_bytes(2, "big")  # -512 in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(tarfile.TarInfo("first").tobuf() + bytes(header) + bytes(1024))
    with pytest.raises(DataError, match=r"a.tar is no tar archive, or a damaged one"):
        list(members(tmp_path / "a.tar"))


def test_an_archive_that_changes_is_looked_through_again(tmp_path):
    file = shard(tmp_path / "a.tar", samples(0, 2))
    before = stamp(f"{file}::0001.png")
    assert read_bytes(f"{file}::0001.png") == png(1)
    shard(file, [("other.png", png(5)), *samples(0, 2)])
    assert read_bytes(f"{file}::0001.png") == png(1)
    assert stamp(f"{file}::0001.png") != before
    assert stamp(f"{file}::absent.png") is None
    assert stamp(f"{tmp_path}/absent.tar::1.png") is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("{0..3", None), ("{3..1}.tar", "must rise"), ("{x}.tar", "range"), ("{0..9}" * 6, "1,000,000 files")],
)
def test_braces_that_mean_nothing(pattern, message):
    if message is None:
        assert expanded(pattern) == [pattern]
    else:
        with pytest.raises(InputError, match=message):
            expanded(pattern)


def test_locators(tmp_path):
    assert [is_local(text) for text in ("a.jpg", "C:\\a.jpg", "a::b.jpg", "a.tar", "s3://a", "A.TAR::x")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
    assert is_local(tmp_path / "a.tar::b.jpg")
    assert member_of("s3://b/a.tar::c/d.jpg") == ("s3://b/a.tar", "c/d.jpg")
    assert member_of("a.jpg") is None
    (tmp_path / "a.png").write_bytes(b"x")
    assert read_bytes(f"file://{tmp_path}/a.png") == b"x"
    assert stamp(tmp_path / "a.png")[0] == 1
    assert stamp(tmp_path) is stamp("absent.png") is None
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(tmp_path)
    places = [tmp_path / "a.png", str(tmp_path / "b.png"), f"{tmp_path}/c.tar::1.png", "s3://bucket/a.png"]
    assert missing(places) == places[1:3]
