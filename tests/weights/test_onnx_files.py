"""ONNX files, written by the reference library, and ones made to harm."""

import struct

import numpy as np
import pytest
from damage import check_format, how_much

from greffon.errors import WeightFileError
from greffon.weights.read import onnx_file
from greffon.weights.read.wire import Source

onnx = pytest.importorskip("onnx")
READER = "greffon.weights.read.onnx_file"
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
BIAS = RANDOM.normal(size=4).astype(np.float32)
DENSE = RANDOM.normal(size=(2, 4)).astype(np.float32)


def load(path):
    assert onnx_file.recognises(path.read_bytes()[:512], path)
    with onnx_file.opened(path) as contents:
        return contents, {name: tensor.load() for name, tensor in contents.tensors.items()}


def refused(path, match):
    with pytest.raises(WeightFileError, match=match):
        load(path)


def model(initializers, nodes=(), **options):
    graph = onnx.helper.make_graph(list(nodes), "g", [], [], list(initializers))
    return onnx.helper.make_model(graph, producer_name="pytorch", producer_version="2.13", **options)


def tensor(array, name):
    return onnx.numpy_helper.from_array(array, name)


@pytest.fixture
def network(tmp_path):
    """A convolution whose initialisers stand in another order than they are used in, and a dense layer."""
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "onnx::Conv_9", "onnx::Conv_10"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=1),
        node("Identity", ["onnx::Conv_10"], ["same"]),
        node("BatchNormalization", ["y", "g", "same", "same", "g"], ["z"], epsilon=1e-3),
        node("Constant", [], ["fc.bias"], value=tensor(np.float32([1, 2]), "")),
        node("Gemm", ["z", "fc.weight", "fc.bias"], ["out"], transB=1),
        node("MatMul", ["z", "out"], ["o2"]),
    ]
    initializers = [
        tensor(DENSE, "fc.weight"),
        tensor(np.int64([1, -1]), "shape"),
        tensor(BIAS, "onnx::Conv_10"),
        tensor(BIAS + 1, "g"),
        tensor(KERNEL, "onnx::Conv_9"),
    ]
    onnx.save(model(initializers, nodes), tmp_path / "x.onnx")
    return tmp_path / "x.onnx"


def test_names_order_and_nodes(network):
    contents, arrays = load(network)
    assert list(arrays) == ["onnx::Conv_9", "onnx::Conv_10", "g", "same", "fc.weight", "fc.bias"]
    np.testing.assert_array_equal(arrays["onnx::Conv_9"], KERNEL)
    np.testing.assert_array_equal(arrays["same"], BIAS)
    np.testing.assert_array_equal(arrays["fc.weight"], DENSE)
    assert arrays["fc.bias"].tolist() == [1, 2]
    assert contents.configs["onnx::Conv_9"] == {
        "op": "Conv",
        "input": "x",
        "output": "y",
        "bias": "onnx::Conv_10",
        "strides": [2, 2],
        "pads": [1, 1, 1, 1],
        "group": 1,
    }
    assert contents.configs["g"]["epsilon"] == pytest.approx(1e-3)
    assert contents.configs["fc.weight"] == {
        "op": "Gemm",
        "input": "z",
        "output": "out",
        "bias": "fc.bias",
        "transB": 1,
    }
    assert set(contents.configs) == {"onnx::Conv_9", "g", "fc.weight"}
    assert contents.metadata["producer_name"] == "pytorch"
    assert contents.metadata["producer_version"] == "2.13"
    assert "1 Conv" in contents.metadata["operators"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "dtype", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT32", "INT64", "UINT8", "UINT64"]
)
def test_types(tmp_path, dtype, raw):
    kind = getattr(onnx.TensorProto, dtype)
    values = (
        np.arange(-6 if dtype[0] != "U" else 0, 6).astype(onnx.helper.tensor_dtype_to_np_dtype(kind)).reshape(2, -1)
    )
    proto = onnx.helper.make_tensor("w", kind, values.shape, values.tobytes() if raw else values.ravel(), raw=raw)
    onnx.save(model([proto]), tmp_path / "x.onnx")
    expected = onnx.numpy_helper.to_array(proto).astype(np.float64)
    contents, arrays = load(tmp_path / "x.onnx")
    np.testing.assert_array_equal(arrays["w"], expected)
    assert contents.tensors["w"].floating == ("FLOAT" in dtype or dtype == "DOUBLE")


def test_text_and_other_types_are_left_out(tmp_path):
    words = onnx.helper.make_tensor("words", onnx.TensorProto.STRING, [1], [b"a"])
    onnx.save(model([words, tensor(BIAS, "w")]), tmp_path / "x.onnx")
    contents, arrays = load(tmp_path / "x.onnx")
    assert list(arrays) == ["w"]
    assert any("left out" in note for note in contents.notes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, about this exporter
@pytest.mark.parametrize("folded", [True, False])
def test_what_torch_exports(tmp_path, folded):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 4, 1, bias=False),
        torch.nn.BatchNorm2d(4),  # as new as the other: the exporter keeps one of two equal tensors
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()
    path = tmp_path / "x.onnx"
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(network, torch.zeros(1, 3, 4, 4), path, dynamo=False, **({} if folded else kept))
    contents, arrays = load(path)
    convolutions = [(name, it) for name, it in contents.configs.items() if it["op"] == "Conv"]
    assert [it["strides"] for _, it in convolutions] == [[2, 2], [1, 1]]
    scale = 1 / np.sqrt(np.float32(1 + 1e-5)) if folded else 1
    for (name, config), layer in zip(convolutions, (network[0], network[2]), strict=True):
        np.testing.assert_allclose(arrays[name], layer.weight.detach().numpy() * scale, rtol=1e-6)
        assert ("bias" in config) == folded
    np.testing.assert_array_equal(arrays["5.weight"], network[5].weight.detach().numpy())
    if not folded:
        stored = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
        assert set(arrays) == stored
        assert [name.split(".")[0] for name in arrays] == sorted(name.split(".")[0] for name in arrays)


def external(tmp_path, **changes):
    proto = tensor(KERNEL, "w")
    data = proto.raw_data
    (tmp_path / "x.data").write_bytes(b"\0" * 64 + data)
    proto.ClearField("raw_data")
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"location": "x.data", "offset": "64", "length": str(len(data))} | changes).items():
        entry = proto.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "x.onnx").write_bytes(model([proto]).SerializeToString())
    return tmp_path / "x.onnx"


def test_external_data_as_the_library_writes_it(network, tmp_path):
    onnx.save(onnx.load(network), tmp_path / "y.onnx", save_as_external_data=True, location="y.bin", size_threshold=0)
    _, arrays = load(tmp_path / "y.onnx")
    np.testing.assert_array_equal(arrays["onnx::Conv_9"], KERNEL)
    np.testing.assert_array_equal(load(external(tmp_path))[1]["w"], KERNEL)


@pytest.mark.parametrize("location", ["../x.data", "/etc/passwd", "sub/x.data", "..", "", "c:x.data", "a\\b"])
def test_external_data_elsewhere(tmp_path, location):
    refused(external(tmp_path, location=location), "expected the plain name")


@pytest.mark.parametrize(
    "changes", [{"offset": "65"}, {"offset": "-1"}, {"length": "7"}, {"offset": "x"}, {"offset": str(1 << 62)}]
)
def test_external_data_that_lies(tmp_path, changes):
    refused(external(tmp_path, **changes), "claims bytes|no number")


def test_external_data_behind_a_link(tmp_path):
    path = external(tmp_path)
    (tmp_path / "x.data").rename(tmp_path / "other")
    (tmp_path / "x.data").symlink_to(tmp_path / "other")
    refused(path, "is a link. Refused")
    (tmp_path / "x.data").unlink()
    refused(path, "cannot be opened")


def test_inspecting_reads_no_numbers(tmp_path):
    path = tmp_path / "x.onnx"
    zeros = np.zeros((1 << 20,), np.float32)
    path.write_bytes(model([tensor(zeros, "a"), tensor(zeros, "b")]).SerializeToString())
    read = []

    class Counting(Source):
        def array(self, span):
            read.append(span.size)
            return super().array(span)

    original, onnx_file.Source = onnx_file.Source, Counting
    try:
        with onnx_file.opened(path) as contents:
            assert [it.shape for it in contents.tensors.values()] == [(1 << 20,)] * 2
            assert sum(read) < 50_000
            assert contents.tensors["b"].load().shape == (1 << 20,)
            assert sum(read) > 1 << 22
    finally:
        onnx_file.Source = original


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda it: it.dims.__setitem__(0, 5), "claims the shape"),
        (lambda it: it.dims.__setitem__(0, 1 << 60), "claims the shape"),
        (lambda it: it.dims.__setitem__(0, -1), "claims the shape"),
        (lambda it: it.dims.extend([1] * 100), "claims the shape"),
        (lambda it: setattr(it, "data_type", 11), "claims the shape"),
        (lambda it: setattr(it, "name", ""), "two tensors are called ''"),
        (lambda it: it.float_data.extend([1.0] * 108), "one by one"),
        (lambda it: setattr(it, "data_location", 1), "two places"),
    ],
)
def test_tensors_that_lie(tmp_path, change, match):
    proto = tensor(KERNEL, "w")
    change(proto)
    (tmp_path / "x.onnx").write_bytes(model([proto]).SerializeToString())
    refused(tmp_path / "x.onnx", match)


def test_many_names_for_one_tensor_do_not_fill_the_memory(tmp_path):
    big = np.zeros((1 << 20,), np.float32)
    nodes = [onnx.helper.make_node("Identity", ["a"], [f"b{number}"]) for number in range(50)]
    nodes.append(onnx.helper.make_node("Sum", [f"b{number}" for number in range(50)], ["c"]))
    (tmp_path / "x.onnx").write_bytes(model([tensor(big, "a")], nodes).SerializeToString())
    refused(tmp_path / "x.onnx", "far more tensors")


def test_a_million_empty_fields(tmp_path):
    start = b"\x08\x08\x12\x00"
    graph = b"\x0a\x00" * 1_000_100
    length = struct.pack("<I", len(graph))
    size = int.from_bytes(length, "little")
    encoded = b""
    while size >= 0x80:
        encoded, size = encoded + bytes([size & 0x7F | 0x80]), size >> 7
    (tmp_path / "x.onnx").write_bytes(start + b"\x3a" + encoded + bytes([size]) + graph)
    refused(tmp_path / "x.onnx", "too many")


@how_much
def test_damage(network, truncated, flipped):
    tally = check_format(network, truncated=truncated, flipped=flipped, reader=READER)
    assert tally["refused"] >= truncated / 2
