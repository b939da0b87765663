"""Restoring is strict: everything is looked at, named together, and assigned wholly or not at all."""

import numpy as np
import pytest

from greffon.errors import InputError, WeightFileError
from greffon.weights.match import match, variables_of

SMALL = {"blocks": (1, 1)}


@pytest.fixture
def model(build, randomise):
    return randomise(build(**SMALL), seed=1)


@pytest.fixture
def arrays(build, randomise, arrays_of):
    return arrays_of(randomise(build(**SMALL), seed=2))


def _refused(arrays, model, fingerprint, **options):
    """The message; after which the model is what it was."""
    before = fingerprint(model)
    with pytest.raises(WeightFileError) as error:
        match(arrays, model, **options).assign()
    assert fingerprint(model) == before
    return str(error.value)


def test_everything_fits(arrays, model, arrays_of):
    found = match(arrays, model)
    assert found.complete
    assert found.coverage == 1.0
    assert str(found) == "all fits."
    found.assign()
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("name", ["conv1_conv/kernel", "conv3_block1_3_bn/moving_variance", "conv2_block1_0_conv/bias"])
def test_one_missing_tensor(arrays, model, fingerprint, name):
    del arrays[name]
    message = _refused(arrays, model, fingerprint)
    assert f"Missing from the file (1): {name}" in message
    assert "holds only a part of the network" in message
    assert "Nothing was changed." in message


def test_missing_unexpected_and_wrong_shapes_together(arrays, model, fingerprint):
    del arrays["conv1_bn/gamma"]
    arrays["conv1_conv/scale"] = np.ones(3, np.float32)
    arrays["conv2_block1_2_conv/kernel"] = np.ones((3, 3, 32, 31), np.float32)
    arrays["conv2_block1_1_conv/bias"][0] = np.nan
    message = _refused(arrays, model, fingerprint)
    assert "Missing from the file (1): conv1_bn/gamma" in message
    assert "Unexpected in the file (1): conv1_conv/scale" in message
    assert (
        "Of another shape (1): conv2_block1_2_conv/kernel "
        "(the network has (3, 3, 32, 32), the file (3, 3, 32, 31))" in message
    )
    assert "Not usable (1): conv2_block1_1_conv/bias (1 of 32 values are NaN or infinite)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(arrays, model, fingerprint, value):
    arrays["conv3_block1_1_conv/kernel"][0, 0, 0, 0] = value
    message = _refused(arrays, model, fingerprint)
    assert "conv3_block1_1_conv/kernel (1 of 8,192 values are NaN or infinite)" in message
    assert "damaged, or its training had diverged" in message


def test_a_quantised_kernel(arrays, model, fingerprint):
    arrays["conv1_conv/kernel"] = np.ones((7, 7, 3, 64), np.int8)
    assert "conv1_conv/kernel (holds int8, as in a quantised model)" in _refused(arrays, model, fingerprint)


def test_an_interrupted_assignment_is_undone(arrays, model, fingerprint, monkeypatch):
    before = fingerprint(model)
    found = match(arrays, model)
    victim = list(variables_of(model).values())[9]
    assign = type(victim).assign
    calls = []

    def failing(self, value):
        calls.append(id(self))
        if self is victim and calls.count(id(victim)) == 1:
            raise MemoryError
        return assign(self, value)

    monkeypatch.setattr(type(victim), "assign", failing)
    with pytest.raises(MemoryError):
        found.assign()
    assert len(calls) > 10, "some were assigned before, and put back"
    assert fingerprint(model) == before


def test_a_long_list_is_cut_but_kept_whole_in_the_match(arrays, model):
    found = match({name: arrays[name] for name in list(arrays)[:8]}, model)
    assert len(found.missing) == len(arrays) - 8
    assert f"and {len(found.missing) - 20} more" in str(found)


def test_a_file_with_a_top_fills_a_backbone_without(build, randomise, arrays_of, model):
    arrays = arrays_of(randomise(build(include_top=True, classes=5, **SMALL)))
    found = match(arrays, model)
    found.assign()
    assert found.left_out == ["predictions"]
    assert any("top is left out" in note and "predictions" in note for note in found.notes)
    np.testing.assert_array_equal(arrays_of(model)["conv3_block1_3_bn/beta"], arrays["conv3_block1_3_bn/beta"])


def test_a_file_without_a_top_does_not_fill_a_network_with_one(arrays, build, fingerprint):
    message = _refused(arrays, build(include_top=True, classes=5, **SMALL), fingerprint)
    assert "Likely cause: the file has no classifier: pass include_top=False." in message


def test_another_number_of_classes(build, randomise, arrays_of, fingerprint):
    arrays = arrays_of(randomise(build(include_top=True, classes=7, **SMALL)))
    message = _refused(arrays, build(include_top=True, classes=5, **SMALL), fingerprint)
    assert "the file's classifier has 7 classes: pass classes=7" in message


def test_no_biases_means_v1_5(build, arrays_of, fingerprint):
    message = _refused(arrays_of(build("v1.5", **SMALL)), build("v1", **SMALL), fingerprint)
    assert "have no biases, as in v1.5 (torchvision, timm, Hugging Face)" in message
    assert 'variant="v1.5"' in message


def test_biases_do_not_go_into_v1_5(build, arrays_of, fingerprint):
    message = _refused(arrays_of(build("v1", **SMALL)), build("v1.5", **SMALL), fingerprint)
    assert 'have biases, as in v1 (Keras): pass variant="v1"' in message


def test_another_width(build, arrays_of, fingerprint):
    assert '32 filters in conv2, not 64); the variant "thin"' in _refused(
        arrays_of(build("thin", **SMALL)), build("v1", **SMALL), fingerprint
    )
    assert '64 filters in conv2, not 32); the variants "v1"' in _refused(
        arrays_of(build("v1", **SMALL)), build("thin", **SMALL), fingerprint
    )


def test_another_depth(build, arrays_of, fingerprint):
    fifty, more = build(blocks=(3, 4, 6, 3)), build(blocks=(3, 4, 23, 3))
    message = _refused(arrays_of(more), fifty, fingerprint)
    assert "the file is ResNet-101 with 3, 4, 23, 3 blocks, the network ResNet-50 with 3, 4, 6, 3" in message
    assert "Unexpected in the file" in message
    message = _refused(arrays_of(fifty), more, fingerprint)
    assert "the file is ResNet-50 with 3, 4, 6, 3 blocks" in message


def test_another_number_of_channels(build, arrays_of, fingerprint):
    grey = arrays_of(build(input_shape=(64, 64, 1), **SMALL))
    assert "takes pictures of 1 channels" in _refused(grey, build(**SMALL), fingerprint)


def test_the_kernels_of_other_frameworks(arrays, model, fingerprint):
    turned = {name: it.transpose(3, 2, 0, 1) if it.ndim == 4 else it for name, it in arrays.items()}
    assert "(out, in, height, width) of PyTorch or Theano" in _refused(turned, model, fingerprint)


@pytest.mark.parametrize("names", ["layer1.0.conv1", "resnet.encoder.stages.0.layers.0.shortcut", "conv1"])
def test_the_names_of_pytorch(model, fingerprint, names):
    arrays = {f"/{names}.weight": np.ones((64, 64, 1, 1), np.float32), f"/{names}.bias": np.ones(64, np.float32)}
    assert "the names are PyTorch's" in _refused(arrays, model, fingerprint)


def test_another_network(model, fingerprint):
    import keras

    vgg = {f"block1_conv{number}/kernel": np.ones((3, 3, 3, 3), np.float32) for number in (1, 2)}
    assert "another network; its layers are called block1_conv1, block1_conv2" in _refused(vgg, model, fingerprint)
    v2 = keras.applications.ResNet50V2(weights=None, include_top=False, input_shape=(64, 64, 3))
    arrays = {name: np.ones(variable.shape, np.float32) for name, variable in variables_of(v2).items()}
    assert "a ResNet V2, a different network" in _refused(arrays, model, fingerprint)


def test_folded_batch_norm_becomes_the_identity(build, randomise, arrays_of, pictures):
    """Folding by hand, then restoring, gives the features of the network that was not folded."""
    original = randomise(build("v1", **SMALL), seed=8)
    arrays = arrays_of(original)
    folded = {}
    for layer in original.layers:
        if not layer.name.endswith("_conv"):
            continue
        norm = layer.name.removesuffix("conv") + "bn"
        gamma, beta, mean, variance = (
            arrays[f"{norm}/{it}"] for it in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        factor = gamma / np.sqrt(variance + original.get_layer(norm).epsilon)
        folded[f"{layer.name}/kernel"] = arrays[f"{layer.name}/kernel"] * factor
        folded[f"{layer.name}/bias"] = (arrays[f"{layer.name}/bias"] - mean) * factor + beta
    model = build("v1", **SMALL)
    found = match(folded, model)
    found.assign()
    assert any("folded" in note for note in found.notes)
    expected, got = np.asarray(original(pictures)), np.asarray(model(pictures))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(WeightFileError, match="folded into the file's convolutions, and this variant"):
        match(folded, build("v1.5", **SMALL)).assign()


def test_batch_norm_under_other_names_is_not_taken_for_folded(arrays, model, fingerprint):
    renamed = {name.replace("_bn/", "_norm/") if "_bn/" in name else name: array for name, array in arrays.items()}
    assert "conv1_bn/gamma" in _refused(renamed, model, fingerprint)


def test_what_may_be_missing_is_named_and_counted(arrays, model, arrays_of):
    kept = arrays_of(model)
    for name in [name for name in arrays if name.startswith("conv3_block1_3_")]:
        del arrays[name]
    found = match(arrays, model, allow_missing=["conv3_block1_3_*"])
    found.assign()
    assert 0.5 < found.coverage < 1
    assert any(
        f"{found.coverage:.1%} of the parameters" in note and "conv3_block1_3_conv/kernel" in note
        for note in found.notes
    )
    now = arrays_of(model)
    np.testing.assert_array_equal(now["conv3_block1_3_conv/kernel"], kept["conv3_block1_3_conv/kernel"])
    np.testing.assert_array_equal(now["conv1_conv/kernel"], arrays["conv1_conv/kernel"])


def test_more_missing_than_allowed(arrays, model, fingerprint):
    del arrays["conv1_conv/bias"], arrays["conv1_bn/beta"]
    message = _refused(arrays, model, fingerprint, allow_missing=["*/bias"])
    assert "Missing from the file (1): conv1_bn/beta" in message


def test_an_allowed_layer_may_have_another_shape(build, randomise, arrays_of):
    model = randomise(build(include_top=True, classes=5, **SMALL), seed=1)
    kept = arrays_of(model)["predictions/kernel"]
    arrays = arrays_of(randomise(build(include_top=True, classes=7, **SMALL), seed=2))
    match(arrays, model, allow_missing="predictions").assign()
    np.testing.assert_array_equal(arrays_of(model)["predictions/kernel"], kept)
    np.testing.assert_array_equal(arrays_of(model)["conv1_bn/beta"], arrays["conv1_bn/beta"])


def test_an_allowance_that_names_nothing(arrays, model):
    with pytest.raises(InputError, match=r"got 'conv1_con'; did you mean 'conv1_conv'\?"):
        match(arrays, model, allow_missing=["conv1_con"])


@pytest.mark.parametrize("wrong", [True, 3])
def test_what_may_be_missing_has_names(arrays, model, wrong):
    with pytest.raises(InputError, match="allow_missing must be names or globs"):
        match(arrays, model, allow_missing=wrong)
