"""8 bits: close to float32, the same whatever the batch and the cut, calibrated once, and kept apart in the store."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

keras = pytest.importorskip("keras")
layers = keras.layers

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from PIL import Image  # noqa: E402

import greffon  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.errors import InputError  # noqa: E402
from greffon.frozen import build as build_module  # noqa: E402
from greffon.frozen import engine as engine_module  # noqa: E402
from greffon.frozen import hardware, quantise  # noqa: E402
from greffon.frozen.agreement import cosine_similarity, label_agreement, norm_difference  # noqa: E402
from greffon.frozen.build import build_engine  # noqa: E402
from greffon.frozen.emit import emit, find_quantisable  # noqa: E402
from greffon.frozen.emit.quantised import Observed, Quantisation  # noqa: E402
from greffon.frozen.even import at_even_positions  # noqa: E402
from greffon.frozen.graph import flatten  # noqa: E402
from greffon.frozen.quantise import quantisation_of  # noqa: E402
from greffon.pictures.demo import demo_pictures  # noqa: E402

SIDE = 64


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """Some of the demo's pictures, of every class, as the network takes them."""
    folder = demo_pictures(tmp_path_factory.mktemp("demo")) / "train"
    files = [sorted(entry.iterdir())[number] for number in range(4) for entry in sorted(folder.iterdir())]
    opened = [Image.open(file).convert("RGB").resize((SIDE, SIDE)) for file in files]
    return np.stack([np.asarray(picture) for picture in opened])


def small(variant="v1", *, side=32, pooling=None, seed=0, blocks=(1, 1, 1, 1)):
    keras.utils.set_random_seed(seed)
    model = resnet(variant=variant, input_shape=(side, side, 3), blocks=blocks, pooling=pooling)
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1:
            weight.assign(random.normal(0, 0.1, weight.shape))
    model.trainable = False
    return model


def noise(rows, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)


def int8(graph, some):
    return build_engine(graph, precision="int8", calibration=lambda: [some])


def optimised(model, path):
    """Operators that ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


# --- close to float32 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 7])
def test_features_of_a_trained_network_keep_their_direction(clothes, monkeypatch, bits):
    monkeypatch.setattr(quantise, "sums_bytes_exactly", lambda: bits == 8)
    backbone = greffon.resnet50(weights="thin", input_shape=(SIDE, SIDE, 3), pooling="avg")
    graph = at_even_positions(flatten(backbone))
    exact, quick = build_engine(graph), int8(graph, clothes[:16])
    assert (exact.precision, quick.precision, quick.name) == ("fp32", "int8", "onnx")
    (theirs,), (ours,) = exact.run([clothes]), quick.run([clothes])
    assert ours.dtype == np.float32
    # Two by two positions are pooled, of pictures that the network has never seen the like of.
    similar = cosine_similarity(ours, theirs)
    assert np.median(similar) > 0.99
    assert similar.min() > 0.95
    assert norm_difference(ours, theirs) > 1e-5  # not float32 after all


@pytest.mark.parametrize(
    ("variant", "pooling", "even"),
    [
        ("v1", "avg", True),
        ("v1.5", None, False),
        ("thin", "avg", False),
        ("thin", None, True),
        *(
            pytest.param(*case, marks=pytest.mark.large)
            for case in [
                *[("v1", "avg", False), ("v1", None, True), ("v1", None, False), ("v1.5", "avg", True)],
                *[("v1.5", "avg", False), ("v1.5", None, True), ("thin", "avg", True), ("thin", None, False)],
            ]
        ),
    ],
)
def test_every_variant_and_cut(variant, pooling, even, tmp_path):
    graph = flatten(small(variant, pooling=pooling, blocks=(1, 2, 2, 2)))
    graph = at_even_positions(graph) if even else graph
    x = noise(8)
    (theirs,), (ours,) = build_engine(graph).run([x]), int8(graph, x).run([x])
    assert ours.shape == theirs.shape
    assert norm_difference(ours, theirs) < 0.05
    found = optimised(emit(graph, quantisation=quantisation_of(graph)), tmp_path / "model.onnx")
    assert found["QLinearConv"] == sum(type(node.operation).__name__ in ("Conv2D", "Restrided") for node in graph.nodes)
    assert found["QLinearAdd"] == 7
    assert found["Conv"] + found["Add"] + found["MaxPool"] == 0


def test_depthwise_and_relu6(tmp_path):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((32, 32, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, use_bias=False)(pixels)))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.Conv2D(8, 1, use_bias=False)(layers.ReLU(6.0)(layers.BatchNormalization()(y)))
    joined = layers.Concatenate()([layers.Add()([x, y]), x])
    graph = flatten(keras.Model(pixels, layers.Conv2D(4, 1, groups=2)(joined)))
    x = noise(8)
    (theirs,), (ours,) = build_engine(graph).run([x]), int8(graph, x).run([x])
    assert norm_difference(ours, theirs) < 0.05
    found = optimised(emit(graph, quantisation=quantisation_of(graph)), tmp_path / "model.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"], found["QLinearConcat"]) == (4, 1, 1)
    assert found["Conv"] + found["Clip"] == 0


def test_what_has_no_integer_form_stays_float32_between(tmp_path):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="silu")(layers.Rescaling(1 / 255)(pixels))
    x = layers.Conv2D(6, 3)(layers.Multiply()([x, layers.Activation("sigmoid")(x)]))
    graph = flatten(keras.Model(pixels, [layers.Dense(5)(layers.Flatten()(x)), x]))
    x = noise(8, 16)
    theirs, ours = build_engine(graph).run([x]), int8(graph, x).run([x])
    assert max(map(norm_difference, ours, theirs)) < 0.05
    found = optimised(emit(graph, quantisation=quantisation_of(graph)), tmp_path / "model.onnx")
    assert found["QLinearConv"] == 2
    assert found["Gemm"] == 1


def test_a_channel_of_nearly_no_weights_keeps_its_bias():
    layer = layers.Conv2D(3, 1)
    graph = flatten(keras.Sequential([keras.Input((4, 4, 1)), layer]))
    kernel = np.array([[[[1.0, 1e-30, 0.0]]]], np.float32)
    layer.set_weights([kernel, np.array([0.0, 3.0, -2.0], np.float32)])
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 4, 4, 1)
    (ours,) = int8(graph, x).run([x])
    np.testing.assert_allclose(ours[..., 0], x[..., 0], atol=0.03)
    np.testing.assert_allclose(ours[..., 1], 3.0, rtol=0.03)
    np.testing.assert_allclose(ours[..., 2], -2.0, rtol=0.03)


def test_rounded_weights_do_not_shift_the_mean():
    """Weights that are all rounded the same way, on an input whose mean is far from zero."""
    layer = layers.Conv2D(1, 1, use_bias=False)
    graph = flatten(keras.Sequential([keras.Input((4, 4, 64)), layer]))
    kernel = np.full((1, 1, 64, 1), 0.4 / 127, np.float32)  # rounds to nothing beside a weight of 1
    kernel[0, 0, 0, 0] = 1
    layer.set_weights([kernel])
    x = np.random.default_rng(0).uniform(0, 1, (8, 4, 4, 64)).astype("float32")
    x[..., 0] = 0
    (theirs,), (ours,) = build_engine(graph).run([x]), int8(graph, x).run([x])
    assert theirs.mean() > 0.09
    assert abs(ours.mean() - theirs.mean()) < 0.01


def test_seven_bits_where_products_are_summed_in_sixteen(monkeypatch):
    graph = flatten(small())
    largest = {}
    for exact in (True, False):
        monkeypatch.setattr(quantise, "sums_bytes_exactly", lambda exact=exact: exact)
        model = onnx.load_from_string(emit(graph, quantisation=quantisation_of(graph, lambda: [noise(4)])))
        kernels = [
            onnx.numpy_helper.to_array(c) for c in model.graph.initializer if c.data_type == onnx.TensorProto.INT8
        ]
        largest[exact] = max(np.abs(kernel.astype(int)).max() for kernel in kernels)
    assert largest == {True: 127, False: 63}  # 2 * 255 * 63 < 2**15


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\nflags : avx512_vnni", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("flags : avx_vnni\nflags : avx2", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("Features\t: fp asimd\n", False),
        ("nothing", False),
        (None, False),
    ],
)
def test_what_the_processor_says_of_itself(tmp_path, text, exact):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert hardware.sums_bytes_exactly(tmp_path / "cpuinfo") == exact


# --- the same numbers ----------------------------------------------------------------------------------------------


def test_numbers_do_not_depend_on_batch_or_threads():
    graph, x = flatten(small()), noise(9)
    (expected,) = int8(graph, x).run([x])
    for threads, size in ((1, 1), (1, 9), (2, 2), (2, 4), (3, 1)):
        engine = build_engine(graph, precision="int8", threads=threads, batch_size=size)
        np.testing.assert_array_equal(engine.run([x])[0], expected)


def test_a_tensor_has_the_same_numbers_whatever_is_cut_behind_it():
    whole = flatten(small(pooling="avg"))
    layer = next(node for node in whole.nodes if node.path.endswith("conv3_block1_out"))
    shallow = whole.between(whole.inputs, layer.outputs)
    both = whole.between(whole.inputs, [*layer.outputs, *whole.outputs])
    x = noise(5)
    alone, pooled, together = (int8(graph, x).run([x]) for graph in (shallow, whole, both))
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1], pooled[0])


def test_a_calibration_serves_shallower_cuts_and_is_filled_up_for_deeper_ones():
    whole = flatten(small(pooling="avg"))
    layer = next(node for node in whole.nodes if node.path.endswith("conv3_block1_out"))
    shallow = whole.between(whole.inputs, layer.outputs)
    first = quantisation_of(shallow, lambda: [noise(4)])
    deeper = quantisation_of(whole, lambda: [noise(4, seed=1)])
    assert set(first.observed) < set(deeper.observed)
    again = quantisation_of(shallow)
    assert again.digest() == first.digest() != deeper.digest()
    assert quantisation_of(whole).digest() == deeper.digest()


# --- remembering ---------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often pictures were asked for."""
    asked = []

    def calibration(seed=0):
        return lambda: asked.append(seed) or [noise(4, seed=seed)]

    calibration.asked = asked
    return calibration


def forget_memory(monkeypatch):
    monkeypatch.setattr(quantise, "_in_memory", {})


def test_second_time_no_picture_is_asked_for(counted, monkeypatch):
    first = quantisation_of(flatten(small()), counted(0))
    forget_memory(monkeypatch)
    second = quantisation_of(flatten(small()), counted(1))
    assert counted.asked == [0]
    assert second.digest() == first.digest()
    other = quantisation_of(flatten(small(seed=1)), counted(2))
    assert counted.asked == [0, 2]
    assert other.digest() != first.digest()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", None])
def test_an_unreadable_file_is_nothing_remembered(counted, monkeypatch, cache_folder, content):
    graph = flatten(small())
    quantisation_of(graph, counted(0))
    (file,) = (cache_folder / "quantisation").iterdir()
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    forget_memory(monkeypatch)
    quantisation_of(graph, counted(1))
    assert counted.asked == [0, 1]


def test_numbers_that_make_no_sense_are_nothing_remembered(counted, monkeypatch, cache_folder):
    graph = flatten(small())
    quantisation_of(graph, counted(0))
    (file,) = (cache_folder / "quantisation").iterdir()
    with np.load(file) as stored:
        known = {key: stored[key] for key in stored.files}
    known[next(key for key in known if len(key) == 32)][0] = np.nan
    np.savez(file, **known)
    forget_memory(monkeypatch)
    quantisation_of(graph, counted(1))
    assert counted.asked == [0, 1]


def test_where_nothing_can_be_written_the_process_remembers(counted, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "file"))
    first, second = (quantisation_of(flatten(small()), counted(seed)) for seed in (0, 1))
    assert counted.asked == [0]
    assert first.digest() == second.digest()


def test_digest_tells_ranges_weights_and_means_apart():
    seen = Observed(0.0, 2.0, 0.0, 1.0, np.ones(3, np.float32))
    digests = {
        Quantisation({"key": seen}, typical=True, weight_bits=8).digest(),
        Quantisation({"key": seen}, typical=False, weight_bits=8).digest(),
        Quantisation({"key": seen}, typical=True, weight_bits=7).digest(),
        Quantisation({"other": seen}, typical=True, weight_bits=8).digest(),
        Quantisation({"key": Observed(0, 2, 0, 1, np.zeros(3, np.float32))}, typical=True, weight_bits=8).digest(),
    }
    assert len(digests) == 5


def test_of_the_two_ranges_the_one_that_comes_nearer_is_taken():
    """One number in a picture that is far larger than all others: bytes for it would leave nothing for the rest."""
    layer = layers.Conv2D(1, 1)
    graph = flatten(keras.Sequential([keras.Input((16, 16, 1)), layer]))
    layer.set_weights([np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)])
    x = np.random.default_rng(0).uniform(0, 1, (32, 16, 16, 1)).astype("float32")
    assert not quantisation_of(graph, lambda: [np.concatenate([x[:31], 1.5 + x[31:]])[::-1]]).typical
    layer.set_weights([np.full((1, 1, 1, 1), 0.5, np.float32), np.zeros(1, np.float32)])
    x[31, 0, 0, 0] = 1e4
    assert quantisation_of(graph, lambda: [x]).typical


# --- refused -------------------------------------------------------------------------------------------------------


class Doubled(layers.Layer):
    """A layer that no emitter knows."""

    def call(self, inputs):
        return inputs * 2


def test_without_convolutions_there_is_nothing_to_quantise():
    graph = flatten(keras.Sequential([keras.Input((5,)), layers.Dense(3)]))
    with pytest.raises(InputError, match="frozen part has none"):
        build_engine(graph, precision="int8", calibration=lambda: [np.ones((2, 5))])


def test_a_layer_that_is_not_known_is_named():
    graph = flatten(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 3), Doubled(name="odd_one")]))
    with pytest.raises(InputError, match="odd_one"):
        build_engine(graph, precision="int8", calibration=lambda: [noise(2, 8)])


def test_keras_does_not_do_it(monkeypatch):
    graph = flatten(small())
    with pytest.raises(InputError, match="Keras was asked for"):
        build_engine(graph, precision="int8", prefer="keras")
    monkeypatch.setattr(build_module, "has_accelerator", lambda: True)
    with pytest.raises(InputError, match="accelerator"):
        build_engine(graph, precision="int8")


def test_without_pictures():
    graph = flatten(small())
    with pytest.raises(InputError, match="give `calibration`"):
        build_engine(graph, precision="int8")
    for nothing in ([], [noise(0)]):
        with pytest.raises(InputError, match="at least one picture"):
            build_engine(graph, precision="int8", calibration=lambda nothing=nothing: nothing)
    with pytest.raises(InputError, match=r"\(None, 32, 32, 3\)"):
        build_engine(graph, precision="int8", calibration=lambda: [noise(2, 16)])


def test_numbers_that_are_not_finite():
    model = small()
    with pytest.raises(InputError, match="infinite"):
        quantisation_of(flatten(model), lambda: [np.full((2, 32, 32, 3), np.inf, np.float32)])


def test_a_disagreement_with_keras_is_no_start(monkeypatch):
    monkeypatch.setattr(engine_module, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="differ by"):
        build_engine(flatten(small()), precision="int8", calibration=lambda: [noise(2)])


def test_precision_is_one_of_two():
    with pytest.raises(InputError, match="fp32"):
        build_engine(flatten(small()), precision="fp16")


def test_float32_is_what_it_was():
    graph = flatten(small())
    quantiser = find_quantisable(graph)
    assert quantiser.stem in quantiser.keys
    assert {constant.data_type for constant in onnx.load_from_string(emit(graph)).graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }


# --- agreement -----------------------------------------------------------------------------------------------------


def test_label_agreement_counts_pictures():
    ours = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4]])
    assert label_agreement(ours, ours) == 1
    assert label_agreement(ours, ours[:, ::-1]) == 0
    assert label_agreement(ours, np.array([[1, 0], [1, 0], [0, 1], [1, 0]])) == 0.75
    assert label_agreement(np.array([[0.6], [0.4]]), np.array([[0.7], [0.6]])) == 0.5
    with pytest.raises(InputError, match="one shape"):
        label_agreement(ours, ours[:2])


def test_cosine_and_norm_of_zeros():
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert cosine_similarity(zeros, zeros).tolist() == [1, 1]
    assert cosine_similarity(zeros, ones).tolist() == [0, 0]
    np.testing.assert_allclose(cosine_similarity(ones, -2 * ones), -1)
    assert norm_difference(zeros, zeros) == 0
    assert norm_difference(ones, zeros) == float("inf")
    assert norm_difference(1.5 * ones, ones) == pytest.approx(0.5)
