"""Proof after loading: what is in order is not accused, what is not is named, and nothing is changed."""

import io
import itertools
import json
import re
import zipfile
from importlib import resources

import keras
import numpy as np
import pytest
from PIL import Image

import greffon
from greffon.errors import InputError
from greffon.weights import stored_outputs
from greffon.weights.checkup import check_up
from greffon.weights.passage import prepared, send
from greffon.weights.probes import probe_pictures
from greffon.weights.sets import PREPROCESSINGS, weight_set
from greffon.weights.statistics import norms_of
from greffon.weights.stored_outputs import ProbeOutputs, known_outputs, outputs_of, pin, write_outputs

NSFW, TORCH = PREPROCESSINGS["open_nsfw"], PREPROCESSINGS["torch"]
SHA256 = weight_set("thin").file().sha256
SWAPPED = "would fit better in each other's place"
MISFIT = "stored means do not fit"


def numpy_of(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def clothes(count=24, side=80):
    """Pictures that the probes have nothing in common with."""
    archive = resources.files("greffon") / "assets" / "demo_fashion_mnist.zip"
    with archive.open("rb") as file, zipfile.ZipFile(file) as pictures:
        names = [name for name in pictures.namelist() if name.startswith("train") and name.endswith(".png")]
        chosen = names[:: len(names) // count][:count]
        images = [Image.open(io.BytesIO(pictures.read(name))).convert("RGB").resize((side, side)) for name in chosen]
    return np.stack([np.asarray(image) for image in images])


def re_estimate(model, pictures):
    """Give identity BatchNorm layers the statistics of pictures, and the scale and offset that undo them."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    inputs = keras.Model(model.input, [norm.input for norm in norms])(pictures, training=False)
    for norm, value in zip(norms, inputs, strict=True):
        values = numpy_of(value).astype(np.float64)
        mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
        norm.set_weights([np.sqrt(variance + norm.epsilon), mean, mean, variance])


def settle(model, preprocessing=TORCH):
    """Give a random network the statistics that it would have after training on other pictures."""
    seen = send(model, prepared(clothes(), preprocessing), renewed=True)
    for name, (mean, variance) in seen.norms.items():
        layer = model.get_layer(name)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    return model


@pytest.fixture(scope="module")
def thin():
    return greffon.resnet50(weights="thin", input_shape=(None, None, 3))


@pytest.fixture(scope="module")
def shipped(thin):
    return [numpy_of(variable) for variable in thin.weights]


@pytest.fixture(scope="module")
def estimated(thin, shipped):
    """The weights of `thin` with BatchNorm as a trained network has it."""
    re_estimate(thin, prepared(clothes(), NSFW))
    values = [numpy_of(variable) for variable in thin.weights]
    put(thin, shipped)
    return values


def put(model, values):
    for variable, value in zip(model.weights, values, strict=True):
        variable.assign(value)


@pytest.fixture
def trained_thin(thin, shipped, estimated):
    put(thin, estimated)
    yield thin
    put(thin, shipped)


@pytest.fixture
def shipped_thin(thin, shipped):
    yield thin
    put(thin, shipped)


def swap(model, one, other):
    """Exchange the weights of two layers, or of two blocks."""
    for layer in model.layers:
        if layer.weights and (layer.name == one or layer.name.startswith(f"{one}_")):
            partner = model.get_layer(other + layer.name.removeprefix(one))
            mine, theirs = layer.get_weights(), partner.get_weights()
            layer.set_weights(theirs)
            partner.set_weights(mine)


def transpose(model, name, axes):
    kernel = model.get_layer(name).kernel
    kernel.assign(np.transpose(numpy_of(kernel), axes))


def test_the_embedded_set_gives_its_stored_answers(thin, fingerprint):
    before = fingerprint(thin)
    found = check_up(thin, NSFW, expected=known_outputs(SHA256))
    assert (found.ok, found.compared, found.sentences()) == (True, True, [])
    assert fingerprint(thin) == before
    assert "folded" in check_up(thin, NSFW).note


@pytest.mark.parametrize("options", [{"input_shape": (224, 224, 3)}, {"input_shape": (64, 96, 3), "pooling": "max"}])
def test_size_and_pooling_do_not_matter(options):
    model = greffon.resnet50(weights="thin", **options)
    assert check_up(model, NSFW, expected=known_outputs(SHA256)).sentences() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: swap(model, "conv4_block3", "conv4_block4"),
        lambda model: transpose(model, "conv5_block3_2_conv", (1, 0, 2, 3)),
        lambda model: transpose(model, "conv2_block1_2_conv", (0, 1, 3, 2)),
    ],
)
def test_known_weights_in_the_wrong_place_are_a_fault(shipped_thin, damage):
    damage(shipped_thin)
    found = check_up(shipped_thin, NSFW, expected=known_outputs(SHA256))
    assert not found.ok
    assert "the network gives other answers than these weights give" in found.sentences()[0]
    assert found.findings[0].numbers["difference"] > 10 * found.findings[0].numbers["allowed"]


def test_a_network_in_order_is_not_accused(trained_thin, fingerprint):
    before = fingerprint(trained_thin)
    found = check_up(trained_thin, NSFW)
    assert (found.ok, found.norms, found.sentences(), found.note) == (True, 52, [], "")
    assert fingerprint(trained_thin) == before


@pytest.mark.parametrize("pair", [("conv2_block2", "conv2_block3"), ("conv4_block3", "conv4_block4")])
def test_swapped_blocks_are_named(trained_thin, pair):
    swap(trained_thin, *pair)
    found = [it for it in check_up(trained_thin, NSFW).findings if SWAPPED in it.sentence]
    assert [re.findall(r"conv\d_block\d", it.sentence) for it in found] == [list(pair)]


@pytest.mark.parametrize(
    ("names", "damage"),
    [
        (["conv4_block2_2_bn"], lambda model: transpose(model, "conv4_block2_2_conv", (0, 1, 3, 2))),
        (["conv5_block1_2_bn"], lambda model: transpose(model, "conv5_block1_2_conv", (0, 1, 3, 2))),
        (
            ["conv4_block2_2_bn", "conv4_block5_2_bn"],
            lambda model: swap(model, "conv4_block2_2_bn", "conv4_block5_2_bn"),
        ),
        (["conv3_block2_3_bn"], lambda model: swap(model, "conv3_block2_3_conv", "conv3_block4_3_conv")),
    ],
)
def test_a_layer_in_another_ones_place_is_named(trained_thin, names, damage):
    damage(trained_thin)
    found = [it for it in check_up(trained_thin, NSFW).findings if MISFIT in it.sentence]
    assert set(names) <= {it.layer for it in found}
    assert len(found) <= 4
    assert min(it.numbers["agreement"] for it in found) < 0.6


def test_statistics_of_another_network_are_one_finding(build, randomise):
    found = check_up(randomise(build("v1")), PREPROCESSINGS["caffe"])
    summary = [it for it in found.findings if "BatchNorm layers have stored means" in it.sentence]
    assert len(summary) == 1
    assert summary[0].numbers["layers"] > summary[0].numbers["tested"] / 3
    assert not any(SWAPPED in sentence for sentence in found.sentences())


@pytest.mark.parametrize("variant", ["v1", "v1.5", "thin"])
def test_random_networks_are_accused_of_nothing_but_that(build, variant):
    model = build(variant, include_top=True, classes=5)
    fresh = check_up(model, TORCH)
    assert fresh.ok
    assert any("never trained" in sentence for sentence in fresh.sentences())
    assert "initial statistics" in fresh.note
    settled = check_up(settle(model), TORCH)
    assert settled.norms == 16
    assert [it for it in settled.findings if "before training" not in it.sentence] == []


def test_preprocessing_that_fits_better_is_named(trained_thin):
    wrong = [it for it in check_up(trained_thin, TORCH).findings if it.layer == "conv1_bn"]
    assert len(wrong) == 1
    assert "prepared with 'torch'" in wrong[0].sentence
    assert "'open_nsfw' fits better" in wrong[0].sentence
    unknown = [it for it in check_up(trained_thin, None).findings if it.layer == "conv1_bn"]
    assert "is not known; conv1_bn fits 'caffe' or 'open_nsfw' best" in unknown[0].sentence


@pytest.mark.parametrize(
    ("name", "value", "severity", "sentence"),
    [
        ("moving_variance", np.nan, "fault", "NaN or infinite"),
        ("moving_variance", -1.0, "fault", "negative"),
        ("moving_variance", 0.0, "fault", "variances are 0"),
        ("moving_mean", np.inf, "fault", "NaN or infinite"),
        ("gamma", 0.0, "odd", "its gamma is 0"),
        ("gamma", 1e12, "odd", "values explode"),
        ("beta", -1e6, "odd", "of its channels are 0 everywhere"),
    ],
)
def test_what_cannot_be_is_told(build, name, value, severity, sentence):
    model = settle(build())
    variable = getattr(model.get_layer("conv4_block1_3_bn"), name)
    variable.assign(np.full(variable.shape, value, np.float32))
    found = [it for it in check_up(model, TORCH).findings if sentence in it.sentence]
    assert [it.severity for it in found] == [severity]
    assert "conv4_block1" in found[0].layer


def test_nan_in_a_kernel_is_a_fault(build):
    model = settle(build())
    kernel = model.get_layer("conv3_block1_2_conv").kernel
    values = numpy_of(kernel)
    values[1, 1, 0, 0] = np.nan
    kernel.assign(values)
    found = check_up(model, TORCH)
    assert not found.ok
    assert "NaN or infinite" in found.sentences()[0]
    assert json.loads(json.dumps(found.as_dict()))["findings"][0]["layer"] == "conv3_block1_out"


def test_features_without_the_picture_are_told(build):
    model = settle(build())
    for name in ("conv5_block1_0_bn", "conv5_block1_3_bn"):
        model.get_layer(name).gamma.assign(np.zeros(1024, np.float32))
        model.get_layer(name).beta.assign(np.ones(1024, np.float32))
    assert any("the same whatever the picture" in sentence for sentence in check_up(model, TORCH).sentences())


def test_a_head_for_another_size_is_left_out(build):
    body = build()
    x = keras.layers.Dense(3)(keras.layers.Flatten()(body.output))
    model = settle(keras.Model(body.input, x))
    assert check_up(model, TORCH).norms == 16
    assert outputs_of(model, TORCH).features.shape == (4, 1024)


def test_grey_networks_are_looked_at(build):
    model = build(input_shape=(64, 64, 1))
    assert check_up(model, TORCH).ok
    with pytest.raises(InputError, match="takes \\(height, width, channels\\)"):
        check_up(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), TORCH)


def test_pinned_answers_come_back_with_the_classifier(build, randomise):
    model = randomise(build(include_top=True, classes=5))
    outputs = outputs_of(model, TORCH)
    assert outputs.top.shape == (4, 5)
    assert known_outputs("ab" * 32) is None
    path = pin("ab" * 32, outputs)
    first = path.read_bytes()
    assert pin("ab" * 32, outputs).read_bytes() == first
    known = known_outputs("ab" * 32)
    found = check_up(model, TORCH, expected=known)
    assert (found.ok, found.compared, found.norms) == (True, True, 0)
    bias = model.get_layer("predictions").bias
    bias.assign(numpy_of(bias) + np.arange(5, dtype=np.float32))
    assert not check_up(model, TORCH, expected=known).ok
    features_alone = ProbeOutputs(known.features, None, known.preprocessing)
    assert check_up(model, TORCH, expected=features_alone).ok


def test_damaged_or_outdated_answers_count_as_none(monkeypatch):
    outputs = ProbeOutputs(np.ones((4, 8), np.float32))
    path = pin("cd" * 32, outputs)
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-30], b"not a zip archive"):
        path.write_bytes(damaged)
        assert known_outputs("cd" * 32) is None
    path.write_bytes(whole)
    assert known_outputs("cd" * 32) is not None
    monkeypatch.setattr(stored_outputs, "PROBES_VERSION", 2)
    assert known_outputs("cd" * 32) is None


@pytest.mark.parametrize("bad", ["", "../x", "AB" * 32, "ab" * 31, None])
def test_only_hashes_name_stored_answers(bad):
    with pytest.raises(InputError, match="64 hex digits"):
        known_outputs(bad)


def test_stored_file_is_what_the_tool_writes(thin, tmp_path):
    write_outputs(outputs_of(thin, NSFW), tmp_path / "made.npz")
    made, stored = stored_outputs.read_outputs(tmp_path / "made.npz"), known_outputs(SHA256)
    assert np.abs(made.features - stored.features).max() < 1e-4 * np.abs(stored.features).max()
    assert (made.preprocessing, made.side, made.top) == (stored.preprocessing, stored.side, None)


def pairs(model, ending):
    """Layers of one shape that could be taken for one another."""
    names = [layer.name for layer in model.layers if layer.weights and layer.name.endswith(ending)]
    for one, other in itertools.combinations(names, 2):
        shapes = [[tuple(weight.shape) for weight in model.get_layer(name).weights] for name in (one, other)]
        if shapes[0] == shapes[1] and one[:5] == other[:5] and one.split("_")[2:] == other.split("_")[2:]:
            yield one, other


@pytest.mark.large
def test_how_many_of_all_same_shape_faults_are_found(trained_thin, estimated):
    squares = [layer.name for layer in trained_thin.layers if layer.name.endswith("_2_conv")]
    blocks = list(
        dict.fromkeys(tuple(name.removesuffix("_1_conv") for name in pair) for pair in pairs(trained_thin, "_1_conv"))
    )

    def found(damage, *arguments, expected=None):
        damage(trained_thin, *arguments)
        checked = check_up(trained_thin, NSFW, expected=expected)
        put(trained_thin, estimated)
        return bool(checked.findings) if expected is None else not checked.ok

    unknown = {
        "blocks": [found(swap, *pair) for pair in blocks],
        "kernels": [found(swap, *pair) for pair in pairs(trained_thin, "_conv")],
        "norms": [found(swap, *pair) for pair in pairs(trained_thin, "_bn")],
        "in and out": [found(transpose, name, (0, 1, 3, 2)) for name in squares],
    }
    answers = known_outputs(SHA256)
    known = {
        "blocks": [found(swap, *pair, expected=answers) for pair in blocks],
        "kernels": [found(swap, *pair, expected=answers) for pair in pairs(trained_thin, "_conv")],
        "in and out": [found(transpose, name, (0, 1, 3, 2), expected=answers) for name in squares],
        "height and width": [
            found(transpose, name, (1, 0, 2, 3), expected=answers) for name in ["conv1_conv", *squares]
        ],
    }
    for which, rates in (("unknown", unknown), ("known", known)):
        print(which, {kind: f"{sum(hits)} of {len(hits)}" for kind, hits in rates.items()})  # noqa: T201
    assert [len(hits) for hits in unknown.values()] == [15, 69, 81, 16]
    assert all(all(hits) for hits in known.values())
    assert all(all(hits) for hits in unknown.values())


@pytest.mark.large
def test_photographs_as_training_pictures(thin, shipped, photos):
    files = sorted(photos.rglob("*.jpg"))[::3]
    images = [Image.open(file).convert("RGB").resize((224, 224)) for file in files[:48]]
    try:
        re_estimate(thin, prepared(np.stack([np.asarray(image) for image in images]), NSFW))
        assert check_up(thin, NSFW).sentences() == []
    finally:
        put(thin, shipped)


def test_probe_pictures_reach_every_norm(thin):
    seen = send(thin, prepared(probe_pictures(2, side=64), NSFW), renewed=True)
    assert seen.norms.keys() == norms_of(thin).keys()
    assert len(seen.arriving) == 16
