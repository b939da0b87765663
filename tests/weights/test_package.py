"""Weight packages: fetched on one machine, added on another that has no network."""

import dataclasses
import hashlib
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.numpy

from greffon.errors import InputError, WeightFileError
from greffon.weights import package
from greffon.weights.added import added_dir, added_set, added_sets, record_path
from greffon.weights.cache import recorded_sha256, weights_dir
from greffon.weights.fetch import obtain, recognise, require_cached
from greffon.weights.listing import list_sets
from greffon.weights.manifest import SUFFIX, read_manifest
from greffon.weights.package import Described, add, make_package
from greffon.weights.sets import WEIGHT_SETS, WeightFile, embedded_path, find_set, known_sets, weight_set

CONTENT = hashlib.sha256(b"weights").digest() * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def published(monkeypatch):
    """Give the set `test` one file with what is published of it."""

    def publish(**of_it):
        file = WeightFile("test.bin", "http://127.0.0.1:1/test.bin", None, None, None, include_top=True)
        file = dataclasses.replace(file, **of_it)
        record = dataclasses.replace(weight_set("timm-a1"), name="test", files=(file,))
        monkeypatch.setitem(WEIGHT_SETS, "test", record)
        return file

    return publish


@pytest.fixture
def network(monkeypatch):
    """A network that gives CONTENT for every address."""

    def download(file, url, target, progress=None):
        target.write_bytes(CONTENT)
        return package.digests(target)

    monkeypatch.setattr("greffon.weights.fetch.download", download)


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """The embedded weights as a file that no set knows."""
    arrays = safetensors.numpy.load_file(embedded_path(weight_set("thin").file()))
    path = tmp_path_factory.mktemp("own") / "Own.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"variant": "thin"})
    return path


def other_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "other"))


@pytest.mark.parametrize(
    "known",
    [{"sha256": SHA256}, {"md5": hashlib.md5(CONTENT).hexdigest()}, {"sha256_prefix": SHA256[:8]}, {}],
    ids=["sha256", "md5", "prefix", "nothing"],
)
def test_a_package_from_one_machine_to_another(published, network, known, monkeypatch, tmp_path):
    file = published(**known)
    made = make_package("test", tmp_path / "stick")
    assert sorted(it.name for it in (tmp_path / "stick").iterdir() if it.suffix not in {".lock", ".sha256"}) == [
        "apache-2.0.txt",
        "test.bin",
        "test.bin.greffon.json",
    ]
    told = json.loads((tmp_path / "stick" / "test.bin.greffon.json").read_text())
    assert (told["name"], told["sha256"], told["size"]) == ("test", SHA256, len(CONTENT))
    assert (told["licence"], told["variant"], told["published_hash"]) == ("Apache-2.0", "v1.5", file.published_hash)
    assert told["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert any("greffon weights add" in note for note in made.notes)
    other_machine(monkeypatch, tmp_path)
    with pytest.raises(InputError, match="greffon weights add FILE"):
        require_cached("test")
    (added,) = add(tmp_path / "stick")
    assert (added.name, added.path, added.sha256) == ("test", weights_dir() / "test.bin", SHA256)
    assert require_cached("test") == added.path
    assert obtain(weight_set("test")).sha256 == SHA256
    assert any("unverified" in note for note in added.notes) == (not known)
    assert recorded_sha256(added.path) == (None if "sha256" in known else SHA256)
    assert add(tmp_path / "stick") == [added], "a second time is no harm"
    added.path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightFileError, match="not the one that was published"):
        require_cached("test")
    add(tmp_path / "stick")
    assert require_cached("test") == added.path


def test_a_file_alone_is_recognised_by_its_hash(published, tmp_path):
    published(sha256_prefix=SHA256[:8])
    alone = tmp_path / "download (1).bin"
    alone.write_bytes(CONTENT)
    (added,) = add(alone)
    assert (added.name, added.path) == ("test", weights_dir() / "test.bin")
    assert "told by its hash" in added.notes[0]
    (again,) = add(alone, Described("mine"))
    assert "not 'mine'" in again.notes[0]


def test_a_pinned_file_is_recognised_and_another_refused(published, network, tmp_path):
    published()
    alone = tmp_path / "alone.bin"
    alone.write_bytes(CONTENT)
    assert recognise(package.digests(alone)) is None
    make_package("test", tmp_path / "stick")
    add(tmp_path / "stick")
    assert recognise(package.digests(alone))[0].name == "test"
    assert [(row.verified, row.cached) for row in list_sets() if row.name == "test"] == [("pinned", True)]
    other = tmp_path / "stick" / "test.bin"
    other.write_bytes(CONTENT[::-1])
    beside = tmp_path / "stick" / ("test.bin" + SUFFIX)
    told = json.loads(beside.read_text()) | {"sha256": hashlib.sha256(CONTENT[::-1]).hexdigest()}
    beside.write_text(json.dumps(told))
    with pytest.raises(WeightFileError, match=r"was written down\s+then.*Delete"):
        add(tmp_path / "stick")
    assert require_cached("test").read_bytes() == CONTENT


def test_the_embedded_weights_need_no_adding(tmp_path):
    (added,) = add(embedded_path(weight_set("thin").file()))
    assert added.name == "thin"
    assert "comes with Greffon" in added.notes[-1]
    assert not weights_dir().exists()
    make_package("thin", tmp_path / "stick")
    assert "Yahoo" in (tmp_path / "stick" / "open_nsfw.txt").read_text()
    assert add(tmp_path / "stick")[0].name == "thin"


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_package_that_was_damaged_on_its_way(published, network, damage, tmp_path):
    published(sha256=SHA256)
    file = make_package("test", tmp_path / "stick").path
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(CONTENT[:-5] if damage == "cut" else b"x" + CONTENT[1:])
    said = {"cut": f"bytes {len(CONTENT)} expected", "changed": "SHA-256 .* expected", "gone": "copy both"}[damage]
    with pytest.raises(InputError, match=said):
        add(tmp_path / "stick")
    assert not (weights_dir() / "test.bin").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"filename": "../../evil.bin"}, "filename"),
        ({"filename": "/etc/passwd"}, "filename"),
        ({"name": "../evil"}, "name"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"size": "12"}, "size"),
        ({"run": "rm -rf"}, "run"),
        ({"variant": "v2"}, "variant"),
        ({"preprocessing": None}, "preprocessing"),
        ("not JSON", "the file"),
        (b"\xff" * 100, "the file"),
        ("[" * 100_000, "at most"),
        ({"name": "imagenet"}, "has no file test.bin"),
    ],
)
def test_a_manifest_that_was_tampered_with(published, network, change, said, tmp_path):
    published(sha256=SHA256)
    make_package("test", tmp_path / "stick")
    beside = tmp_path / "stick" / ("test.bin" + SUFFIX)
    if isinstance(change, dict):
        change = json.dumps(json.loads(beside.read_text()) | change)
    beside.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.raises(WeightFileError, match=said):
        add(tmp_path / "stick")


def test_a_package_cannot_pass_another_file_off_as_a_known_set(published, network, tmp_path):
    published(sha256=SHA256)
    file = make_package("test", tmp_path / "stick").path
    file.write_bytes(CONTENT[::-1])
    beside = file.with_name(file.name + SUFFIX)
    told = json.loads(beside.read_text()) | {"sha256": hashlib.sha256(CONTENT[::-1]).hexdigest()}
    beside.write_text(json.dumps(told))
    with pytest.raises(WeightFileError, match="not the file of the weight set 'test': SHA-256 is"):
        add(beside)


def test_a_file_of_ones_own_becomes_a_set(own_file, tmp_path):
    with pytest.raises(InputError, match=r"--name NAME"):
        add(own_file)
    with pytest.raises(InputError, match=r"Say what it was trained\s+with: --preprocessing caffe\|torch"):
        add(own_file, Described("mine"))
    (added,) = add(own_file, Described("mine", preprocessing="open_nsfw", licence="CC0-1.0"))
    assert added.path == added_dir() / "mine.safetensors"
    record = weight_set("mine")
    assert (record.variant, record.depth, record.licence, record.classes) == ("thin", 50, "CC0-1.0", None)
    assert record.preprocessing is not None
    assert record.preprocessing == weight_set("thin").preprocessing
    assert obtain(record).path == added.path
    assert require_cached("mine") == added.path
    row = next(row for row in list_sets() if row.name == "mine")
    assert (row.added, row.cached, row.verified, row.sha256) == (True, True, "the user's own", added.sha256)
    assert "mine" in known_sets()
    assert "mine" not in WEIGHT_SETS
    with pytest.raises(InputError, match="'main'; did you mean 'mine'"):
        weight_set("main")
    # From this machine to another one.
    fetched = make_package("mine", tmp_path / "stick")
    assert fetched.sha256 == added.sha256


def test_licence_and_source_are_kept_as_the_file_tells_them(own_file, tmp_path):
    arrays = safetensors.numpy.load_file(own_file)
    said = {"variant": "thin", "license": "CC-BY\n 4.0", "source": "a lab"}
    path, other = tmp_path / "told.safetensors", tmp_path / "other.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata=said)
    safetensors.numpy.save_file(arrays, other, metadata=said | {"more": "nothing"})
    (added,) = add(path, Described("told", preprocessing="open_nsfw"))
    assert (weight_set("told").licence, weight_set("told").source) == ("CC-BY 4.0", "a lab")
    assert "Its licence is 'CC-BY 4.0', as the file itself says." in added.notes
    add(other, Described("ours", preprocessing="open_nsfw", licence="MIT", source="us"))
    assert (weight_set("ours").licence, weight_set("ours").source) == ("MIT", "us")
    add(own_file, Described("silent", preprocessing="open_nsfw"))
    assert weight_set("silent").licence == "unknown"


def test_a_set_of_ones_own_travels_in_a_package(own_file, monkeypatch, tmp_path):
    add(own_file, Described("mine", preprocessing="open_nsfw"))
    make_package("mine", tmp_path / "stick")
    other_machine(monkeypatch, tmp_path)
    assert find_set("mine") is None
    (added,) = add(tmp_path / "stick")
    assert (added.name, weight_set("mine").variant) == ("mine", "thin")
    added.path.unlink()
    with pytest.raises(InputError, match="are gone; they are published nowhere"):
        require_cached("mine")
    with pytest.raises(InputError, match="are gone; they are published nowhere"):
        obtain(weight_set("mine"))


def test_a_set_of_ones_own_that_was_changed_is_refused(own_file):
    (added,) = add(own_file, Described("mine", preprocessing="open_nsfw"))
    data = bytearray(added.path.read_bytes())
    data[-1] ^= 1
    added.path.write_bytes(data)
    with pytest.raises(WeightFileError, match="not the one that was added: SHA-256 is"):
        require_cached("mine")


def test_a_record_of_ones_own_that_was_damaged(own_file):
    add(own_file, Described("mine", preprocessing="open_nsfw"))
    shutil.copyfile(record_path("mine"), record_path("yours"))
    with pytest.raises(WeightFileError, match="is the record of 'mine', expected 'yours'"):
        added_set("yours")
    record_path("mine").write_text("{")
    with pytest.raises(WeightFileError, match="no manifest"):
        added_set("mine")
    assert added_sets() == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Mine", "small letters"),
        ("../mine", "small letters"),
        ("imagenet", "that Greffon knows"),
        ("", "small letters"),
    ],
)
def test_names_that_cannot_be_taken(own_file, name, said):
    with pytest.raises(InputError, match=said):
        add(own_file, Described(name, preprocessing="open_nsfw"))


def test_a_name_that_is_taken(own_file, tmp_path):
    add(own_file, Described("mine", preprocessing="open_nsfw"))
    add(own_file, Described("mine", preprocessing="open_nsfw"))
    other = tmp_path / "other.safetensors"
    arrays = safetensors.numpy.load_file(own_file)
    safetensors.numpy.save_file({**arrays, "conv1_conv/bias": np.ones(64, np.float32)}, other, {"variant": "thin"})
    with pytest.raises(InputError, match="'mine' is taken"):
        add(other, Described("mine", preprocessing="open_nsfw"))


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (Described("mine", preprocessing="cafe"), "preprocessing must be one of"),
        (Described("mine", variant="v2", preprocessing="caffe"), "variant must be one of"),
        (Described("mine", variant="v1", preprocessing="caffe"), "for variant 'thin', not 'v1'"),
    ],
)
def test_what_is_said_wrongly_of_a_file(own_file, described, said):
    with pytest.raises(InputError, match=said):
        add(own_file, described)


def test_a_preprocessing_inside_the_file_cannot_be_talked_away(monkeypatch, own_file):
    from greffon.weights.read import safetensors_file

    def layer_names(opened):
        @contextmanager
        def grafted(path):
            with opened(path) as contents:
                contents.layer_names = ("greffon_preprocessing_caffe",)
                yield contents

        return grafted

    monkeypatch.setattr(safetensors_file, "opened", layer_names(safetensors_file.opened))
    with pytest.raises(InputError, match="the preprocessing 'caffe' inside, not 'torch'"):
        add(own_file, Described("mine", preprocessing="torch"))
    add(own_file, Described("mine"))
    assert weight_set("mine").preprocessing.name == "caffe"


def test_what_is_no_weight_set(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*nowhere"):
        add(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no weight package in"):
        add(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        add(tmp_path, Described("mine"))
    head = tmp_path / "head.safetensors"
    safetensors.numpy.save_file({"dense/kernel": np.ones((4, 2), np.float32)}, head)
    with pytest.raises(WeightFileError):
        add(head, Described("mine", preprocessing="caffe"))
    (tmp_path / "page.h5").write_text("<html>")
    with pytest.raises(WeightFileError, match="web page"):
        add(tmp_path / "page.h5", Described("mine", preprocessing="caffe"))
    assert added_sets() == {}


def test_the_manifest_is_read_back(published, network, tmp_path):
    published(sha256=SHA256)
    made = make_package("test", tmp_path)
    record = read_manifest(made.path.with_name(made.path.name + SUFFIX)).record()
    assert dataclasses.replace(record, files=(), accuracy=None) == dataclasses.replace(
        weight_set("test"), files=(), accuracy=None, licence_file=None
    )


@pytest.mark.large
def test_a_published_set_with_foreign_names_fills_the_network(monkeypatch, tmp_path):
    import greffon
    from greffon.backbone.convert import convert
    from greffon.backbone.resnet import resnet

    original = resnet(variant="v1.5", include_top=True)
    random = np.random.default_rng(0)
    for variable in original.variables:
        if variable.name in {"gamma", "moving_variance"}:
            variable.assign(random.uniform(0.5, 1.5, variable.shape).astype(np.float32))
    original.save_weights(tmp_path / "original.weights.h5")
    written = convert(tmp_path / "original.weights.h5", tmp_path / "a.safetensors", to="torch", variant="v1.5")
    file = dataclasses.replace(weight_set("timm-a1").file(), sha256=written.sha256)
    monkeypatch.setitem(WEIGHT_SETS, "timm-a1", dataclasses.replace(weight_set("timm-a1"), files=(file,)))
    add(written.path)
    backbone = greffon.resnet50("timm-a1", input_shape=(64, 64, 3))
    record = backbone.greffon_weights
    assert (record.weights, record.variant, record.preprocessing.name) == ("timm-a1", "v1.5", "torch")
    for layer in (it for it in backbone.layers if it.weights):
        for mine, other in zip(layer.weights, original.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
    whole = greffon.resnet50("timm-a1", include_top=True)
    assert whole.output_shape == (None, 1000)
