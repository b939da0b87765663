"""TensorFlow's checkpoints, read without TensorFlow and compared with what TensorFlow wrote."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from damage import check_format, how_much

from greffon.errors import WeightFileError
from greffon.weights.read import tf_bundle
from greffon.weights.read.crc32c import crc32c, masked

GOLDEN = Path(__file__).with_name("golden_tf_keras")
READER = "greffon.weights.read.tf_bundle"
GOLDEN_SHAPES = {
    "conv1_conv/kernel": (3, 3, 3, 4),
    "conv1_conv/bias": (4,),
    "conv1_bn/gamma": (4,),
    "conv1_bn/beta": (4,),
    "conv1_bn/moving_mean": (4,),
    "conv1_bn/moving_variance": (4,),
    "predictions/kernel": (4, 3),
    "predictions/bias": (3,),
}


@contextmanager
def opened(path):
    head = path.read_bytes()[:512] if path.is_file() else b""
    assert tf_bundle.recognises(head, path)
    with tf_bundle.opened(path) as contents:
        yield contents


def load(path):
    with opened(path) as contents:
        return contents, {name: tensor.load() for name, tensor in contents.tensors.items()}


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def refused(path, match):
    with pytest.raises(WeightFileError, match=match):
        load(path)


# What TensorFlow and Keras 3 write


@pytest.fixture(scope="module")
def small():
    """A trained model with its backbone nested, random BN statistics and an optimizer."""
    import keras

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1_conv")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    backbone = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="resnet50")
    model = keras.Sequential([backbone, keras.layers.Dense(3, name="predictions")])
    model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
    random = np.random.default_rng(0)
    model.fit(random.normal(size=(2, 8, 8, 3)), random.normal(size=(2, 3)), verbose=0)
    return model


def test_a_backbone_of_keras_3(tmp_path, trained, arrays_of):
    import tensorflow as tf

    tf.train.Checkpoint(model=trained).save(str(tmp_path / "ckpt"))
    contents, arrays = load(tmp_path)
    same(arrays, arrays_of(trained))
    assert list(arrays) == list(arrays_of(trained)), "in the model's order"
    assert contents.layer_names == tuple(dict.fromkeys(name.split("/")[0] for name in arrays))
    assert [tensor.shape for tensor in contents.tensors.values()] == [array.shape for array in arrays.values()]


@pytest.mark.parametrize("way", ["model", "net"])
def test_a_training_of_keras_3_without_its_optimizer(tmp_path, small, arrays_of, way):
    import tensorflow as tf

    tf.train.Checkpoint(**{way: small, "adam": small.optimizer}).write(str(tmp_path / "ckpt"))
    contents, arrays = load(tmp_path)
    same(arrays, arrays_of(small))
    assert any("optimizer" in note for note in contents.notes)


def test_saved_models_of_keras_3(tmp_path, small, arrays_of):
    import tensorflow as tf

    small.export(tmp_path / "export", verbose=False)
    tf.saved_model.save(small, str(tmp_path / "saved"))
    for path in (tmp_path / "export", tmp_path / "export" / "saved_model.pb", tmp_path / "saved"):
        contents, arrays = load(path)
        assert contents.format == "TensorFlow SavedModel"
        same(arrays, arrays_of(small))


def test_two_networks_with_the_same_layers_are_told_apart(tmp_path):
    import tensorflow as tf

    first, second = tf.Module(), tf.Module()
    first.w, second.w = (tf.Variable([value], name="layer/kernel") for value in (1.0, 2.0))
    tf.train.Checkpoint(a=first, b=second).write(str(tmp_path / "ckpt"))
    _, arrays = load(tmp_path)
    same(arrays, {"a/w": [1.0], "b/w": [2.0]})


def test_other_types(tmp_path):
    import ml_dtypes
    import tensorflow as tf

    module = tf.Module()
    values = np.array([1.5, -2.0, 65504.0])
    for dtype in ("float16", "bfloat16", "float64", "int64", "bool"):
        setattr(module, dtype, tf.Variable(tf.cast(values, dtype), name=f"layer/{dtype}"))
    tf.train.Checkpoint(m=module).write(str(tmp_path / "ckpt"))
    contents, arrays = load(tmp_path)
    assert contents.tensors["layer/bfloat16"].dtype == "bfloat16"
    np.testing.assert_array_equal(arrays["layer/bfloat16"], values.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(arrays["layer/float16"], values.astype(np.float32))
    assert arrays["layer/float64"].dtype == np.float32
    assert arrays["layer/int64"].tolist() == [1, -2, 65504]


@pytest.fixture(scope="module")
def tf1(tmp_path_factory):
    """The same network in both of TensorFlow 1's formats, and its numbers."""
    import tensorflow as tf

    v1 = tf.compat.v1
    folder = tmp_path_factory.mktemp("tf1")
    (folder / "old").mkdir()
    with tf.Graph().as_default():
        kernel = v1.get_variable("resnet_v1_50/conv1/weights", (3, 3, 2, 4))
        gamma = v1.get_variable("resnet_v1_50/conv1/BatchNorm/gamma", (4,))
        v1.get_variable("resnet_v1_50/conv1/weights/Momentum", (3, 3, 2, 4))
        v1.get_variable("global_step", (), tf.int64)
        v1.get_variable("part/weights", (8, 4), partitioner=v1.fixed_size_partitioner(2))
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "new" / "model.ckpt"), global_step=3)
            v1.train.Saver(write_version=v1.train.SaverDef.V1).save(session, str(folder / "old" / "model.ckpt"))
            values = session.run([kernel, gamma])
    return folder, dict(zip([kernel.op.name, gamma.op.name], values, strict=True))


@pytest.mark.parametrize("name", ["new", "old", "old/model.ckpt"])
def test_tensorflow_1_keeps_its_names(tf1, name):
    folder, values = tf1
    contents, arrays = load(folder / name)
    same(arrays, values)
    assert contents.metadata["names"] == "variables"
    assert any("part/weights is left out: it is stored in slices" in note for note in contents.notes)
    assert any("optimizer" in note for note in contents.notes)


# What Keras 2 wrote


def golden_values():
    return {
        name: (np.arange(np.prod(shape)).reshape(shape) / 8 + number).astype(np.float32)
        for number, (name, shape) in enumerate(GOLDEN_SHAPES.items())
    }


@pytest.fixture
def keras_2(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "golden")
    (tmp_path / "golden" / "saved_model" / "saved_model.pb").write_bytes(b"not read")
    return tmp_path / "golden"


@pytest.mark.parametrize(
    "name", ["checkpoint", "checkpoint/ckpt.index", "checkpoint/ckpt.data-00000-of-00001", "saved_model"]
)
def test_keras_2(keras_2, name):
    contents, arrays = load(keras_2 / name)
    same(arrays, golden_values())
    if name == "saved_model":
        assert contents.configs["conv1_conv"]["strides"] == [2, 2]
        assert contents.metadata["keras_version"] == "2.21.0"
    else:
        assert any("optimizer" in note for note in contents.notes)


def test_keras_2_as_it_writes_now(tmp_path):
    keras = pytest.importorskip("tf_keras")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, name="predictions")])
    model.save_weights(tmp_path / "ckpt", save_format="tf")
    _, arrays = load(tmp_path)
    same(arrays, dict(zip(["predictions/kernel", "predictions/bias"], model.get_weights(), strict=True)))


def test_tensorflow_is_not_needed(keras_2):
    code = (
        "import sys; from pathlib import Path; from greffon.weights.read import tf_bundle\n"
        f"with tf_bundle.opened(Path({str(keras_2 / 'checkpoint')!r})) as contents: contents.load()\n"
        "assert not {'tensorflow', 'keras', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_data_is_read_when_it_is_asked_for_and_then_checked(keras_2):
    data = keras_2 / "saved_model" / "variables" / "variables.data-00000-of-00001"
    intact = data.read_bytes()
    kernel = golden_values()["conv1_conv/kernel"].tobytes()
    data.write_bytes(intact.replace(kernel, bytes(len(kernel))))
    with opened(keras_2 / "saved_model") as contents:
        assert {name: tensor.shape for name, tensor in contents.tensors.items()} == GOLDEN_SHAPES
        assert contents.tensors["predictions/bias"].load().shape == (3,)
        with pytest.raises(WeightFileError, match="checksum does not fit"):
            contents.tensors["conv1_conv/kernel"].load()


def test_a_folder_with_several_checkpoints(keras_2):
    folder = keras_2 / "checkpoint"
    (folder / "checkpoint").unlink()
    shutil.copy(folder / "ckpt.index", folder / "other.index")
    refused(folder, r"holds 2 checkpoints: name one of them \(ckpt.index, other.index\)")


# Checksums


def one_bit_at_a_time(data):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("length", [0, 1, 511, 1024, 1027, 131072, 131077])
def test_checksums(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == one_bit_at_a_time(data)


# Files made to harm


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(**fields):
    """`f3=7` an integer in field 3, `f2=b".."` bytes in field 2."""
    out = b""
    for name, value in fields.items():
        number = int(name[1:])
        if number == 6:
            out += varint(number << 3 | 5) + value.to_bytes(4, "little")
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def block(entries, kind=0):
    data = b"".join(
        varint(shared) + varint(len(key)) + varint(len(value)) + key + value for shared, key, value in entries
    )
    data += (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes([kind])
    return data + masked(crc32c(data)).to_bytes(4, "little")


def table(entries, *, kind=0, repeat=1):
    """An index with one block of entries, which its own index names `repeat` times."""
    body = block(entries, kind)
    handle = varint(0) + varint(len(body) - 5)
    meta, index = block([]), block([(0, b"\xff", handle)] * repeat)
    footer = varint(len(body)) + varint(len(meta) - 5) + varint(len(body) + len(meta)) + varint(len(index) - 5)
    return body + meta + index + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def shape(*lengths):
    return b"".join(message(f2=message(f1=length)) for length in lengths)


NUMBERS = np.arange(8, dtype="<f4")
CRC = masked(crc32c(NUMBERS))
HEADER = (0, b"", message(f1=1))
ENTRY = {"f1": 1, "f2": shape(8), "f5": 32, "f6": CRC}


def write(tmp_path, entries, **options):
    (tmp_path / "x.data-00000-of-00001").write_bytes(NUMBERS.tobytes())
    (tmp_path / "x.index").write_bytes(table(entries, **options))
    return tmp_path / "x.index"


def test_the_writer_of_these_tests_writes_what_tensorflow_reads(tmp_path):
    import tensorflow as tf

    path = write(tmp_path, [HEADER, (0, b"a/w", message(**ENTRY))])
    np.testing.assert_array_equal(tf.train.load_checkpoint(str(tmp_path / "x")).get_tensor("a/w"), NUMBERS)
    same(load(path)[1], {"a/w": NUMBERS})


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f5": 36, "f2": shape(9)}))], "cut off"),
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f4": 1 << 62}))], "cut off"),
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f2": shape(1 << 40)}))], "claims the shape"),
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f2": shape(1 << 30, 1 << 30)}))], "claims the shape"),
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f2": shape((1 << 64) - 1)}))], "claims the shape"),
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f3": 7}))], "in shard 7 of 1"),
        ([(0, b"", message(f1=3)), (0, b"a/w", message(**ENTRY))], "00000-of-00003"),
        ([(0, b"", message(f1=1 << 40)), (0, b"a/w", message(**ENTRY))], "claims 1,099,511,627,776 shards"),
        ([(0, b"", message(f1=1, f2=1)), (0, b"a/w", message(**ENTRY))], "big-endian"),
        ([(0, b"a/w", message(**ENTRY))], "no header"),
        ([HEADER, (0, b"a/w", message(**ENTRY)), (2, b"x", message(**ENTRY))], "overlaps"),
        ([HEADER, (0, b"a/w", message(**ENTRY | {"f6": 1}))], "checksum does not fit"),
        ([HEADER, (5, b"a/w", message(**ENTRY))], "beyond its block"),
        ([HEADER, (0, b"\xff/w", message(**ENTRY))], "no text"),
        ([HEADER, (0, b"a/w", b"\x0a\xff")], "cut off or damaged"),
        ([HEADER, (0, b"_CHECKPOINTABLE_OBJECT_GRAPH", message(**ENTRY))], "object graph is damaged"),
        ([HEADER, (0, b"k" * 4000, b""), *[(4000, b"", b"")] * 9000], "more entries than any"),
    ],
)
def test_an_index_that_lies(tmp_path, entries, match):
    refused(write(tmp_path, entries), match)


def test_blocks_that_are_compressed_or_named_twice(tmp_path):
    refused(write(tmp_path, [HEADER], kind=1), "compressed")
    refused(write(tmp_path, [HEADER], repeat=2), "overlap")


@pytest.mark.parametrize("member", ["ckpt.index", "ckpt.data-00000-of-00001"])
def test_links_are_not_followed(keras_2, tmp_path, member):
    path = keras_2 / "checkpoint" / member
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(keras_2 / "checkpoint", "is a link. Refused")


def test_variables_that_lie_elsewhere(keras_2, tmp_path):
    variables = keras_2 / "saved_model" / "variables"
    variables.rename(tmp_path / "variables")
    variables.symlink_to(tmp_path / "variables")
    refused(keras_2 / "saved_model", "its weights are missing")


@pytest.mark.parametrize("name", ["../golden/ckpt", "sub/ckpt", "..", "a\\\\b", ""])
def test_a_list_that_points_elsewhere(keras_2, name):
    (keras_2 / "checkpoint" / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    refused(keras_2 / "checkpoint", "expected the plain name")


def test_a_list_with_the_way_on_another_machine(keras_2):
    (keras_2 / "checkpoint" / "checkpoint").write_text('model_checkpoint_path: "/home/someone/run/ckpt"\n')
    same(load(keras_2 / "checkpoint")[1], golden_values())
    (keras_2 / "checkpoint" / "checkpoint").write_text("something else")
    refused(keras_2 / "checkpoint", "names no checkpoint")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_a_shard(keras_2):
    path = keras_2 / "checkpoint" / "ckpt.data-00000-of-00001"
    path.unlink()
    os.mkfifo(path)
    refused(keras_2 / "checkpoint", "no plain file")


def test_missing_files(keras_2):
    (keras_2 / "checkpoint" / "ckpt.data-00000-of-00001").unlink()
    refused(keras_2 / "checkpoint", "cannot be opened")
    shutil.rmtree(keras_2 / "saved_model" / "variables")
    refused(keras_2 / "saved_model", "weights are missing")


@how_much
@pytest.mark.parametrize("member", ["ckpt.index", "ckpt.data-00000-of-00001"])
def test_damage(keras_2, member, truncated, flipped):
    tally = check_format(
        keras_2 / "checkpoint", member=member, truncated=truncated, flipped=flipped, checksum=True, reader=READER
    )
    assert tally["refused"] >= truncated
    assert set(tally) <= {"refused", "right"}


@how_much
def test_damage_to_the_first_format(tf1, truncated, flipped):
    path = tf1[0] / "old" / "model.ckpt"
    tally = check_format(path, truncated=truncated, flipped=flipped, reader=READER)
    assert tally["refused"] >= truncated


def test_an_index_that_is_far_too_large(tmp_path):
    refused(write(tmp_path, [HEADER, (0, b"a/w", bytes(5 << 20))]), "more than that of any network")
