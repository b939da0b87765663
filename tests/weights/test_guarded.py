"""Weight files made to do harm: each is refused, and nothing outside it is read."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from greffon.errors import WeightFileError
from greffon.weights.read import read


def _legacy(file):
    """The smallest legacy weight file; gives the group for the one array."""
    file.attrs["layer_names"] = np.array([b"dense"])
    group = file.create_group("dense")
    group.attrs["weight_names"] = np.array([b"kernel:0"])
    return group


@pytest.fixture
def secret(tmp_path):
    """A file of the user's that a weight file has no business with."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["kernel:0"] = np.full((2, 2), 42.0, np.float32)
    return path


def _refused(path, reason):
    with pytest.raises(WeightFileError, match=reason):
        read(path)


def test_an_external_link(tmp_path, secret):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        _legacy(file)["kernel:0"] = h5py.ExternalLink(str(secret), "kernel:0")
    with h5py.File(path) as file:
        assert file["dense/kernel:0"][0, 0] == 42.0, "the link works where nobody looks"
    _refused(path, "dense/kernel:0 is a link to elsewhere.*Refused")


def test_an_external_link_to_a_group(tmp_path, secret):
    path = tmp_path / "weights.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers")["dense"] = h5py.ExternalLink(str(secret), "/")
    _refused(path, "layers/dense is a link to elsewhere")


def test_a_soft_link(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        _legacy(file)["kernel:0"] = h5py.SoftLink("/elsewhere")
        file["elsewhere"] = np.ones((2, 2), np.float32)
    _refused(path, "is a link to elsewhere")


def test_the_whole_models_group_as_a_link(tmp_path, secret):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(secret), "/")
    _refused(path, "model_weights is a link to elsewhere")


def test_external_storage(tmp_path):
    raw, path = tmp_path / "passwd", tmp_path / "weights.h5"
    raw.write_bytes(np.full(4, 42.0, np.float32).tobytes())
    with h5py.File(path, "w") as file:
        _legacy(file).create_dataset("kernel:0", (2, 2), "f4", external=[(str(raw), 0, 16)])
    _refused(path, "lies in another file. Refused")


def test_a_virtual_dataset(tmp_path, secret):
    path = tmp_path / "weights.h5"
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "kernel:0", (2, 2))
    with h5py.File(path, "w") as file:
        _legacy(file).create_virtual_dataset("kernel:0", layout)
    _refused(path, "lies in another file. Refused")


@pytest.mark.parametrize("options", [{}, {"chunks": (1024, 1024), "compression": "gzip"}])
def test_a_claim_of_data_that_is_not_there(tmp_path, options):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        _legacy(file).create_dataset("kernel:0", (1 << 18, 1 << 18), "f4", **options)
    assert path.stat().st_size < 100_000
    _refused(path, "claims far more data than its size can hold.*Refused")


def test_many_small_claims_add_up(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        group = _legacy(file)
        names = [f"kernel_{number}:0".encode() for number in range(100)]
        group.attrs["weight_names"] = np.array(names)
        for name in names:
            group.create_dataset(name, data=np.zeros(1 << 18), chunks=(1 << 18,), compression="gzip")
    _refused(path, "claims far more data")


def test_honest_compression_is_read(tmp_path):
    path = tmp_path / "weights.h5"
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    with h5py.File(path, "w") as file:
        _legacy(file).create_dataset("kernel:0", data=values, compression="gzip", shuffle=True)
    np.testing.assert_array_equal(read(path).arrays["dense/kernel"], values)


def test_a_filter_that_would_load_a_plugin(tmp_path):
    """Declared by its number only: HDF5 would look for a shared library when the data is read."""
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((2, 2))
        creation.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((2, 2))
        h5py.h5d.create(_legacy(file).id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, creation)
    _refused(path, "plugin 31999. Refused")


@pytest.mark.parametrize(
    "made",
    [
        {"data": [b"text"], "dtype": h5py.string_dtype()},
        {"data": np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")])},
        {"data": np.array([1 + 2j])},
    ],
)
def test_what_is_not_numbers(tmp_path, made):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        _legacy(file).create_dataset("kernel:0", **made)
    _refused(path, "expected numbers")


def test_a_group_in_place_of_an_array(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        _legacy(file).create_group("kernel:0")
    _refused(path, "is not an array")


def test_a_layer_that_is_listed_but_not_there(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        _legacy(file)
    _refused(path, "dense/kernel:0 is named in the file but not in it")


def test_a_group_that_contains_itself(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        layers = file.create_group("layers")
        layers["again"] = layers
    _refused(path, "contain each other")


def _archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def test_a_zip_bomb(tmp_path):
    path = _archive(tmp_path / "a.keras", config__json="{}", model__weights__h5=bytes(1 << 28))
    assert path.stat().st_size < 1 << 20
    _refused(path, r"model.weights.h5 in it claims .* far more than the archive's size can hold")


def test_a_zip_member_that_is_larger_than_it_says(tmp_path):
    path = _archive(tmp_path / "a.keras", config__json="{}", model__weights__h5=bytes(100_000))
    data = path.read_bytes()
    assert data.count((100_000).to_bytes(4, "little")) == 2
    path.write_bytes(data.replace((100_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little")))
    _refused(path, "damaged")


def test_an_archive_without_weights(tmp_path):
    path = _archive(tmp_path / "a.keras", config__json="{}", other="")
    _refused(path, r"expected one model.weights.h5 in it, found 0; it holds config.json, other")


def test_a_configuration_that_is_no_json(tmp_path):
    path = _archive(tmp_path / "a.keras", config__json="{", model__weights__h5="")
    _refused(path, "config.json in it cannot be read")


def test_a_configuration_that_nests_without_end(tmp_path):
    deep = '{"config": {"layers": [' * 5000 + "]}}" * 5000
    path = _archive(tmp_path / "a.keras", config__json=deep, model__weights__h5="")
    _refused(path, "config.json in it cannot be read")


def test_a_safetensors_header_that_points_outside(tmp_path):
    header = json.dumps({"a/kernel": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    _refused(path, "header does not fit its content")
