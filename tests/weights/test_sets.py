import dataclasses
import hashlib
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from greffon.errors import InputError
from greffon.weights.cache import Digests, contradiction, difference
from greffon.weights.fetch import recognise
from greffon.weights.manifest import NAME_PATTERN
from greffon.weights.records import assets
from greffon.weights.sets import (
    PREPROCESSINGS,
    VARIANTS,
    WEIGHT_SETS,
    embedded_path,
    find_set,
    preprocessing_in_layer,
    usual_preprocessing,
    weight_set,
)


@pytest.mark.parametrize(("name", "depth"), [("imagenet", 50), ("imagenet-101", 101), ("imagenet-152", 152)])
def test_imagenet_has_the_hashes_and_addresses_of_keras(name, depth):
    from keras.src.applications import resnet as keras_resnet

    with_top, without = keras_resnet.WEIGHTS_HASHES[f"resnet{depth}"]
    record = weight_set(name)
    assert record.depth == depth
    assert record.file(include_top=True).md5 == with_top
    assert record.file(include_top=False).md5 == without
    for file in record.files:
        assert file.url == keras_resnet.BASE_WEIGHTS_PATH + file.filename
        assert file.filename.endswith("_notop.h5") != file.include_top


def test_torchvisions_files_are_checked_against_the_digits_in_their_names():
    records = [record for name, record in WEIGHT_SETS.items() if name.startswith("torchvision")]
    assert len(records) == 6
    for record in records:
        (file,) = record.files
        assert file.filename == f"resnet{record.depth}-{file.sha256_prefix}.pth"
        assert file.url == f"https://download.pytorch.org/models/{file.filename}"
        assert record.file(include_top=False) is record.file(include_top=True) is file


def test_what_is_published_of_each_set_is_of_its_form():
    hashes = [it for record in WEIGHT_SETS.values() for file in record.files for it in (file.md5, file.sha256) if it]
    assert len(set(hashes)) == len(hashes)
    assert all(re.fullmatch("[0-9a-f]{32}|[0-9a-f]{64}", it) for it in hashes)
    names = [file.filename for record in WEIGHT_SETS.values() for file in record.files]
    assert len(set(names)) == len(names), "they lie in one folder of the cache"
    for record in WEIGHT_SETS.values():
        assert re.fullmatch(NAME_PATTERN, record.name)
        assert record.depth in {50, 101, 152}
        assert record.licence_file is None or (assets() / "licenses" / record.licence_file).is_file()
        assert all(file.url is None or urlsplit(file.url).scheme == "https" for file in record.files)
        if record.accuracy is not None:
            assert 70 < record.accuracy.top1 < 90
            assert record.accuracy.source
        if record.classes is not None:
            assert record.format


def test_a_file_is_told_by_its_hash_only_where_one_was_published():
    found = Digests(5, "1" * 32, "0676ba61" + "0" * 56)
    file = weight_set("torchvision-v1").file()
    assert difference(file, found) is None
    assert "begins with 0676ba61" in difference(file, found._replace(sha256="1" * 64))
    unverified = weight_set("timm-c1").file()
    assert unverified.published_hash == "unverified"
    assert difference(unverified, found) == "no hash of it was published"
    assert contradiction(unverified, found) is None
    assert recognise(found)[0].name == "torchvision-v1"
    assert recognise(found._replace(sha256="2" * 64)) is None


def test_names_that_are_no_weight_set():
    for name in ("nowhere", "weights.h5", "../thin", "", "a" * 300, "thin\n"):
        assert find_set(name) is None
    assert find_set("thin") is weight_set("thin")


def test_the_embedded_file_has_the_recorded_size_and_hash():
    file = weight_set("thin").file()
    data = embedded_path(file).read_bytes()
    assert len(data) == file.size
    assert hashlib.sha256(data).hexdigest() == file.sha256


def test_the_embedded_file_comes_with_its_licence():
    licence = embedded_path(weight_set("thin").file()).parents[1] / "licenses" / "open_nsfw.txt"
    text = licence.read_text(encoding="utf-8")
    assert "Copyright 2016 Yahoo Inc." in text
    assert "Redistributions in binary form must reproduce" in text


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        weight_set("thin").variant = "v1"


def test_every_record_names_its_licence_source_and_variant():
    for name, record in WEIGHT_SETS.items():
        assert record.name == name
        assert record.licence
        assert record.source
        assert record.variant in VARIANTS


def test_an_unknown_set_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"imagenet, thin, none, .*, got 'imagnet'; did you mean 'imagenet'\?"):
        weight_set("imagnet")


def test_a_set_without_the_wanted_file_says_so():
    with pytest.raises(InputError, match="include_top=False"):
        weight_set("thin").file(include_top=True)


@pytest.mark.parametrize(("variant", "name"), [("v1", "caffe"), ("v1.5", "torch"), ("thin", "open_nsfw")])
def test_usual_preprocessing(variant, name):
    assert usual_preprocessing(variant) is PREPROCESSINGS[name]


def test_usual_preprocessing_of_an_unknown_variant():
    with pytest.raises(InputError, match="did you mean 'v1'"):
        usual_preprocessing("v2")


def test_means_are_in_rgb_order_though_the_network_takes_bgr():
    assert PREPROCESSINGS["caffe"].mean == (123.68, 116.779, 103.939)
    assert PREPROCESSINGS["open_nsfw"].mean == (123.0, 117.0, 104.0)


def test_a_record_of_the_users_own_is_read_back_from_its_layer():
    found = preprocessing_in_layer(
        "greffon_preprocessing_bgr_mine", {"mean": [1, 2, 3], "variance": [4, 9, 16]}, size=96
    )
    assert (found.name, found.channel_order, found.size) == ("mine", "BGR", 96)
    assert (found.mean, found.std) == ((1.0, 2.0, 3.0), (2.0, 3.0, 4.0))


def test_records_listing_and_fetching_load_nothing_heavy():
    code = (
        "import sys, greffon.weights.fetch; from greffon.backbone import resnet, preprocessing;"
        "print({'keras', 'tensorflow', 'numpy', 'h5py', 'requests', 'rich'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
