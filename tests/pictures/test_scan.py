import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import polars as pl
import pytest
import xxhash
from picture_folders import fill, picture
from PIL import Image

from greffon.pictures import scan as module
from greffon.pictures.scan import read_picture, scan


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures that were written long ago."""
    root = fill(tmp_path / "data", {"cat": 20})
    for file in root.rglob("*.png"):
        age(file)
    return root


def age(file: Path, seconds: float = 1_000_000_000) -> None:
    os.utime(file, (seconds, seconds))


def listed(root: Path) -> list[tuple[str, Path]]:
    return [(file.relative_to(root).as_posix(), file) for file in sorted(root.rglob("*")) if file.is_file()]


@pytest.fixture
def later(monkeypatch):
    """The clock shows a minute more, so that a file that has just been made is not one that has just changed."""
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 60 * 10**9)


@pytest.fixture
def reads(monkeypatch):
    """Every file that is read."""
    files = []

    def counted(file):
        files.append(file)
        return read_picture(file)

    monkeypatch.setattr(module, "read_picture", counted)
    return files


def test_hash_size_and_length_of_a_picture(tmp_path):
    picture(1, (40, 30)).save(tmp_path / "a.jpg")
    found = read_picture(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    assert found == module.Scanned(xxhash.xxh3_128_hexdigest(content), len(content), 40, 30, facts=found.facts)


def test_the_size_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    found = read_picture(tmp_path / "a.jpg")
    assert (found.width, found.height) == (30, 40)


def test_a_long_file_is_hashed_in_pieces_to_the_same(tmp_path, monkeypatch):
    picture(1, (40, 30)).save(tmp_path / "a.png")
    whole = read_picture(tmp_path / "a.png")
    monkeypatch.setattr(module, "_WHOLE_BYTES", 10)
    assert read_picture(tmp_path / "a.png") == whole


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:-200]), "is cut short"),
        (lambda file: file.write_text("<html>404</html>"), "looks like an HTML page"),
        (lambda file: file.write_bytes(b"\x00" * 500), "begins with zeros"),
        (lambda file: file.unlink(), "cannot be read: there is no such file"),
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_what_cannot_be_read_has_a_reason_without_the_path(tmp_path, kind, make, reason):
    file = tmp_path / f"a.{kind}"
    picture(1, (60, 50)).save(file)
    make(file)
    found = read_picture(file)
    assert reason in found.reason
    assert str(tmp_path) not in found.reason
    assert "picture in memory" not in found.reason
    assert found.width is None
    assert bool(found.hash) == file.exists()


def test_pictures_in_an_archive_are_scanned_where_they_lie(tmp_path, folder, reads, later):
    """By the locators of its members; the second time none is read."""
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for _, file in listed(folder):
            archive.add(file, file.name)
        bad = tarfile.TarInfo("bad.png")
        bad.size = 3
        archive.addfile(bad, io.BytesIO(b"bad"))
    names = [file.name for _, file in listed(folder)] + ["bad.png", "missing.png"]
    members = [(name, f"{tmp_path / 'shard.tar'}::{name}") for name in names]
    found = scan(folder, members)
    plain = [read_picture(file) for _, file in listed(folder)]
    assert found[:-2] == plain
    assert [each.fault for each in found[-2:]] == ["not a picture", "missing"]
    reads.clear()
    assert scan(folder, members)[:-2] == plain
    assert len(reads) == 2


def test_an_address_is_scanned_by_what_it_holds(folder):
    fsspec = pytest.importorskip("fsspec")
    file = listed(folder)[0][1]
    fsspec.filesystem("memory").pipe("/scan/a.png", file.read_bytes())
    (found,) = scan(folder, [("a.png", "memory://scan/a.png")])
    assert found == read_picture(file)


def test_findings_are_remembered_too(tmp_path, reads, later):
    file = tmp_path / "data" / "a.jpg"
    file.parent.mkdir()
    Image.new("RGB", (300, 20), "red").save(file, "PNG")
    said = [{finding.kind for finding in scan(file.parent, listed(file.parent))[0].findings("a.jpg")} for _ in "12"]
    assert said == [{"wrong extension", "odd shape", "one colour"}] * 2
    assert len(reads) == 1


def test_results_are_in_the_order_of_the_files(folder):
    files = listed(folder)[::-1]
    assert [found.hash for found in scan(folder, files, workers=3)] == [
        xxhash.xxh3_128_hexdigest(file.read_bytes()) for _, file in files
    ]


def test_advance_counts_every_picture(folder):
    counted = []
    scan(folder, listed(folder), advance=counted.append)
    assert sum(counted) == 20
    counted.clear()
    scan(folder, listed(folder), advance=counted.append)
    assert sum(counted) == 20


def test_a_second_scan_reads_nothing(folder, reads, later):
    first = scan(folder, listed(folder))
    assert len(reads) == 20
    reads.clear()
    assert scan(folder, listed(folder)) == first
    assert reads == []


def test_a_changed_file_is_read_again(folder, reads, later):
    scan(folder, listed(folder))
    longer, same_length, moved = folder / "cat" / "1.png", folder / "cat" / "2.png", folder / "cat" / "3.png"
    picture(99).save(longer)
    before = same_length.stat()
    content = bytearray(same_length.read_bytes())
    content[-30] ^= 1  # inside of the pixels' checksum
    same_length.write_bytes(content)
    os.utime(same_length, ns=(before.st_atime_ns, before.st_mtime_ns))  # its length and date say nothing
    moved.rename(folder / "cat" / "new.png")
    reads.clear()

    found = dict(zip([path for path, _ in listed(folder)], scan(folder, listed(folder)), strict=True))

    changed = {longer, folder / "cat" / "new.png"} | ({same_length} if os.name == "posix" else set())
    assert set(reads) == changed
    assert found["cat/1.png"].hash == xxhash.xxh3_128_hexdigest(longer.read_bytes())
    if os.name == "posix":
        assert found["cat/2.png"].reason


def test_a_file_that_has_just_changed_is_not_remembered(folder, reads):
    """Within the grain of the clock it could change once more and look the same."""
    picture(99).save(folder / "cat" / "1.png")
    scan(folder, listed(folder))
    reads.clear()
    scan(folder, listed(folder))
    assert folder / "cat" / "1.png" in reads


def test_what_cannot_be_read_is_tried_again(folder, reads, later):
    bad = folder / "cat" / "1.png"
    bad.write_bytes(bad.read_bytes()[:-100])
    age(bad)
    for _ in range(2):
        reads.clear()
        scan(folder, listed(folder))
    assert reads == [bad]


def test_another_decoder_reads_everything_again(folder, reads, later, monkeypatch):
    scan(folder, listed(folder))
    monkeypatch.setattr(module, "DECODER_VERSION", "other")
    reads.clear()
    scan(folder, listed(folder))
    assert len(reads) == 20


def test_another_folder_with_the_same_names_is_read(folder, tmp_path, reads, later):
    scan(folder, listed(folder))
    shutil.copytree(folder, tmp_path / "copy")
    reads.clear()
    scan(tmp_path / "copy", listed(tmp_path / "copy"))
    assert len(reads) == 20


def test_an_interrupted_scan_goes_on_where_it_was(tmp_path, monkeypatch, later):
    root = fill(tmp_path / "data", {"cat": 100})
    seen = []

    def interrupted(count):
        seen.append(count)
        if sum(seen) >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(root, listed(root), workers=1, advance=interrupted)
    files = []
    monkeypatch.setattr(module, "read_picture", lambda file: files.append(file) or read_picture(file))
    scan(root, listed(root))
    assert 0 < len(files) <= 68


def test_files_that_are_gone_are_forgotten(folder, cache_folder, later):
    scan(folder, listed(folder))
    (folder / "cat" / "1.png").unlink()
    scan(folder, listed(folder))
    (memory,) = (cache_folder / "scan").glob("*.parquet")
    assert len(pl.read_parquet(memory)) == 19


@pytest.mark.parametrize("content", [b"", b"no parquet", None])
def test_a_damaged_memory_is_as_none(folder, cache_folder, reads, later, content):
    scan(folder, listed(folder))
    (memory,) = (cache_folder / "scan").glob("*.parquet")
    if content is None:
        pl.DataFrame({"path": ["cat/1.png"], "other": [1]}).write_parquet(memory)
    else:
        memory.write_bytes(content)
    reads.clear()
    assert all(not found.reason for found in scan(folder, listed(folder)))
    assert len(reads) == 20
    reads.clear()
    scan(folder, listed(folder))
    assert reads == []


def test_a_cache_folder_that_cannot_be_written_only_costs_time(folder, cache_folder, reads, later):
    (cache_folder / "scan").write_text("in the way")
    for _ in range(2):
        assert len(scan(folder, listed(folder))) == 20
    assert len(reads) == 40


def test_a_scan_that_was_asked_to_reads_everything(folder, reads, later, monkeypatch):
    scan(folder, listed(folder))
    for value, count in (("1", 20), ("0", 0), ("", 0)):
        monkeypatch.setenv(module.RESCAN, value)
        reads.clear()
        scan(folder, listed(folder))
        assert len(reads) == count


def test_a_scan_that_was_asked_to_forgets_what_was_wrong(folder, cache_folder, reads, later, monkeypatch):
    scan(folder, listed(folder))
    (memory,) = (cache_folder / "scan").glob("*.parquet")
    right = pl.read_parquet(memory)
    right.with_columns(pl.lit("0" * 32).alias("hash")).write_parquet(memory)
    assert {found.hash for found in scan(folder, listed(folder))} == {"0" * 32}  # trusted, as it must be
    monkeypatch.setenv(module.RESCAN, "1")
    scan(folder, listed(folder))
    monkeypatch.delenv(module.RESCAN)
    assert [found.hash for found in scan(folder, listed(folder))] == right["hash"].to_list()


def test_a_memory_that_was_moved_with_its_cache_folder_is_used(
    folder, cache_folder, tmp_path, reads, later, monkeypatch
):
    first = scan(folder, listed(folder))
    shutil.move(cache_folder, tmp_path / "elsewhere")
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "elsewhere"))
    reads.clear()
    assert scan(folder, listed(folder)) == first
    assert reads == []


def test_pictures_that_were_moved_are_read_again(folder, tmp_path, reads, later):
    first = scan(folder, listed(folder))
    folder.rename(tmp_path / "moved")
    reads.clear()
    assert scan(tmp_path / "moved", listed(tmp_path / "moved")) == first
    assert len(reads) == 20


def test_another_file_put_in_place_of_one_is_read(folder, reads, later):
    """By a rename, with the length and the date of the one that was there."""
    old, new = folder / "cat" / "1.png", folder / "cat" / "2.png"
    scan(folder, listed(folder))
    new.write_bytes(new.read_bytes().ljust(old.stat().st_size, b"\0")[: old.stat().st_size])
    age(new)
    new.replace(old)
    reads.clear()
    scan(folder, listed(folder))
    assert reads == ([old] if os.name == "posix" else reads)
