"""The same numbers from the framework that a file comes from and from the network that Greffon fills with it."""

import numpy as np
import pytest

from greffon.errors import WeightFileError
from greffon.weights.identify import identify
from greffon.weights.match import match
from greffon.weights.naming import to_keras
from greffon.weights.read.arrays import Contents, in_memory

torch = pytest.importorskip("torch")

from renames import detectron_name, hugging_face_name  # noqa: E402
from torch_nets import ResNet, randomised  # noqa: E402

SMALL = (1, 1, 1, 1)


def _contents(state, rename=lambda name: name):
    """A state dict as a reader gives it."""
    return Contents({rename(name): in_memory(tensor.numpy()) for name, tensor in state.items()}, "a state dict")


def _filled(contents, blocks, *, variant, classes=None):
    """A Keras network with the weights of the file; every tensor has to come from it."""
    import keras

    from greffon.backbone.resnet import resnet

    identity = identify(contents).for_variant(variant)
    assert (identity.variant, identity.refusal, identity.blocks) == (variant, "", tuple(blocks))
    size = {"input_shape": (64, 64, 3)}
    top = {"include_top": True, "classes": classes} if classes else {"pooling": "avg"}
    model = resnet(blocks, variant, **size, **top)
    found = match(to_keras(contents, identity).load(), model)
    found.assign()
    assert found.coverage == 1.0
    if classes:
        model.get_layer("predictions").activation = keras.activations.linear
    return model


def _agree(got, expected):
    expected = expected.numpy()
    assert expected.std() > 0.01, "outputs that are all alike prove nothing"
    assert np.abs(np.asarray(got) - expected).max() < 1e-4 * np.abs(expected).max()


def _pictures(seed=1, count=2):
    pictures = np.random.default_rng(seed).normal(size=(count, 64, 64, 3)).astype(np.float32)
    return pictures, torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())


@pytest.fixture(scope="module")
def net():
    return randomised(ResNet(SMALL, classes=10))


@pytest.mark.parametrize(
    ("prefix", "rename"),
    [("", lambda name: name), ("", hugging_face_name), ("module.encoder_q.", lambda name: f"module.encoder_q.{name}")],
    ids=["torchvision", "Hugging Face", "MoCo"],
)
def test_pooled_features(net, prefix, rename):
    pictures, turned = _pictures()
    contents = _contents(net.state_dict(), rename)
    assert identify(contents).prefix == prefix
    model = _filled(contents, SMALL, variant="v1.5")
    with torch.no_grad():
        _agree(model(pictures), net.pooled(turned))


@pytest.mark.parametrize("rename", [str, hugging_face_name], ids=["torchvision", "Hugging Face"])
def test_logits(net, rename):
    pictures, turned = _pictures(2)
    contents = _contents(net.state_dict(), rename)
    assert identify(contents).classes == 10
    model = _filled(contents, SMALL, variant="v1.5", classes=10)
    with torch.no_grad():
        _agree(model(pictures), net(turned))


def test_a_detector_with_the_stride_in_the_1x1_is_v1_with_biases_of_zero():
    caffe = randomised(ResNet(SMALL, classes=0, stride_in_1x1=True, frozen=True), seed=4)
    pictures, turned = _pictures(3)
    contents = _contents(caffe.state_dict(), lambda name: f"backbone.bottom_up.{detectron_name(name)}")
    identity = identify(contents)
    assert (identity.variant, identity.variant_sure) == ("v1", False)
    model = _filled(contents, SMALL, variant="v1")
    with torch.no_grad():
        _agree(model(pictures), caffe.pooled(turned))


@pytest.mark.parametrize("numbered", [True, False])
def test_folded_batch_norm_in_v1_5(net, numbered):
    """As torch's exporters to ONNX fold it: kernels and biases remain, in the older one under telling names no more."""
    pictures, turned = _pictures(4)
    contents = Contents({}, "ONNX")
    pairs = [("conv1", "bn1")]
    for stage in range(1, 5):
        place = f"layer{stage}.0."
        pairs += [(f"{place}conv{number}", f"{place}bn{number}") for number in (1, 2, 3)]
        pairs.append((f"{place}downsample.0", f"{place}downsample.1"))
    state = net.state_dict()
    for number, (conv, norm) in enumerate(pairs):
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        kernel = state[f"{conv}.weight"] * factor[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
        kernel_name = f"onnx::Conv_{497 + 3 * number}" if numbered else f"{conv}.weight"
        bias_name = f"onnx::Conv_{498 + 3 * number}" if numbered else f"{conv}.weight_bias"
        contents.add(kernel_name, in_memory(kernel.numpy()))
        contents.add(bias_name, in_memory(bias.numpy()))
    contents.add("fc.weight", in_memory(state["fc.weight"].numpy()))
    contents.add("fc.bias", in_memory(state["fc.bias"].numpy()))
    identity = identify(contents)
    assert (identity.variant, identity.variant_sure) == ("v1.5", not numbered)
    assert identity.writer == ("an ONNX export" if numbered else "PyTorch, with torchvision's names, exported to ONNX")
    model = _filled(contents, SMALL, variant="v1.5", classes=10)
    with torch.no_grad():
        _agree(model(pictures), net(turned))


def test_the_wrong_variant_is_refused_where_it_is_known_and_wrong_where_it_is_forced(net):
    """Every shape agrees, so only the numbers tell: that they do is what makes the tests above worth something."""
    from dataclasses import replace

    from greffon.backbone.resnet import resnet

    pictures, turned = _pictures()
    contents = _contents(net.state_dict())
    identity = identify(contents)
    with pytest.raises(WeightFileError, match=r"for variant .v1\.5., not .v1.: networks from"):
        identity.for_variant("v1")
    model = resnet(SMALL, "v1", input_shape=(64, 64, 3), pooling="avg")
    match(to_keras(contents, replace(identity, variant="v1")).load(), model).assign()
    with torch.no_grad():
        expected = net.pooled(turned).numpy()
    assert np.abs(np.asarray(model(pictures)) - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.large
@pytest.mark.parametrize("rename", [str, hugging_face_name], ids=["torchvision", "Hugging Face"])
@pytest.mark.parametrize("blocks", [(3, 4, 6, 3), (3, 4, 23, 3)], ids=["50", "101"])
def test_full_depth(blocks, rename):
    full = randomised(ResNet(blocks, classes=1000), seed=9)
    pictures, turned = _pictures(5)
    contents = _contents(full.state_dict(), rename)
    model = _filled(contents, blocks, variant="v1.5", classes=1000)
    with torch.no_grad():
        _agree(model(pictures), full(turned))


def test_hugging_faces_own_network():
    """The real one, where transformers is installed; it needs no torchvision."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_labels=7, depths=[1, 1, 1, 1], embedding_size=64, hidden_sizes=[256, 512, 1024, 2048]
    )
    theirs = randomised(transformers.ResNetForImageClassification(config), seed=6)
    pictures, turned = _pictures(6)
    contents = _contents(theirs.state_dict())
    assert identify(contents).writer == "Hugging Face ResNetForImageClassification"
    model = _filled(contents, SMALL, variant="v1.5", classes=7)
    with torch.no_grad():
        _agree(model(pictures), theirs(turned).logits)
