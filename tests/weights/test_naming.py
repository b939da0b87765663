"""Foreign names and axes into Keras'; what is set aside is said, and no number is read for it."""

import numpy as np
import pytest
from names import contents, known, renamed, torchvision
from renames import detectron_name, hugging_face_name

from greffon.errors import WeightFileError
from greffon.weights.identify import identify
from greffon.weights.naming import to_keras
from greffon.weights.read.arrays import Contents, in_memory
from greffon.weights.structure import network_shapes, shapes_of

SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7", "fc": "9"}


def _sequential(name):
    child, _, rest = name.partition(".")
    return f"{SEQUENTIAL[child]}.{rest}"


def _translated(shapes, **more):
    opened = contents(shapes, **more)
    return to_keras(opened, identify(opened))


def _backbone(blocks):
    return network_shapes(blocks, 64)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "backbone.",
        "encoder.",
        "model.",
        "_orig_mod.",
        "module.encoder_q.",
        "state_dict.model.resnet.",
        "teacher.backbone.",
        "student.module.backbone.",
        "backbone.body.",
        "_feature_blocks.",
        "module.base_encoder.",
        "net.0.",
    ],
)
@pytest.mark.parametrize("rename", [str, hugging_face_name, detectron_name, _sequential])
def test_every_dialect_behind_every_prefix(prefix, rename):
    shapes = renamed(torchvision((2, 1, 1, 1), classes=0), prefix, rename)
    found = _translated(shapes)
    got = shapes_of(found.tensors)
    expected = _backbone((2, 1, 1, 1))
    if rename is detectron_name:  # taken for v1, which has biases
        got = {layer: {it: shape for it, shape in weights.items() if it != "bias"} for layer, weights in got.items()}
    assert got == expected


@pytest.mark.parametrize("blocks", [(3, 4, 6, 3), (3, 4, 23, 3), (1, 1), (1, 2, 1, 1)])
def test_every_depth(blocks):
    assert shapes_of(_translated(torchvision(blocks, classes=0)).tensors) == _backbone(blocks)


def test_the_classifier_is_turned():
    found = _translated(torchvision(classes=7))
    assert shapes_of(found.tensors)["predictions"] == {"kernel": (2048, 7), "bias": (7,)}


@pytest.mark.parametrize("top", ["fc", "head.fc", "classifier", "classifier.1", "last_linear"])
def test_names_of_the_classifier(top):
    shapes = torchvision(classes=7)
    shapes = {name.replace("fc.", f"{top}."): shape for name, shape in shapes.items()}
    assert shapes_of(_translated(shapes).tensors)["predictions"] == {"kernel": (2048, 7), "bias": (7,)}


def test_mmpretrains_classifier_stands_beside_the_backbone():
    shapes = renamed(torchvision(classes=0), "backbone.") | {"head.fc.weight": (7, 2048), "head.fc.bias": (7,)}
    found = identify(contents(shapes))
    assert (found.include_top, found.classes, found.prefix) == (True, 7, "backbone.")
    assert "predictions/kernel" in _translated(shapes).tensors


def test_a_1x1_convolution_as_classifier_becomes_dense():
    kernel = np.random.default_rng(0).normal(size=(7, 256, 1, 1)).astype(np.float32)
    block = contents({"layer1.1.conv3.weight": (256, 64, 1, 1)}).tensors
    opened = Contents(block | {"fc.weight": in_memory(kernel), "fc.bias": in_memory(np.zeros(7, np.float32))}, "test")
    assert identify(opened).classes == 7
    dense = to_keras(opened, identify(opened)).tensors["predictions/kernel"]
    assert dense.shape == (256, 7)
    np.testing.assert_array_equal(dense.load(), kernel[:, :, 0, 0].T)


def test_numbers_keep_their_place():
    kernel = np.arange(64 * 3 * 49, dtype=np.float32).reshape(64, 3, 7, 7)
    opened = contents(torchvision())
    opened.tensors["conv1.weight"] = in_memory(kernel)
    turned = to_keras(opened, identify(opened)).tensors["conv1_conv/kernel"].load()
    assert turned.shape == (7, 7, 3, 64)
    assert turned[1, 2, 0, 5] == kernel[5, 0, 1, 2]


def test_what_is_no_part_is_set_aside_with_a_note():
    found = _translated(known("torchvision fasterrcnn_resnet50_fpn"))
    said = " ".join(found.notes)
    assert "Set aside, being no part of the network: backbone.fpn.inner_blocks.0.0.weight" in said
    assert "counters of training steps (num_batches_tracked) are not needed" in said
    assert "behind 'backbone.body.'" in said
    assert not any(name.startswith(("backbone", "rpn", "roi")) for name in found.tensors)


@pytest.mark.parametrize(
    ("prefixes", "taken"),
    [
        (("module.encoder_q.", "module.encoder_k."), "module.encoder_q."),
        (("student.module.backbone.", "teacher.backbone."), "teacher.backbone."),
        (("module.momentum_encoder.", "module.base_encoder."), "module.base_encoder."),
        (("target_network.", "online_network."), "online_network."),
        (("backbone_momentum.", "backbone."), "backbone."),
        (("model.", "model_ema."), "model_ema."),
        (("ema.module.", "module."), "ema.module."),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_networks_the_one_that_is_evaluated(prefixes, taken, order):
    shapes = {}
    for prefix in prefixes[::order]:
        shapes |= renamed(torchvision(classes=0), prefix)
    found = identify(contents(shapes))
    assert found.prefix == taken
    other = next(prefix for prefix in prefixes if prefix != taken)
    assert any("more than one such network" in note and repr(other) in note for note in found.naming.notes)
    assert shapes_of(_translated(shapes).tensors) == _backbone((1, 1, 1, 1))


def test_a_projection_head_is_no_classifier():
    for projection in (
        {"fc.weight": (128, 2048), "fc.bias": (128,)},
        {"fc.0.weight": (2048, 2048), "fc.2.bias": (128,)},
    ):
        shapes = renamed(torchvision(classes=0) | projection, "module.encoder_q.")
        opened = contents(shapes | {"module.queue": (128, 65536), "module.queue_ptr": (1,)})
        found = identify(opened)
        assert (found.writer, found.include_top, found.classes) == ("MoCo", False, None)
        assert "predictions/kernel" not in to_keras(opened, found).tensors
        assert any("module.encoder_q.fc." in note for note in found.naming.notes)


def test_a_classifier_that_takes_other_features_is_set_aside():
    found = identify(contents(torchvision(classes=0) | {"fc.weight": (10, 512), "fc.bias": (10,)}))
    assert not found.include_top
    assert any("fc.weight" in note for note in found.naming.notes)


def test_contents_with_keras_names_come_back_as_they_are():
    shapes = {f"{layer}/{it}": shape for layer, its in _backbone((1, 1)).items() for it, shape in its.items()}
    opened = contents(shapes)
    assert to_keras(opened, identify(opened)) is opened


def test_keras_names_behind_a_path_and_the_ending_of_tensorflow():
    shapes = {
        f"resnet50/{layer}/{it}/.ATTRIBUTES/VARIABLE_VALUE": shape
        for layer, its in _backbone((1, 1)).items()
        for it, shape in its.items()
    }
    assert shapes_of(_translated(shapes).tensors) == _backbone((1, 1))


def _counted(layers):
    return {
        f"layer_with_weights-{number}/{it}/.ATTRIBUTES/VARIABLE_VALUE": shape
        for number, its in enumerate(layers.values())
        for it, shape in its.items()
    }


def test_layers_that_a_checkpoint_only_counts():
    layers = _backbone((2, 1, 1))
    shapes = dict(sorted(_counted(layers).items()))  # -10 stands before -2
    assert shapes_of(_translated(shapes, form="TensorFlow checkpoint").tensors) == layers


def _onnx(blocks):
    """Kernels and biases in the order of the graph of an exported ResNet of torch, BatchNorm folded in."""
    shapes = {"fc.weight": (10, 2048), "fc.bias": (10,)}
    kernels = {name: shape for name, shape in torchvision(blocks, classes=0).items() if len(shape) == 4}
    for number, name in enumerate(sorted(kernels, key=_when_it_runs)):
        shapes[f"onnx::Conv_{497 + 3 * number}"] = kernels[name]
        shapes[f"onnx::Conv_{498 + 3 * number}"] = kernels[name][:1]
    return shapes


def _when_it_runs(name):
    if name.startswith("conv1"):
        return (0,)
    stage, block, conv = name.split(".")[:3]
    return int(stage.removeprefix("layer")), int(block), {"downsample": 9}.get(conv) or int(conv.removeprefix("conv"))


def test_numbered_kernels_of_a_graph():
    opened = contents(_onnx((1, 2, 1, 1)), form="ONNX")
    found = identify(opened)
    assert (found.blocks, found.variant, found.classes) == ((1, 2, 1, 1), "v1.5", 10)
    got = shapes_of(to_keras(opened, found).tensors)
    assert got == _backbone((1, 2, 1, 1)) | {"predictions": {"kernel": (2048, 10), "bias": (10,)}}


def test_strides_of_a_graph_make_the_variant_sure():
    shapes = _onnx((1, 1, 1, 1))
    kernels = [name for name, shape in shapes.items() if len(shape) == 4]
    for strides, variant in (((1, 2), "v1.5"), ((2, 1), "v1")):
        configs = dict(zip(kernels[5:7], ({"strides": [it, it]} for it in strides), strict=True))
        found = identify(contents(shapes, form="ONNX", configs=configs))
        assert (found.variant, found.variant_sure) == (variant, True)


def test_an_order_that_fits_none_is_refused():
    shapes = _onnx((1, 1, 1, 1))
    backwards = dict(reversed(shapes.items()))
    with pytest.raises(WeightFileError, match="the order of its tensors is none that is known"):
        _translated(backwards, form="ONNX")


@pytest.mark.parametrize("name", ["torchvision resnext50_32x4d", "timm resnet50d", "torchvision vgg16"])
def test_what_greffon_cannot_build_is_refused_by_name(name):
    opened = contents(known(name))
    found = identify(opened)
    with pytest.raises(WeightFileError, match="it is ") as error:
        to_keras(opened, found)
    assert str(error.value) == found.refusal
