"""Keras' files made or damaged to do harm, opened in a child process: refused, in time, and within their memory."""

import io
import json
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import Children, check_format, how_much

GOLDEN = Path(__file__).parent / "golden"
ROOM = 32 << 20  # bytes: far below what each file here claims


@pytest.fixture(scope="module")
def child():
    """A process that has opened one file of each kind, so that its imports do not count."""
    with Children(1) as children:
        for name in ("tf_keras.keras", "tf_keras_weights.h5"):
            assert "arrays" in children.open(GOLDEN / name)
        yield children


@pytest.fixture
def refused(child):
    def check(path, reason):
        answer = child.open(path)
        assert reason in answer.get("refused", ""), answer
        assert answer["memory"] < ROOM

    return check


def _legacy(file):
    """The smallest legacy weight file; gives the group for the one array."""
    file.attrs["layer_names"], file.attrs["keras_version"] = np.array([b"dense"]), b"2.1"
    group = file.create_group("dense")
    group.attrs["weight_names"] = np.array([b"kernel:0"])
    return group


def _honest(path, **options):
    values = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    with h5py.File(path, "w") as file:
        _legacy(file).create_dataset("kernel:0", data=values, **options)
    return values


def test_soft_links_in_a_loop(tmp_path, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = _legacy(file)
        group["kernel:0"], group["other"] = h5py.SoftLink("/dense/other"), h5py.SoftLink("/dense/kernel:0")
    refused(path, "is a link to elsewhere")


def test_a_chunk_that_unpacks_to_more_than_a_chunk(tmp_path, refused):
    """HDF5 itself unpacks to the end of the stream, whatever the size of a chunk."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        made = _legacy(file).create_dataset("kernel:0", (16, 16), "f4", chunks=(16, 16), compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 28), 9))
    assert path.stat().st_size < 1 << 20
    refused(path, "unpacks to more than a chunk holds")


@pytest.mark.parametrize("filters", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True}])
@pytest.mark.parametrize("checksum", [False, True])
def test_honest_chunks_are_read(tmp_path, filters, checksum):
    from greffon.weights.read import read

    values = _honest(tmp_path / "a.h5", chunks=(3, 3, 3, 5), fletcher32=checksum, **filters)
    np.testing.assert_array_equal(read(tmp_path / "a.h5").arrays["dense/kernel"], values)


def test_many_chunks_that_are_not_there(tmp_path, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _legacy(file).create_dataset("kernel:0", (1 << 20,), "f4", chunks=(4,))
    refused(path, "0 are stored for it")


def test_a_filter_whose_memory_nobody_bounds(tmp_path, refused):
    _honest(tmp_path / "a.h5", compression="lzf")
    refused(tmp_path / "a.h5", "filter or plugin 32000")


def test_an_attribute_that_means_one_long_text_many_times(tmp_path, refused):
    """References to texts are small, and any number of them may mean the same one: here 4000 times a megabyte."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _legacy(file)
        file.attrs["layer_names"] = ["x" * 1_000_000] + ["y"] * 3999
    data = path.read_bytes()
    first = data.index((1_000_000).to_bytes(4, "little"))
    short = data[first + 16 : first + 32]
    assert data.count(short[:4]) and int.from_bytes(short[:4], "little") == 1
    path.write_bytes(data[: first + 16] + data[first : first + 16] * 3999 + data[first + 16 * 4000 :])
    refused(path, "claims more than 4,194,304 bytes")


def test_a_text_whose_reference_lies_about_its_length(tmp_path, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _legacy(file)
        file.attrs["layer_names"] = ["unmistakable"]
    data = path.read_bytes()
    place = data.index((12).to_bytes(4, "little") + data.index(b"GCOL").to_bytes(8, "little"))
    path.write_bytes(data[:place] + (1 << 31).to_bytes(4, "little") + data[place + 4 :])
    refused(path, "claims more than")


def test_a_gigantic_attribute(tmp_path, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["layer_names"] = np.full(60_000, b"dense")
    refused(path, "names more than 50,000 things")


def test_deep_nesting(tmp_path, refused):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(200):
            group = group.create_group("layers")
        group.create_group("vars")["0"] = np.ones(1, np.float32)
    refused(path, "contain each other or are too many")


def test_references_to_objects_are_no_numbers(tmp_path, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = _legacy(file)
        made = group.create_dataset("kernel:0", (1,), h5py.ref_dtype)
        made[0] = file.ref
    refused(path, "expected numbers")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_texts_of_any_length_are_read_in_old_and_new_headers(tmp_path, libver):
    from greffon.weights.read import read

    path, names = tmp_path / "a.h5", [f"dense_ü{number}" for number in range(30)]
    with h5py.File(path, "w", libver=libver) as file:
        for number in range(3):  # so many attributes that an old header is continued elsewhere
            file.attrs[f"layer_names{number}"] = names[10 * number : 10 * number + 10]
        file.attrs["keras_version"] = "2.4"
        for name in names:
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0"]
            group[f"{name}/kernel:0"] = np.ones((1, 1), np.float32)
    assert list(read(path).arrays) == [f"{name}/kernel" for name in names]


def _archive(path, *, config=None, compress=zipfile.ZIP_STORED, **more):
    """A good `.keras` file with one layer, and what else is asked for."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_group("layers/dense/vars")["0"] = np.ones((2, 2), np.float32)
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("config.json", json.dumps({}) if config is None else config)
        archive.writestr("model.weights.h5", weights.getvalue())
        for name, content in more.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "..\\evil", "C:evil"])
def test_a_member_that_leaves_the_folder(tmp_path, refused, name):
    refused(_archive(tmp_path / "a.keras", **{name: "x"}), "is no place inside a model. Refused")
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a.keras"]


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path, refused, name):
    refused(_archive(tmp_path / "a.keras", **{name: "{}"}), f"expected one {name} in it, found 2")


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda", "config": {"name": "x", "function": {"class_name": "__lambda__", "config": {}}}},
        {"module": "os", "class_name": "system", "config": {"name": "touch evil"}, "registered_name": "os>system"},
    ],
)
def test_a_configuration_that_would_run_code_is_only_words(tmp_path, child, layer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = json.dumps({"class_name": "Functional", "module": "os", "config": {"layers": [layer]}})
    answer = child.open(_archive(tmp_path / "a.keras", config=config))
    assert list(answer["arrays"]) == ["dense/kernel"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("config", ["[" * 100_000, '{"a":' * 100_000, "[" + "[]," * 2_000_000 + "[]]", "9" * 100_000])
def test_bombs_in_the_configuration(tmp_path, refused, config):
    path = _archive(tmp_path / "a.keras", config=config, compress=zipfile.ZIP_DEFLATED)
    refused(path, "claims" if len(config) > 1 << 22 else "cannot be read as JSON")


def test_an_encrypted_member(tmp_path, refused):
    path = _archive(tmp_path / "a.keras")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the directory's last entry: the weights
    path.write_bytes(data)
    refused(path, "is encrypted")


def test_a_member_whose_size_lies(tmp_path, refused):
    path = _archive(tmp_path / "a.keras")
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(data)
    refused(path, "claims more than is there")


def test_a_gigantic_directory(tmp_path, refused):
    path = tmp_path / "a.keras"
    _archive(path, **{f"assets/{number}": "" for number in range(20_000)})
    refused(path, "which no model needs. Refused")


def test_one_changed_number_breaks_the_checksum(tmp_path, refused):
    path = _archive(tmp_path / "a.keras")
    data = path.read_bytes()
    one = np.ones(1, np.float32).tobytes()
    path.write_bytes(data.replace(one, np.full(1, 2, np.float32).tobytes(), 1))
    refused(path, "does not have its checksum")


@how_much
@pytest.mark.parametrize(
    "name",
    [
        "tf_keras.weights.h5",
        pytest.param("tf_keras_weights.h5", marks=pytest.mark.large),
        pytest.param("keras_1_theano_th_whole.h5", marks=pytest.mark.large),
    ],
)
def test_damaged_golden_files(name, truncated, flipped):
    tally = check_format(GOLDEN / name, truncated=truncated, flipped=flipped)
    assert tally["refused"] >= truncated // 2


@how_much
def test_damaged_archives(truncated, flipped):
    """The checksum covers everything that is read: nothing wrong comes out."""
    tally = check_format(GOLDEN / "tf_keras.keras", truncated=truncated, flipped=flipped, checksum=True)
    assert tally["refused"] >= truncated


@how_much
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_small_files(tmp_path, truncated, flipped, packed):
    """Mostly headers, so that most damage hits one."""
    options = {"chunks": (3, 3, 4, 4), "compression": "gzip", "shuffle": True, "fletcher32": True} if packed else {}
    _honest(tmp_path / "a.h5", **options)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = ["dense"]  # of any length, as newer releases of h5py write it
    tally = check_format(tmp_path / "a.h5", truncated=truncated, flipped=flipped)
    assert tally["refused"] >= truncated // 2
