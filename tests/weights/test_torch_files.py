"""PyTorch files read without PyTorch: equal to what PyTorch itself reads; hostile and damaged ones refused."""

import argparse
import pickle
import struct
import subprocess
import warnings
import zipfile

import numpy as np
import pytest
from damage import Damage, check_damaged, check_format, how_much
from test_pickled import Call, named, text

from greffon.errors import WeightFileError
from greffon.weights.read import torch_bare, torch_legacy, torch_zip

FORMATS = (torch_zip, torch_legacy, torch_bare)
BOTH = pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])


def load(path):
    """Name -> array, with the contents, by the first format that recognises the file."""
    head = path.read_bytes()[:512]
    module = next(it for it in FORMATS if it.recognises(head, path))
    with module.opened(path) as contents:
        return {name: it.load() for name, it in contents.tensors.items()}, contents


# Files made by hand: the formats, without PyTorch.


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def sizes(*values):
    return b"(" + b"".join(number(it) for it in values) + b"t"


def storage(key="0", count=6, kind="torch.FloatStorage", view=b""):
    return b"(" + text("storage") + named(kind) + text(key) + text("cpu") + number(count) + view + b"tQ"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, **options):
    begin = named("torch._utils._rebuild_tensor_v2") + b"(" + storage(**options) + number(offset)
    return begin + sizes(*shape) + sizes(*strides) + b"\x89" + named("collections.OrderedDict") + b")RtR"


def state(**tensors):
    return b"\x80\x02}(" + b"".join(text(name) + it for name, it in tensors.items()) + b"u."


NUMBERS = np.arange(6, dtype=np.float32)


def make_zip(path, data, members=None, **more):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in ({"data/0": NUMBERS.tobytes()} if members is None else members).items():
            archive.writestr(f"archive/{name}", content)
        for name, content in more.items():
            archive.writestr(name, content)
    return path


ONE_STORAGE = ((6, NUMBERS.tobytes()),)


def make_old(path, data, storages=ONE_STORAGE, keys=("0",)):
    start = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    numbers = b"".join(struct.pack("<q", count) + content for count, content in storages)
    begin = b"".join(pickle.dumps(it, 2) for it in start)
    path.write_bytes(begin + data + pickle.dumps(list(keys), 2) + numbers)
    return path


def old_view(key="0"):
    return tensor(shape=(2,), strides=(1,), view=b"(" + text("v") + number(4) + number(2) + b"t", key=key)


@pytest.mark.parametrize("make", [make_zip, make_old])
def test_a_file_made_by_hand(tmp_path, make):
    view = tensor(shape=(3, 2), strides=(1, 3))
    arrays, contents = load(make(tmp_path / "a.pth", state(a=tensor(), b=view)))
    np.testing.assert_array_equal(arrays["a"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(arrays["b"], NUMBERS.reshape(2, 3).T)
    assert contents.notes == []


def test_views_of_storages(tmp_path):
    without = tensor(view=b"N")
    arrays, _ = load(make_old(tmp_path / "a.pth", state(a=without, v=old_view())))
    np.testing.assert_array_equal(arrays["v"], [4, 5])
    outside = tensor(view=b"(" + text("v") + number(5) + number(2) + b"t")
    with pytest.raises(WeightFileError, match="lies outside"):
        load(make_old(tmp_path / "a.pth", state(v=outside)))


def test_big_endian(tmp_path):
    kinds = {"FloatStorage": ">f4", "HalfStorage": ">f2", "LongStorage": ">i8", "ByteStorage": "u1", "BoolStorage": "?"}
    tensors = {
        f"t{it}": tensor(shape=(6,), strides=(1,), key=str(it), kind=f"torch.{kind}") for it, kind in enumerate(kinds)
    }
    tensors["brain"] = tensor(shape=(6,), strides=(1,), key="5", kind="torch.BFloat16Storage")
    members = {f"data/{it}": NUMBERS.astype(dtype).tobytes() for it, dtype in enumerate(kinds.values())}
    members |= {"byteorder": b"big", "data/5": (NUMBERS.view("<u4") >> 16).astype(">u2").tobytes()}
    arrays, _ = load(make_zip(tmp_path / "a.pth", state(**tensors), members))
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, NUMBERS != 0 if name == "t4" else NUMBERS)


def test_only_what_is_asked_for_is_read(tmp_path):
    """Another tensor's damage is not seen before it is read."""
    members = {"data/0": NUMBERS.tobytes(), "data/1": (NUMBERS + 9).tobytes()}
    path = make_zip(tmp_path / "a.pth", state(a=tensor(), b=tensor(key="1")), members)
    path.write_bytes(path.read_bytes().replace((NUMBERS + 9).tobytes(), bytes(24)))
    with torch_zip.opened(path) as contents:
        np.testing.assert_array_equal(contents.tensors["a"].load(), NUMBERS.reshape(2, 3))
        with pytest.raises(WeightFileError, match="do not fit their checksum"):
            contents.tensors["b"].load()


LIES = {
    "storage larger than its member": (state(a=tensor(count=7)), "claims 28 bytes, and 24 are"),
    "gigantic storage": (state(a=tensor(count=1 << 40)), "claims 4,398,046,511,104 bytes"),
    "tensor larger than its storage": (state(a=tensor(shape=(3, 3), strides=(3, 1))), "needs 36 bytes of a storage"),
    "offset behind its storage": (state(a=tensor(offset=1)), "needs 28 bytes"),
    "strides beyond its storage": (state(a=tensor(strides=(1 << 40, 1))), "of a storage that has 24"),
    "one number spread over all memory": (state(a=tensor((1 << 20, 1 << 20), (0, 0))), "more data than its"),
    "negative strides": (state(a=tensor(strides=(-1, 1))), "no sensible integer"),
    "sizes beyond integers": (state(a=tensor((1 << 40, 1 << 40), (0, 0))), "claims the shape"),
    "nothing of gigantic size": (state(a=tensor((0, 1 << 40, 1 << 40), (0, 0, 0))), "claims the shape"),
    "sizes without strides": (state(a=tensor((2, 3), (1,))), "2 sizes and 1 strides"),
    "storage elsewhere": (state(a=tensor(key="../../../etc/passwd")), "missing|not in its list|is not in the file"),
    "a storage of two types": (state(a=tensor(), b=tensor(kind="torch.IntStorage", count=5)), "described twice"),
    "no storage": (state(a=named("torch._utils._rebuild_tensor_v2") + b"(NK\x00))tR"), "without a storage"),
    "too few arguments": (state(a=named("torch._utils._rebuild_tensor_v2") + b")R"), "damaged at byte"),
}


@pytest.mark.parametrize("make", [make_zip, make_old])
@pytest.mark.parametrize("name", LIES)
def test_sizes_that_lie_are_refused_before_anything_is_read(tmp_path, make, name):
    data, why = LIES[name]
    if make is make_old and "claims" in why and "bytes" in why:
        why = "and 24 were written|are announced"
    with pytest.raises(WeightFileError, match=why):
        load(make(tmp_path / "a.pth", data))


def test_sizes_that_lie_in_the_old_format(tmp_path):
    path = tmp_path / "a.pth"
    for count, content in [(7, NUMBERS.tobytes()), (5, NUMBERS.tobytes()), (-1, b""), (1 << 60, b"")]:
        with pytest.raises(WeightFileError, match=r"claims 24 bytes, and .* were written"):
            load(make_old(path, state(a=tensor()), [(count, content)]))
    with pytest.raises(WeightFileError, match="are announced"):
        load(make_old(path, state(a=tensor(count=1 << 30)), [(1 << 30, bytes(100))]))
    with pytest.raises(WeightFileError, match="is not in the file"):
        load(make_old(path, state(a=tensor()), [], []))
    with pytest.raises(WeightFileError, match="there twice"):
        load(make_old(path, state(a=tensor()), [(6, NUMBERS.tobytes())] * 2, ["0", "0"]))
    with pytest.raises(WeightFileError, match="list of its storages"):
        load(make_old(path, state(a=tensor()), [], [None]))


def _twice(path):
    make_zip(path, state(a=tensor()))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", b"N.")


def _packed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", state(a=tensor()))
        archive.writestr("archive/data/0", bytes(1 << 24))


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 28))


def _shared(path):
    """Two members that lie on the same bytes."""
    make_zip(path, state(a=tensor(), b=tensor(key="1")), {"data/0": NUMBERS.tobytes(), "data/1": NUMBERS.tobytes()})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first, second = (struct.pack("<I", archive.getinfo(f"archive/data/{it}").header_offset) for it in "01")
    place = data.rindex(b"archive/data/1") - 4
    assert data[place : place + 4] == second
    path.write_bytes(data[:place] + first + data[place + 4 :])


def _many(path):
    """A directory that names the same few bytes 400,000 times."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHHHHII", 6, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%06d" % it for it in range(400_000))
    local = b"PK\x03\x04" + bytes(22) + struct.pack("<HH", 16, 0) + b"archive/data.pkl"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)


ARCHIVES = {
    "a way out of the folder": (lambda path: make_zip(path, state(a=tensor()), **{"../../evil.txt": b"x"}), "outside"),
    "an absolute member": (lambda path: make_zip(path, state(a=tensor()), **{"/etc/evil": b"x"}), "outside"),
    "a member twice": (_twice, "is in the archive twice"),
    "packed members": (_packed, "is compressed or encrypted"),
    "a bomb": (_bomb, "is compressed or encrypted"),
    "members on each other": (_shared, "does not fit into the archive"),
    "a gigantic directory": (_many, "which no weight file needs"),
    "two pickles": (
        lambda path: make_zip(path, state(a=tensor()), **{"other/data.pkl": b"N."}),
        "expected one data.pkl",
    ),
    "a strange order of bytes": (lambda path: make_zip(path, state(a=tensor()), {"byteorder": b"middle"}), "neither"),
    "no storage": (lambda path: make_zip(path, state(a=tensor()), {}), "archive/data/0 is missing"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives(tmp_path, name):
    make, why = ARCHIVES[name]
    path = tmp_path / "a.pth"
    make(path)
    with pytest.raises(WeightFileError, match=why):
        load(path)
    assert [it.name for it in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("make", [make_zip, make_old])
def test_calls_in_a_checkpoint_do_not_run(tmp_path, make):
    mark = tmp_path / "it-ran"
    for call in (Call(exec, f"open({str(mark)!r}, 'w').close()"), Call(subprocess.call, ["touch", str(mark)])):
        data = pickle.dumps({"epoch": call}, 2)
        with pytest.raises(WeightFileError, match="which could run code"):
            load(make(tmp_path / "a.pth", data))
        assert not mark.exists()
        pickle.loads(data)  # it does, when opened in the usual way
        assert mark.exists()
        mark.unlink()


def test_memory_and_time_of_hostile_files(tmp_path):
    """In a child with ten seconds and little memory: what claims a lot, and what is everywhere at once."""
    intact = make_zip(tmp_path / "intact.pth", state(a=tensor()))
    damages = []
    for name, (data, _) in LIES.items():
        damages.append(Damage(name, make_zip(tmp_path / "a.pth", data).read_bytes()))
    for name in ("a bomb", "a gigantic directory", "packed members"):
        ARCHIVES[name][0](tmp_path / "a.pth")
        damages.append(Damage(name, (tmp_path / "a.pth").read_bytes()))
    spread = {f"t{it}": tensor(shape=(2,), strides=((1 << 20) - 1,), count=1 << 20) for it in range(2000)}
    everywhere = make_zip(tmp_path / "a.pth", state(**spread), {"data/0": bytes(4 << 20)})
    damages.append(Damage("two numbers, far apart, many times", everywhere.read_bytes()))
    tally = check_damaged(intact, damages, reader="greffon.weights.read.torch_zip", workers=1)
    assert tally == {"refused": len(damages)}


@how_much
@pytest.mark.parametrize(("make", "reader"), [(make_zip, "torch_zip"), (make_old, "torch_legacy")])
def test_damaged_files(tmp_path, make, reader, truncated, flipped):
    tensors = {f"layer{it}.weight": tensor(key=str(it)) for it in range(6)}
    if make is make_zip:
        path = make_zip(tmp_path / "a.pth", state(**tensors), {f"data/{it}": NUMBERS.tobytes() for it in range(6)})
    else:
        keys = [str(it) for it in range(6)]
        path = make_old(tmp_path / "a.pth", state(**tensors), [(6, NUMBERS.tobytes())] * 6, keys)
    # Every member of the zip format has its checksum.
    tally = check_format(
        path, truncated=truncated, flipped=flipped, checksum=make is make_zip, reader=f"greffon.weights.read.{reader}"
    )
    assert tally["refused"] >= truncated


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "a.pth"
    tar = bytearray(1024)
    tar[257:262] = b"ustar"
    path.write_bytes(tar)
    with pytest.raises(WeightFileError, match="tar archive"):
        load(path)
    make_zip(path, state(a=tensor()), {"archive_format": b"pt2", "data/0": NUMBERS.tobytes()})
    with pytest.raises(WeightFileError, match=r"torch\.export"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert not torch_zip.recognises(path.read_bytes()[:512], path)
    whole = make_zip(path, state(a=tensor())).read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(WeightFileError, match="it is cut off: the archive's directory"):
        load(path)
    path.write_bytes(b"PK\x03\x04 and nothing")
    assert not torch_zip.recognises(path.read_bytes(), path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tensor() + b".", "one tensor without a name"),
        (b"}" + text("epoch") + b"K\x03s.", "a dict with epoch"),
        (b"}(" + text("state") + b"}" + text("param_groups") + b"]u.", "state of an optimizer"),
        (named("wandb.Run") + b")R.", "an object of wandb.Run"),
        (b"N.", "a Python NoneType"),
    ],
)
def test_what_is_there_instead_of_weights(tmp_path, data, why):
    with pytest.raises(WeightFileError, match=f"it holds no weights, but .*{why}"):
        load(make_zip(tmp_path / "a.pth", b"\x80\x02" + data))


# Against PyTorch itself.


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def _save(torch, value, path, new=True, **options):
    torch.save(value, path, _use_new_zipfile_serialization=new, **options)
    return path


def _same(arrays, expected):
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        there = expected[name].detach()
        there = there.float() if there.is_floating_point() else there
        np.testing.assert_array_equal(array, there.numpy(), err_msg=name)


@BOTH
@pytest.mark.parametrize("protocol", [2, 4])
def test_many_types_and_strides(torch, tmp_path, new, protocol):
    torch.manual_seed(0)
    base = torch.randn(6, 5, 4, 3)
    tensors = {
        "conv": base,
        "transposed": base.permute(3, 1, 0, 2),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "slice": base[1:5:2, 2:],
        "shared": base[0],
        "spread": torch.randn(1, 3).expand(4, 3),
        "half": torch.randn(7).half(),
        "brain": torch.randn(7, 2).bfloat16().t(),
        "double": torch.randn(3, dtype=torch.float64),
        "scalar": torch.tensor(17),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "flags": torch.tensor([True, False]),
    }
    for name in ("int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64"):
        tensors[name] = torch.arange(5).to(getattr(torch, name))
    arrays, contents = load(_save(torch, tensors, tmp_path / "a.pt", new, pickle_protocol=protocol))
    _same(arrays, tensors)
    for name, it in contents.tensors.items():
        assert (it.shape, f"torch.{it.dtype}") == (tuple(tensors[name].shape), str(tensors[name].dtype))
    assert contents.notes == []


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage is deprecated")
@BOTH
def test_tensors_of_no_plain_numbers_are_left_out(torch, tmp_path, new):
    value = {"a": torch.ones(2), "c": torch.ones(2, dtype=torch.complex64), "f": torch.ones(2).to(torch.float8_e5m2)}
    value |= {"s": torch.eye(3).to_sparse(), "q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}
    value |= {"m": torch.ones(2, device="meta"), "n": torch._neg_view(torch.ones(2))}
    arrays, contents = load(_save(torch, value, tmp_path / "a.pt", new))
    _same(arrays, {"a": value["a"]})
    assert "6 tensors hold no plain numbers" in contents.notes[0]


def test_without_checksums(torch, tmp_path):
    config = torch.serialization
    config.set_crc32_options(False)
    try:
        path = _save(torch, {"a": torch.arange(3.0)}, tmp_path / "a.pt")
    finally:
        config.set_crc32_options(True)
    _same(load(path)[0], {"a": torch.arange(3.0)})


def _network(torch):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 4, 3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(4)
            self.head = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
            self.again = self.head
            self.register_buffer("for_now", torch.ones(3), persistent=False)
            self.register_buffer("kept", torch.ones(3))

        def forward(self, x):
            return self.head(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))

    Block.__qualname__ = "Block"
    Block.__module__ = __name__
    globals()["Block"] = Block
    network = Block()
    for buffer in (network.bn1.running_mean, network.bn1.running_var):
        buffer.data.uniform_(0.5, 2)
    return network


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@BOTH
def test_whole_modules(torch, tmp_path, new):
    network = torch.nn.DataParallel(_network(torch))
    arrays, contents = load(_save(torch, network, tmp_path / "a.pt", new))
    _same(arrays, network.state_dict())
    assert contents.metadata["class"].endswith("DataParallel")
    assert "it is a whole module" in contents.notes[0]
    arrays, contents = load(_save(torch, {"epoch": 2, "model": network.module}, tmp_path / "b.pt", new))
    _same(arrays, network.module.state_dict())
    assert contents.metadata == {"epoch": "2", "class": f"{__name__}.Block"}


def test_torchscript(torch, tmp_path):
    network = _network(torch).eval()
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still in many files
        torch.jit.trace(network, torch.ones(1, 3, 8, 8)).save(str(path))
    arrays, contents = load(path)
    expected = network.state_dict()
    for name in ("conv1.weight", "bn1.running_mean", "head.0.weight", "head.2.bias", "kept"):
        np.testing.assert_array_equal(arrays[name], expected[name].numpy())
    assert contents.format == "TorchScript"


def _wrappings(torch):
    """Checkpoint, the state dict that counts in it, and a word in its notes."""
    network = _network(torch)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    state, other = network.state_dict(), _network(torch).state_dict()
    args = argparse.Namespace(model="resnet50", lr=0.1)
    moco = {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer.state_dict()}
    vision = {"model": other, "model_ema": state, "optimizer": optimizer.state_dict(), "args": args, "epoch": 3}
    return {
        "plain": (state, state, ""),
        "moco": (moco, state, "optimizer's state (optimizer) was left out"),
        "moving average": (vision, state, "under 'model_ema' (a moving average) were taken, not those under model"),
        "twice": ({"model": {"state_dict": state}, "best_acc": 0.5}, state, ""),
        "dino": ({"student": other, "teacher": state, "dino_loss": {"center": torch.ones(3)}}, state, "'teacher'"),
        "net": ({"net": state, "acc": 91.5, "epoch": 3}, state, ""),
        "no average": ({"state_dict": state, "ema": None, "best": torch.tensor(3.0)}, state, "left out: best"),
        "a name of its own": ({"my_resnet": state, "optimizer": optimizer.state_dict()}, state, "left out"),
        "in a list": ([state, 3], state, ""),
        "groups": (
            {"backbone": state, "neck": {"w": torch.ones(2)}, "optimizer": optimizer.state_dict()},
            {f"backbone.{name}": it for name, it in state.items()} | {"neck.w": torch.ones(2)},
            "2 groups (backbone, neck)",
        ),
    }


@BOTH
def test_wrapped(torch, tmp_path, new):
    for name, (value, expected, note) in _wrappings(torch).items():
        arrays, contents = load(_save(torch, value, tmp_path / "a.pt", new))
        _same(arrays, expected)
        assert note in " | ".join(contents.notes), name


def test_what_a_checkpoint_says_of_itself(torch, tmp_path):
    args = argparse.Namespace(model="resnet50", lr=0.1, flags=[1])
    value = {"epoch": 90, "arch": "resnet50", "best_acc1": np.float64(76.1), "state_dict": {"a": torch.ones(2)}}
    value |= {"args": args, "text": "x\x1b[31m" + "y" * 500}
    _, contents = load(_save(torch, value, tmp_path / "a.pt"))
    facts = contents.metadata
    assert facts.pop("text") == "x?[31m" + "y" * 194 + "..."
    assert facts == {
        "epoch": "90",
        "arch": "resnet50",
        "best_acc1": "76.1",
        "args.model": "resnet50",
        "args.lr": "0.1",
    }
    assert "argparse.Namespace" in contents.notes[-1]


@pytest.mark.large
def test_damaged_files_of_pytorch(torch, tmp_path):
    """A file of PyTorch itself, its alignment and its further members, damaged."""
    path = _save(torch, _network(torch).state_dict(), tmp_path / "a.pt")
    tally = check_format(path, truncated=100, flipped=1000, checksum=True, reader="greffon.weights.read.torch_zip")
    assert tally["refused"] >= 100
