"""Which network a file is, who wrote it, which preprocessing goes with it, and what cannot be known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from names import KNOWN, contents, known, renamed, torchvision
from renames import detectron_name, hugging_face_name

from greffon.errors import WeightFileError
from greffon.weights.causes import left_out_note, likely_cause
from greffon.weights.identify import identify, unfold_preprocessing, variant_of
from greffon.weights.match import Match
from greffon.weights.read.arrays import Contents, in_memory
from greffon.weights.sets import PREPROCESSINGS
from greffon.weights.structure import network_shapes

# Real networks of other libraries -> what they are called, and whether Greffon loads them.
CALLED = {
    "torchvision resnet50": ("ResNet-50 v1.5", True),
    "torchvision resnet101": ("ResNet-101 v1.5", True),
    "torchvision fasterrcnn_resnet50_fpn": ("ResNet-50 v1.5", True),
    "torchvision deeplabv3_resnet50": ("ResNet-50 v1.5", True),
    "timm resnet50": ("ResNet-50 v1.5", True),
    "transformers ResNetForImageClassification": ("ResNet-50 v1.5", True),
    "transformers ResNetModel": ("ResNet-50 v1.5", True),
    "torchvision wide_resnet50_2": ("Wide ResNet-50-2", False),
    "torchvision resnext50_32x4d": ("ResNeXt-50 32x4d", False),
    "torchvision resnet18": ("ResNet-18 of basic blocks", False),
    "transformers basic": ("ResNet-18 of basic blocks", False),
    "timm resnet50d": ("ResNet-50 with a ResNet-D stem", False),
    "timm resnet50c": ("ResNet-50 with a deep stem", False),
    "timm resnet26d": ("ResNet of blocks 2,2,2,2 with a ResNet-D stem", False),
    "timm seresnet50": ("SE-ResNet-50", False),
    "timm ecaresnet50d": ("ECA-ResNet-50", False),
    "timm resnest50d": ("ResNeSt-50", False),
    "timm skresnet50": ("SK-ResNet-50", False),
    "timm res2net50_26w_4s": ("Res2Net-50", False),
    "timm resnet50_gn": ("ResNet-50 with GroupNorm", False),
    "timm resnetv2_50": ("not a ResNet: it looks like a ResNet V2", False),
    "timm resnetv2_50x1_bit": ("not a ResNet: it looks like a ResNet V2", False),
    "keras ResNet50V2": ("ResNet-50 V2", False),
}
LOOKS_LIKE = {
    "torchvision mobilenet_v2": "MobileNetV2",
    "torchvision mobilenet_v3_small": "MobileNetV3 or EfficientNet",
    "torchvision efficientnet_b0": "EfficientNet",
    "torchvision vgg16": "VGG",
    "torchvision vit_b_16": "a ViT",
    "torchvision densenet121": "DenseNet",
    "torchvision convnext_tiny": "ConvNeXt",
    "torchvision googlenet": "Inception",
    "torchvision inception_v3": "Inception",
    "torchvision swin_t": "a Swin Transformer",
    "torchvision alexnet": "AlexNet",
    "torchvision squeezenet1_0": "SqueezeNet",
    "torchvision shufflenet_v2_x1_0": "ShuffleNet",
    "torchvision mnasnet1_0": "MNASNet",
    "keras MobileNet": "MobileNet",
    "keras MobileNetV2": "MobileNetV2",
    "keras MobileNetV3Small": "MobileNetV3",
    "keras EfficientNetB0": "EfficientNet",
    "keras EfficientNetV2B0": "EfficientNet",
    "keras VGG16": "VGG",
    "keras DenseNet121": "DenseNet",
    "keras InceptionV3": "Inception",
    "keras InceptionResNetV2": "Inception",
    "keras Xception": "Xception",
    "keras NASNetMobile": "NASNet",
    "keras ConvNeXtTiny": "ConvNeXt",
}


def test_every_known_network_is_tested():
    assert set(KNOWN) == CALLED.keys() | LOOKS_LIKE.keys() | {"timm cspresnet50"}


@pytest.mark.parametrize("name", CALLED)
def test_resnets_are_called_by_their_names(name):
    called, loadable = CALLED[name]
    found = identify(contents(known(name)))
    assert found.network == called
    assert (not found.refusal) == loadable
    assert (found.variant is not None) == loadable
    assert found.sentence().startswith(called[0].upper() + called[1:])


@pytest.mark.parametrize("name", LOOKS_LIKE)
def test_other_networks_are_called_by_what_they_look_like(name):
    found = identify(contents(known(name)))
    assert found.network == f"not a ResNet: it looks like {LOOKS_LIKE[name]}"
    assert (found.variant, found.blocks, found.preprocessing) == (None, (), None)
    assert found.refusal == f"it is {found.network}"


def test_an_unknown_network_is_said_to_be_unknown():
    found = identify(contents(known("timm cspresnet50")))
    assert found.network.startswith("an unknown network: its tensors are called stem.conv1.conv.weight, ")
    assert found.refusal


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"dense/kernel": (2048, 5), "dense/bias": (5,), "dense_1/kernel": (5, 3), "dense_1/bias": (3,)}, "4 tensors"),
        ({"fc.weight": (10, 2048), "fc.bias": (10,)}, "a head alone: 2 tensors"),
        ({"state.0.exp_avg": (64, 3, 7, 7), "state.0.exp_avg_sq": (64, 3, 7, 7)}, "it holds an optimizer"),
        ({"resnet/block1/unit01/a/standardized_conv2d/kernel": (1, 1, 64, 64)}, "a ResNet V1: it looks like BiT"),
        ({"resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 64)}, "BiT"),
        ({"vit.embeddings.cls_token": (1, 1, 768)}, "a ViT"),
        ({"bit.encoder.stages.0.layers.0.norm1.weight": (64,)}, "a ResNet V2"),
    ],
)
def test_what_is_no_network_or_another(shapes, said):
    found = identify(contents(shapes))
    assert said in found.network
    assert found.refusal
    assert found.variant is None


def test_tf_slim_halves_elsewhere():
    scope = "resnet_v1_50/block1/unit_1/bottleneck_v1"
    found = identify(contents({f"{scope}/conv1/weights": (1, 1, 64, 64), "resnet_v1_50/conv1/weights": (7, 7, 3, 64)}))
    assert (found.writer, found.variant) == ("TF-slim", None)
    assert "halves the picture in the last block of a stage" in found.refusal


def _of(name, blocks=(1, 1, 1, 1), prefix="", **beside):
    rename = {"detectron2": detectron_name, "Hugging Face": hugging_face_name}.get(name, str)
    return identify(contents(renamed(torchvision(blocks, classes=0), prefix, rename) | beside))


SURE = [
    ("MoCo", _of("", prefix="module.encoder_q.", **{"module.queue": (128, 65536)}), "torch"),
    ("MoCo", _of("", prefix="module.base_encoder."), "torch"),
    ("DINO", _of("", prefix="teacher.backbone."), "torch"),
    ("SwAV", _of("", prefix="module.", **{"module.prototypes.weight": (3000, 128)}), "torch"),
    ("BYOL", _of("", prefix="online_network.encoder."), "torch"),
    (
        "Barlow Twins",
        _of("", prefix="backbone.", **{"projector.0.weight": (8192, 2048), "bn.running_mean": (8192,)}),
        "torch",
    ),
    ("VISSL", _of("", prefix="trunk._feature_blocks."), "torch"),
    ("SimCLR, VICReg", _of("", prefix="encoder.", **{"projector.0.weight": (2048, 2048)}), None),
    ("a detection backbone (DETR)", _of("", prefix="backbone.0.body.", **{"class_embed.weight": (92, 256)}), "torch"),
    ("Hugging Face ResNetModel", _of("Hugging Face"), "torch"),
    ("a Sequential of torchvision's layers", identify(contents({"4.0.conv1.weight": (64, 64, 1, 1)})), None),
    ("PyTorch, with torchvision's names", _of(""), None),
]
UNSURE = [
    ("a detection backbone (detectron2)", _of("detectron2", prefix="backbone.bottom_up."), "v1"),
    (
        "a detection backbone (mmdetection)",
        _of("", prefix="backbone.", **{"neck.lateral_convs.0.conv.weight": (256, 256, 1, 1)}),
        "v1.5",
    ),
    (
        "a detection backbone (maskrcnn-benchmark)",
        identify(
            contents(
                {
                    "module.backbone.body.stem.conv1.weight": (64, 3, 7, 7),
                    "module.backbone.body.layer1.0.conv1.weight": (64, 64, 1, 1),
                }
            )
        ),
        "v1",
    ),
]


@pytest.mark.parametrize(("writer", "found", "preprocessing"), SURE, ids=[it[0] for it in SURE])
def test_writers_with_one_variant(writer, found, preprocessing):
    assert found.writer.startswith(writer)
    assert (found.variant, found.variant_sure) == ("v1.5", True)
    assert (found.preprocessing.name if found.preprocessing else None) == preprocessing
    assert found.preprocessing_why.startswith("cannot be known from the file") == (preprocessing is None)


@pytest.mark.parametrize(("writer", "found", "variant"), UNSURE, ids=[it[0] for it in UNSURE])
def test_writers_with_two_variants_leave_it_open(writer, found, variant):
    assert (found.writer, found.variant, found.variant_sure) == (writer, variant, False)
    assert (found.preprocessing, found.preprocessing_why[:15]) == (None, "cannot be known")
    assert any("two styles with the same shapes" in note for note in found.notes)
    other = "v1" if variant == "v1.5" else "v1.5"
    assert found.for_variant(other).variant == other
    assert "(not sure)" in found.sentence()


def test_imagenets_classifiers_want_torch_and_others_cannot_be_known():
    assert identify(contents(torchvision(classes=1000))).preprocessing is PREPROCESSINGS["torch"]
    own = identify(contents(torchvision(classes=12)))
    assert own.preprocessing is None
    assert own.preprocessing_why.startswith("cannot be known from the file")
    assert (own.include_top, own.classes) == (True, 12)


@pytest.mark.parametrize("rename", [str, hugging_face_name])
def test_a_file_of_v1_5_is_never_called_v1(rename):
    shapes = renamed(torchvision((3, 4, 6, 3)), rename=rename)
    found = identify(contents(shapes))
    assert (found.variant, found.variant_sure, found.depth) == ("v1.5", True, 50)
    with pytest.raises(WeightFileError, match=r"for variant 'v1\.5', not 'v1'"):
        found.for_variant("v1")
    assert found.for_variant("v1.5") is found.for_variant(None) is found
    bare = identify(contents({name: shape for name, shape in shapes.items() if "running" not in name}))
    assert bare.variant != "v1", "not even without BatchNorm's statistics"


def test_anti_aliased_networks_only_their_checkpoints_tell():
    shapes = torchvision()
    assert not identify(contents(shapes)).refusal, "the tensors are those of a plain one"
    found = identify(contents(shapes, metadata={"arch": "resnetblur50"}))
    assert "smooths before it halves" in found.refusal
    assert "smooths" in found.sentence()


def _keras(blocks=(3, 4, 6, 3), width=64, *, biases=True, classes=None):
    shapes = {}
    for layer, its in network_shapes(blocks, width).items():
        shapes |= {f"{layer}/{it}": shape for it, shape in its.items()}
        if biases and layer.endswith("_conv"):
            shapes[f"{layer}/bias"] = its["kernel"][-1:]
    if classes:
        shapes |= {"predictions/kernel": (2048, classes), "predictions/bias": (classes,)}
    return shapes


@pytest.mark.parametrize(
    ("shapes", "called", "variant"),
    [
        (_keras(classes=1000), "ResNet-50 v1", "v1"),
        (_keras(biases=False), "ResNet-50 v1.5", "v1.5"),
        (_keras(width=32), "ResNet-50 v1, half width (thin)", "thin"),
        (_keras((3, 8, 36, 3)), "ResNet-152 v1", "v1"),
        (_keras((1, 1), 32), "ResNet v1 of blocks 1,1, half width (thin)", "thin"),
    ],
)
def test_files_of_keras(shapes, called, variant):
    found = identify(contents(shapes))
    assert (found.network, found.variant, found.variant_sure) == (called, variant, False)
    assert found.writer == "Keras applications"
    assert found.preprocessing is None
    assert "want caffe" in found.preprocessing_why
    assert found.include_top == ("predictions/kernel" in shapes)
    assert variant_of(contents(shapes)) == (False, variant)


def test_what_the_file_says_is_sure():
    shapes = _keras(biases=False)
    found = identify(contents(shapes, metadata={"variant": "v1", "preprocessing": "tf", "writer": "greffon 0.2"}))
    assert (found.variant, found.variant_sure, found.writer) == ("v1", True, "greffon")
    assert found.preprocessing is PREPROCESSINGS["tf"]
    strides = {f"conv3_block1_{number}_conv": {"strides": [number, number]} for number in (1, 2)}
    assert variant_of(contents(_keras(), configs=strides)) == (True, "v1.5")
    nonsense = identify(contents(_keras(), metadata={"variant": "v7", "preprocessing": "os.system"}))
    assert (nonsense.variant, nonsense.variant_sure, nonsense.preprocessing) == ("v1", False, None)


def test_old_and_numbered_names_of_keras():
    old = {"res2a_branch2a/kernel": (1, 1, 64, 64), "res2a_branch2a/bias": (64,), "bn_conv1/gamma": (64,)}
    assert identify(contents(old)).network == "ResNet v1 of blocks 1"
    numbered = {}
    for number, shape in enumerate(it for name, it in _keras(biases=False).items() if name.endswith("kernel")):
        numbered[f"conv2d_{number}/kernel"] = shape
        numbered[f"conv2d_{number}/bias"] = shape[-1:]
    found = identify(contents(numbered))
    assert (found.network, found.blocks, found.refusal) == ("ResNet-50 v1", (3, 4, 6, 3), "")
    assert not found.naming.places, "matching by order is for `match`"


def test_simclr_of_tensorflow():
    shapes = {}
    for number, shape in enumerate(it for name, it in _keras(biases=False).items() if name.endswith("kernel")):
        shapes[f"base_model/conv2d_{number}/kernel"] = shape
    found = identify(contents(shapes | {"head_supervised/linear_layer/dense/kernel": (2048, 1000)}))
    assert (found.writer, found.variant, found.network) == ("SimCLR (TensorFlow)", "v1.5", "ResNet-50 v1.5")
    assert found.preprocessing is None
    assert any("pads the pooling" in note for note in found.notes)


def test_layers_with_names_of_ones_own_are_left_to_matching():
    shapes = {f"my_{name}": shape for name, shape in _keras((1, 1)).items() if "conv1" not in name}
    found = identify(contents(shapes))
    assert found.network.startswith("an unknown network")
    assert not found.refusal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv1.weight": (64, 3, 3, 3)}, "with a 3x3 stem: its stem is for small pictures"),
        ({"conv1.weight": (128, 3, 7, 7)}, "with a stem of 128 channels"),
        ({"visual.conv2.weight": (32, 32, 3, 3)}, "CLIP ResNet"),
        ({"layer1.0.gate.weight": (1,)}, "with more in its blocks: a plain block has no layer1.0.gate.weight"),
        ({"layer1.0.conv2_offset.weight": (27, 64, 3, 3)}, "deformable ResNet"),
        ({"layer2.0.conv2.weight": (96, 96, 3, 3)}, "of unusual widths"),
    ],
)
def test_nearly_a_resnet(change, said):
    prefix = "visual." if "visual.conv2.weight" in change else ""
    found = identify(contents(renamed(torchvision(), prefix) | change))
    assert said in found.refusal
    assert found.variant is None


def test_other_widths():
    assert "of width 16: it has 16 filters" in identify(contents(torchvision(width=16))).refusal
    half = identify(contents(torchvision(width=32)))
    assert "half width, but not the network that Greffon calls thin" in half.refusal


@pytest.mark.parametrize("name", ["torchvision resnet50", "torchvision vgg16", "timm resnet50d"])
def test_as_dict_is_json(name):
    found = json.loads(json.dumps(identify(contents(known(name))).as_dict()))
    assert found["loadable"] == (name == "torchvision resnet50")
    assert found["network"] in found["refusal"] or found["loadable"]


def test_preprocessing_of_a_grafted_model_is_unfolded_when_it_is_read():
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 64)).astype(np.float32)
    name = "greffon_preprocessing_caffe"
    opened = Contents({"conv1_conv/kernel": in_memory(kernel)}, "test", layer_names=(name, "conv1_conv"))
    assert identify(replace(opened, tensors=opened.tensors | contents(_keras((1, 1))).tensors)).preprocessing.name == (
        "caffe"
    )
    for given in (opened.load(), opened):
        preprocessing, notes = unfold_preprocessing(given)
        assert preprocessing is PREPROCESSINGS["caffe"]
        assert "caffe" in notes[0]
        swapped = given.tensors["conv1_conv/kernel"].load() if given is opened else given.arrays["conv1_conv/kernel"]
        np.testing.assert_array_equal(swapped, kernel[:, :, ::-1])
    with pytest.raises(WeightFileError, match="has no conv1_conv/kernel"):
        unfold_preprocessing(replace(opened, tensors={}))
    with pytest.raises(WeightFileError, match="whose values it does not hold"):
        unfold_preprocessing(replace(opened, layer_names=("greffon_preprocessing_mine",)))
    assert unfold_preprocessing(contents(_keras((1, 1)))) == (None, ())


def test_causes():
    network = network_shapes((1, 1), 64)
    head = {"dense": {"kernel": (2048, 5), "bias": (5,)}, "dense_1": {"kernel": (5, 3), "bias": (3,)}}
    assert likely_cause(Match(None), head, network) == (
        "these are 2 layers: a head alone (dense, dense_1); the backbone's weights are in another file."
    )
    vgg = {"block1_conv1": {"kernel": (3, 3, 3, 64)}, "block1_conv2": {"kernel": (3, 3, 64, 64)}}
    assert likely_cause(Match(None), vgg, network).endswith("it looks like VGG.")
    whole = {"predictions": {"kernel": (2048, 1000), "bias": (1000,)}}
    assert left_out_note(["predictions"], whole) == (
        "This is a whole classifier with 1,000 classes: its top is left out (predictions)."
    )
    many = left_out_note([f"dense_{number}" for number in range(30)], {})
    assert many.endswith("dense_19, and 10 more.")


def test_names_and_shapes_that_no_one_means():
    """Whatever a file claims, it is identified or said to be unknown, and quickly."""
    digits = "9" * 5000
    shapes = [
        {f"layer1.{digits}.conv1.weight": (64, 64, 1, 1)},
        {f"conv2_block{digits}_1_conv/kernel": (1, 1, 64, 64)},
        {f"conv2d_{digits}/kernel": (7, 7, 3, 64)},
        {"layer1.0.conv1.weight": ()},
        {"layer1.0.conv3.bias": (256,), "fc.weight": (10, 256), "fc.bias": (10,)},
        {"layer1.0.conv2.weight": (0, 0, 3, 3), "conv1.weight": (0, 0, 0, 0), "fc.weight": (0, 0)},
        {"layer1.0.conv2.weight": (64, 3, 3)},
        {"layer1.0.conv1.weight": (64, 64, 1, 1), "layer8.0.conv1.weight": (1, 1)},
        {"": (), ".": (), "/": (1, 1)},
        {f"{'projector.1.weight ' * 2000}{number}": (1,) for number in range(20)} | {"layer1.0.bn1.weight": (64,)},
        {"normal_" * 5000: (1,)},
        {f"layer1.0.conv1.{'x.' * 5000}": (1,)},
    ]
    for case in shapes:
        found = identify(contents(case))
        assert found.sentence()
        json.dumps(found.as_dict())
