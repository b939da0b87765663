"""Training on more than class folders: tables, several labels, a split or decisions of before, files that go bad."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import greffon
from greffon.errors import DataError, InputError
from greffon.pictures.quarantine import SCHEMA, save_manifest
from greffon.training import samples as samples_module
from greffon.training.progress import Reporter

pytestmark = pytest.mark.usefixtures("short_trainings")

RECIPE = greffon.Recipe(
    weights="thin", image_size=32, near_copies="ignore", stages=(greffon.Stage(epochs=1, batch_size=8),)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of twenty pictures of noise."""
    place = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (place / name).mkdir()
        for number in range(20):
            pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number:02}.png")
    return place


def _train(data, out, recipe=RECIPE, **options):
    return greffon.train(data, out=out, recipe=recipe, reporter=Reporter(), **options)


def test_a_table_with_several_labels_and_groups(folder, tmp_path):
    rows = [(f"{name}/{number:02}.png", name, number) for name in ("cat", "dog") for number in range(20)]
    table = pl.DataFrame(
        {
            "file": [path for path, *_ in rows],
            "tags": ["|".join([name] + ["young"] * (number % 2)) for _, name, number in rows],
            "animal": [f"{name} {number // 4}" for _, name, number in rows],
        }
    )
    table.write_csv(folder / "labels.csv")
    from greffon.pictures.sources.columns import Columns

    columns = Columns(path="file", label="tags", group="animal", separator="|")
    run = _train(folder / "labels.csv", tmp_path / "run", columns=columns)
    assert run.summary["classes"] == ["cat", "dog", "young"]
    assert any("several labels" in note for note in run.summary["notes"])
    assert run.load().bundle.several_labels
    split = pl.read_parquet(run.path / "split.parquet").select("path", "split")
    sides = split.join(table.rename({"file": "path"}), on="path").group_by("animal").agg(pl.col("split").n_unique())
    assert set(sides["split"]) == {1}
    found = greffon.evaluate(run.path, folder / "labels.csv", columns=columns)
    assert len(found.table) == 40


def test_arrays(tmp_path):
    random = np.random.default_rng(1)
    pictures = random.integers(0, 255, (24, 20, 20, 3), dtype=np.uint8)
    run = _train((pictures, np.arange(24) % 2), tmp_path / "run")
    assert run.summary["pictures"] == {"train": 20, "val": 4, "test": 0}


def test_a_split_that_was_written_is_taken_again(folder, tmp_path):
    first = _train(folder, tmp_path / "first", RECIPE.replace(seed=5))
    again = _train(folder, tmp_path / "again", split=first.path / "split.parquet")
    sides = [pl.read_parquet(run.path / "split.parquet").sort("path").select("path", "split") for run in (first, again)]
    assert sides[0].equals(sides[1])
    other = tmp_path / "other"
    for name in ("cat", "dog"):
        (other / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (number, 9, len(name) * ord(name[0]))).save(other / name / f"{number}.png")
    with pytest.raises(DataError, match="not the pictures of the written split: 6 pictures are new"):
        _train(other, tmp_path / "no", split=first.path / "split.parquet")


def test_decisions_are_obeyed(folder, tmp_path):
    from greffon.pictures.catalog import Catalog

    row = Catalog.from_folder(folder).ok.row(3, named=True)
    decided = [(row["path"], row["hash"], "label", "warning", "looks like a dog", "leave out")]
    save_manifest(pl.DataFrame(decided, schema=SCHEMA, orient="row"), tmp_path / "manifest.csv")
    run = _train(folder, tmp_path / "run", manifest=tmp_path / "manifest.csv")
    assert sum(run.summary["pictures"].values()) == 39
    assert row["path"] not in pl.read_parquet(run.path / "split.parquet")["path"].to_list()
    assert any("looks like a dog" in note for note in run.summary["notes"])


def test_a_copy_that_was_decided_about_is_not_spoken_of(folder, tmp_path):
    from greffon.pictures.catalog import Catalog

    data = tmp_path / "data"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        for picture in sorted((folder / name).glob("*.png"))[:6]:
            (data / name / picture.name).symlink_to(picture)
    (data / "dog" / "copy.png").symlink_to(folder / "cat" / "00.png")
    content = Catalog.from_folder(data).ok.filter(pl.col("path") == "dog/copy.png")["hash"][0]
    decided = [("dog/copy.png", content, "copy", "warning", "is a cat", "leave out")]
    save_manifest(pl.DataFrame(decided, schema=SCHEMA, orient="row"), tmp_path / "manifest.csv")
    said = [
        _train(data, tmp_path / str(number), manifest=it).summary["notes"]
        for number, it in enumerate((None, tmp_path / "manifest.csv"))
    ]
    assert any("exact copies" in note for note in said[0])
    assert not any("exact copies" in note or "more than one label" in note for note in said[1])


@pytest.fixture
def going_bad(monkeypatch):
    """Pictures that cannot be decoded any more once they were scanned."""
    from greffon.pictures import views

    bad = set()
    decode = views.decode_views_many

    def some_fail(requests, *rest, **options):
        for request, pictures in zip(requests, decode(requests, *rest, **options), strict=True):
            yield DataError(f"{request.source}: is gone") if request.source.name in bad else pictures

    monkeypatch.setattr(views, "decode_views_many", some_fail)
    assert samples_module.GoneBadError
    return bad


@pytest.mark.parametrize("near", ["ignore", "together"])
def test_a_picture_that_goes_bad_is_skipped_and_counted(folder, tmp_path, going_bad, near):
    going_bad.add("07.png")
    (folder / "dog" / "07.png").rename(folder / "dog" / "seven.png")
    try:
        run = _train(folder, tmp_path / "run", RECIPE.replace(near_copies=near, seed=9))
    finally:
        (folder / "dog" / "seven.png").rename(folder / "dog" / "07.png")
    assert sum(run.summary["pictures"].values()) == 39
    notes = json.loads((run.path / "run.json").read_text())["notes"]
    assert [note for note in notes if "1 of 40 pictures could be read at the start and cannot any more" in note]
    assert "cat/07.png" not in pl.read_parquet(run.path / "split.parquet")["path"].to_list()


def test_many_that_go_bad_stop_the_run(folder, tmp_path, going_bad):
    going_bad.add("07.png")  # of both classes
    with pytest.raises(DataError, match="more than 1% of them: see whether the disk"):
        _train(folder, tmp_path / "run", RECIPE.replace(seed=10))
    assert not (tmp_path / "run").exists()


def test_a_wide_picture_under_crop_is_spoken_of(folder, tmp_path):
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        for picture in sorted((folder / name).glob("*.png"))[:6]:
            (data / name / picture.name).symlink_to(picture)
    Image.effect_noise((400, 100), 60).save(data / "dog" / "wide.png")
    said = [_train(data, tmp_path / rule, RECIPE.replace(resize=rule)).summary["notes"] for rule in ("crop", "pad")]
    assert any("crop loses more than half, most of dog/wide.png (75 %)" in note for note in said[0])
    assert not any("crop loses" in note for note in said[1])


@pytest.mark.parametrize("option", ["split", "manifest"])
def test_a_wrong_path_is_found_out_before_the_pictures_are_read(tmp_path, option):
    class Reads(Reporter):
        def bar(self, name, *, total, unit="pictures"):
            raise AssertionError(f"{name} began")

    recipe = greffon.Recipe(weights="none", image_size=32)
    with pytest.raises(InputError, match=r"nowhere\.parquet"):
        greffon.train(
            tmp_path, out=tmp_path / "run", recipe=recipe, reporter=Reads(), **{option: tmp_path / "nowhere.parquet"}
        )
    assert list(tmp_path.iterdir()) == []
