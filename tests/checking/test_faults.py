"""Planted faults, and what is found of them: on rendered pictures always, on photographs where they are."""

import io
import sys
from pathlib import Path

import pytest
from rendered import rendered

from greffon.training.progress import Reporter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import faults

    yield faults
    sys.modules.pop("faults", None)


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pictures(count=30):
    return {
        f"{name}-{number:02}": (png(rendered(1000 * hue + number, hue)), name, ".png")
        for hue, name in enumerate(("red", "green", "blue"))
        for number in range(count)
    }


def test_the_same_seed_plants_the_same(faults, tmp_path):
    given = pictures(8)
    folders = [tmp_path / name for name in ("one", "two", "three")]
    planted = [faults.plant(given, folder, seed) for folder, seed in zip(folders, (1, 1, 2), strict=True)]
    contents = [
        {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*")} for folder in folders
    ]
    assert contents[0] == contents[1]
    assert planted[0].near == planted[1].near
    assert contents[0].keys() != contents[2].keys()


def test_planted_faults_are_found(faults, built, tmp_path):
    from greffon.checking.check import check

    planted = faults.plant(pictures(), tmp_path, 0)
    found = check(tmp_path, weights="thin", image_size=64, reporter=Reporter())
    judged = faults.judge(planted, found)
    assert judged["exact found"] == judged["exact planted"] == 3
    assert judged["broken found"] == judged["broken"] == len(faults.BROKEN)
    assert judged["good in quarantine"] == 0
    assert judged["near found"] == judged["near planted"] == len(faults.CHANGES)
    assert judged["near told rightly"] == judged["near told"]
    assert judged["exact on both sides"] == judged["detected on both sides"] == 0
    assert judged["labels found"] >= 0.75 * judged["wrong labels"]


@pytest.mark.large
def test_on_photographs(faults, photos):
    reached = faults.summary(faults.measure(faults.photographs(photos), range(10)))
    assert reached["exact recall"] == reached["broken recall"] == 1
    assert reached["good in quarantine"] == 0
    assert reached["near recall"] >= 0.95
    assert reached["near precision"] >= 0.95
    assert reached["label recall"] >= 0.70
    assert reached["label precision"] >= 0.60
    assert reached["exact on both sides"] == reached["detected on both sides"] == 0


@pytest.mark.large
def test_on_fashion(faults):
    if not faults.FASHION.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    reached = faults.summary(faults.measure(faults.fashion(faults.FASHION, 600), range(2), image_size=96))
    assert reached["exact recall"] == reached["broken recall"] == 1
    assert reached["good in quarantine"] == 0
    assert reached["label recall"] >= 0.70
    assert reached["exact on both sides"] == reached["detected on both sides"] == 0
