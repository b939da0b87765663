"""The graphs against what they claim to be: numbers, not shapes."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications import resnet as keras_resnet

import greffon
from greffon.backbone.preprocessing import preprocessing_layers
from greffon.backbone.resnet import BLOCKS, resnet, resnet50, resnet101, resnet152
from greffon.errors import InputError
from greffon.weights.sets import PREPROCESSINGS

# What the original file gives for five photographs that are not ours to pass on; it lies beside some checkouts.
REFERENCE = Path(__file__).parents[3] / "shared" / "weights" / "open_nsfw_thin_reference.npz"
# What the network gave for rendered pictures when it agreed with that reference.
POOLED = Path(__file__).parents[1] / "data" / "thin_pooled.npy"
SIDE = 64


def _randomise(model, seed=0):
    """Random weights and BN statistics that keep activations near 1."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        values = random.normal(size=shape)
        if variable.name == "kernel":
            values *= np.sqrt(2 / np.prod(shape[:-1]))
        elif variable.name in {"gamma", "moving_variance"}:
            values = random.uniform(0.5, 1.5, shape)
        else:
            values *= 0.1
        variable.assign(values.astype(np.float32))


def _pictures(shape=(2, SIDE, SIDE, 3)):
    return np.random.default_rng(1).uniform(-100, 150, shape).astype(np.float32)


def _array(model, pictures):
    return keras.ops.convert_to_numpy(model(pictures, training=False))


def _kerass_own(blocks, **options):
    def stacks(x):
        for number, (count, filters) in enumerate(zip(blocks, (64, 128, 256, 512), strict=False), start=2):
            stride = 1 if number == 2 else 2
            x = keras_resnet.stack_residual_blocks_v1(x, filters, count, stride1=stride, name=f"conv{number}")
        return x

    return keras_resnet.ResNet(stacks, preact=False, use_bias=True, weights=None, **options)


def _assert_equal(ours, theirs, pictures):
    """Same layers in the same order with the same configuration, same weights in, same numbers out."""
    assert [layer.name for layer in ours.layers[1:]] == [layer.name for layer in theirs.layers[1:]]
    assert [type(layer) for layer in ours.layers] == [type(layer) for layer in theirs.layers]
    for our, their in zip(ours.layers[1:], theirs.layers[1:], strict=True):
        assert our.get_config() == their.get_config()
    assert [(it.path, it.shape) for it in ours.weights] == [(it.path, it.shape) for it in theirs.weights]
    assert ours.output_shape == theirs.output_shape
    _randomise(theirs)
    ours.set_weights(theirs.get_weights())
    expected = _array(theirs, pictures)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(_array(ours, pictures), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_v1_is_keras_applications_resnet50():
    theirs = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    ours = resnet50(weights=None, input_shape=(SIDE, SIDE, 3))
    assert len(ours.layers) == 175
    assert ours.name == theirs.name == "resnet50"
    assert ours.count_params() == 23_587_712
    _assert_equal(ours, theirs, _pictures())


@pytest.mark.parametrize(
    "options",
    [
        {"include_top": False, "pooling": None},
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max"},
        {"include_top": True, "classes": 7},
        {"include_top": True},
    ],
    ids=str,
)
def test_v1_is_keras_resnet_in_every_form(options):
    theirs = _kerass_own((1, 1, 1, 1), input_shape=(SIDE, SIDE, 3), **options)
    ours = resnet((1, 1, 1, 1), "v1", input_shape=(SIDE, SIDE, 3), **options)
    _assert_equal(ours, theirs, _pictures())


@pytest.mark.large
@pytest.mark.parametrize("depth", [101, 152])
def test_other_depths_have_the_blocks_of_keras(depth):
    theirs = getattr(keras.applications, f"ResNet{depth}")(weights=None, include_top=False, input_shape=(32, 32, 3))
    ours = {101: resnet101, 152: resnet152}[depth](None, input_shape=(32, 32, 3))
    assert ours.name == f"resnet{depth}"
    assert [layer.name for layer in ours.layers[1:]] == [layer.name for layer in theirs.layers[1:]]
    assert ours.count_params() == theirs.count_params()


@pytest.mark.parametrize(("make", "layers", "parameters"), [(resnet101, 345, 42_658_176), (resnet152, 515, 58_370_944)])
def test_other_depths(make, layers, parameters):
    model = make(input_shape=(32, 32, 3))
    assert (len(model.layers), model.count_params()) == (layers, parameters)
    assert model.greffon_weights.weights == "none"


def test_without_a_size_pictures_of_any_size():
    model = resnet((1, 1, 1, 1), "thin", input_shape=(None, None, 3))
    assert model.output_shape == (None, None, None, 1024)
    for side in (64, 97):
        fixed = resnet((1, 1, 1, 1), "thin", input_shape=(side, side, 3))
        fixed.set_weights(model.get_weights())
        pictures = _pictures((1, side, side, 3))
        np.testing.assert_allclose(_array(model, pictures), _array(fixed, pictures), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["v1", "v1.5", "thin"])
def test_the_last_ten_layers_are_the_last_block(variant):
    model = resnet((1, 1, 1, 2), variant, input_shape=(SIDE, SIDE, 3))
    assert [layer.name.removeprefix("conv5_block2_") for layer in model.layers[-10:]] == [
        "1_conv", "1_bn", "1_relu", "2_conv", "2_bn", "2_relu", "3_conv", "3_bn", "add", "out",
    ]  # fmt: skip


def test_the_last_block_of_v1_has_the_parameters_of_the_tutorial():
    last = resnet50(weights=None).layers[-10:]
    trainable = sum(int(np.prod(it.shape)) for layer in last for it in layer.trainable_weights)
    assert trainable == 4_465_664


# v1.5, computed a second time without Keras: what torchvision's Bottleneck does, in NumPy.


def _conv(x, kernel, stride, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True)


class _Torchvision:
    def __init__(self, model):
        self.weights = {f"{layer.name}/{it.name}": it.numpy() for layer in model.layers for it in layer.weights}

    def _conv_bn(self, x, name, stride=1, padding=0):
        x = _conv(x, self.weights[f"{name}_conv/kernel"].astype(np.float64), stride, padding)
        gamma, beta, mean, variance = (
            self.weights[f"{name}_bn/{it}"].astype(np.float64)
            for it in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def _block(self, x, name, stride):
        y = np.maximum(self._conv_bn(x, f"{name}_1"), 0)
        y = np.maximum(self._conv_bn(y, f"{name}_2", stride, padding=1), 0)
        y = self._conv_bn(y, f"{name}_3")
        shortcut = self._conv_bn(x, f"{name}_0", stride) if f"{name}_0_conv/kernel" in self.weights else x
        return np.maximum(y + shortcut, 0)

    def __call__(self, pictures, blocks):
        x = np.maximum(self._conv_bn(pictures.astype(np.float64), "conv1", 2, padding=3), 0)
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
        x = windows.max(axis=(-2, -1))
        for stage, count in enumerate(blocks, start=2):
            for number in range(1, count + 1):
                x = self._block(x, f"conv{stage}_block{number}", 2 if stage > 2 and number == 1 else 1)
        return x


@pytest.mark.parametrize("side", [64, 75])
def test_v1_5_is_what_torchvision_computes(side):
    blocks = (1, 2, 1, 1)
    model = resnet(blocks, "v1.5", input_shape=(side, side, 3))
    _randomise(model)
    pictures = _pictures((2, side, side, 3))
    expected = _Torchvision(model)(pictures, blocks)
    got = _array(model, pictures)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_v1_5_in_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = resnet((1, 1), "v1.5", input_shape=(SIDE, SIDE, 3))
    _randomise(model)
    weights = {f"{la.name}/{it.name}": torch.tensor(it.numpy()) for la in model.layers for it in la.weights}

    def conv_bn(x, name, stride=1, padding=0):
        kernel = weights[f"{name}_conv/kernel"].permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, stride=stride, padding=padding)
        mean, variance, gamma, beta = (
            weights[f"{name}_bn/{it}"] for it in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)

    pictures = _pictures()
    x = functional.relu(conv_bn(torch.tensor(pictures).permute(0, 3, 1, 2), "conv1", 2, 3))
    x = functional.max_pool2d(x, 3, 2, 1)
    for name, stride in (("conv2_block1", 1), ("conv3_block1", 2)):
        y = functional.relu(conv_bn(x, f"{name}_1"))
        y = functional.relu(conv_bn(y, f"{name}_2", stride, 1))
        x = functional.relu(conv_bn(y, f"{name}_3") + conv_bn(x, f"{name}_0", stride))
    expected = x.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(_array(model, pictures), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_v1_5_has_the_parameters_of_torchvision():
    model = resnet(BLOCKS[50], "v1.5", include_top=True)
    trainable = sum(int(np.prod(it.shape)) for it in model.trainable_weights)
    assert trainable == 25_557_032
    assert {layer.epsilon for layer in model.layers if hasattr(layer, "moving_mean")} == {1e-5}
    v1 = [layer.name for layer in resnet50(weights=None).layers[1:]]
    pads = {f"conv{stage}_block1_2_pad" for stage in (3, 4, 5)}
    assert {layer.name for layer in model.layers[1:]} - set(v1) == pads | {"avg_pool", "predictions"}


def _thin_features(pictures, *, order=-1):
    """Pooled features (n, 1024) for RGB pictures 0..255; order 1 leaves the channels in the wrong order."""
    (prepare,) = preprocessing_layers(PREPROCESSINGS["open_nsfw"])
    prepared = keras.ops.convert_to_numpy(prepare(np.asarray(pictures, np.float32)))[..., ::order]
    return _array(resnet50(weights="thin", pooling="avg"), prepared)


def _rendered():
    """Three pictures of waves in different directions and colours: uint8 (3, 224, 224, 3)."""
    rows, columns = np.mgrid[0:224, 0:224]
    waves = [
        np.sin(rows / 9.0) * np.cos(columns / 17.0),
        np.sin((rows + columns) / 31.0),
        np.cos(rows * columns / 999.0),
    ]
    planes = [[waves[(picture + channel) % 3] for channel in range(3)] for picture in range(3)]
    return (127.5 + 120 * np.moveaxis(np.array(planes), 1, -1)).round().astype(np.uint8)


def _relative(got, expected):
    return (np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


def test_thin_gives_the_features_of_the_original_network():
    if not REFERENCE.is_file():
        pytest.skip("needs the reference beside the checkout")
    with np.load(REFERENCE) as reference:
        pictures, expected = reference["pictures"], reference["pooled"]
    got = _thin_features(pictures)
    assert np.abs(got - expected).max() < 0.03
    # The weights are in half precision; picture by picture the features agree to half a percent.
    assert _relative(got, expected) < 5e-3
    wrong = _thin_features(pictures, order=1)
    assert np.abs(wrong - expected).max() > 0.3, "the order of the channels is told apart"


def test_thin_gives_the_features_that_it_gave_when_it_was_compared():
    expected = np.load(POOLED)
    assert _relative(_thin_features(_rendered()), expected) < 1e-4
    assert _relative(_thin_features(_rendered(), order=1), expected) > 0.1


def test_layouts_of_the_user_do_not_matter():
    expected = resnet((1, 1), "thin", input_shape=(SIDE, SIDE, 3)).output_shape
    keras.config.set_image_data_format("channels_first")
    try:
        model = resnet((1, 1), "thin", input_shape=(SIDE, SIDE, 3), pooling="avg")
        assert model.layers[-2].output.shape == expected
    finally:
        keras.config.set_image_data_format("channels_last")


def test_the_record_survives_use(tmp_path):
    model = resnet50(weights=None, variant="thin")
    assert model.greffon_weights.weights == "none"
    assert model.greffon_weights.variant == "thin"
    assert model.greffon_weights.preprocessing is None
    model.save(tmp_path / "plain.keras")
    assert not hasattr(keras.models.load_model(tmp_path / "plain.keras"), "greffon_weights")


def test_the_public_name():
    assert greffon.resnet50 is resnet50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "v15"}, r"variant must be one of v1, v1.5, thin, got 'v15'; did you mean 'v1.5'\?"),
        ({"pooling": "average"}, "pooling must be None, 'avg' or 'max', got 'average'"),
        ({"pooling": "avg", "include_top": True}, "needs include_top=False"),
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"input_shape": (224, 224)}, r"\(height, width, channels\)"),
        ({"input_shape": (31, 224, 3)}, r"at least 32 pixels, or None, got \(31, 224, 3\)"),
        ({"input_shape": (224, 224, 0)}, "channels, the last number"),
        ({"input_shape": (None, 224, 3), "include_top": True}, "must have a height and a width"),
        ({"input_shape": 224}, "input_shape must be"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        resnet50(weights=None, **options)


@pytest.mark.parametrize("blocks", [(), (3, 0), (3, 1.5), "3463"])
def test_blocks_out_of_range(blocks):
    with pytest.raises(InputError, match="blocks must be one whole number"):
        resnet(blocks)
