"""How names.json was made: the names and shapes that real networks of other libraries have.

Run where torch, torchvision, timm, transformers and Keras are installed: `python make_names.py > names.json`. Nothing
is downloaded. A BatchNorm of torch is written as one entry (`bn1.*`); of networks that are no ResNets the first 25
tensors are kept, of ResNets the first and last block of every stage.
"""

import json
import re
import sys

import keras
import timm
import torch
import torchvision
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_BLOCK = re.compile(r"(.*(?:layer|stages\.)\d\.(?:layers\.|blocks\.)?|conv\d_block)(\d+)[._]")
_TORCHVISION = (
    *("resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "resnet18", "mobilenet_v2", "efficientnet_b0"),
    *("vgg16", "vit_b_16", "densenet121", "convnext_tiny", "googlenet", "swin_t", "mobilenet_v3_small", "alexnet"),
    *("squeezenet1_0", "shufflenet_v2_x1_0", "mnasnet1_0", "inception_v3"),
)
_KERAS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "VGG16", "DenseNet121"),
    *("InceptionV3", "Xception", "NASNetMobile", "ConvNeXtTiny", "ResNet50V2", "InceptionResNetV2"),
)
_TIMM = (
    *("resnet50", "resnet50d", "resnet50c", "resnet26d", "seresnet50", "ecaresnet50d", "resnest50d", "skresnet50"),
    *("res2net50_26w_4s", "resnet50_gn", "resnetv2_50", "resnetv2_50x1_bit", "cspresnet50"),
)


def _described(network):
    state = network.state_dict()
    entries = []
    for name, tensor in state.items():
        stem, _, weight = name.rpartition(".")
        norm = all(f"{stem}.{it}" in state for it in _NORM)
        if not norm:
            entries.append([name, list(tensor.shape)])
        elif weight == "weight":
            entries.append([f"{stem}.*", list(tensor.shape)])
    return _shortened(entries)


def _shortened(entries):
    last = {}
    for name, _ in entries:
        block = _BLOCK.match(name)
        if block:
            last[block[1]] = max(last.get(block[1], 0), int(block[2]))
    if not last or max(last.values()) > 30:
        return entries[:25]
    first = min(int(_BLOCK.match(name)[2]) for name, _ in entries if _BLOCK.match(name))
    return [it for it in entries if not (found := _BLOCK.match(it[0])) or int(found[2]) in {first, last[found[1]]}]


def _networks():
    for name in _TORCHVISION:
        yield f"torchvision {name}", getattr(torchvision.models, name)()
    detection, segmentation = torchvision.models.detection, torchvision.models.segmentation
    nothing = {"weights": None, "weights_backbone": None}
    yield "torchvision fasterrcnn_resnet50_fpn", detection.fasterrcnn_resnet50_fpn(**nothing)
    yield "torchvision deeplabv3_resnet50", segmentation.deeplabv3_resnet50(**nothing)
    for name in _TIMM:
        yield f"timm {name}", timm.create_model(name)
    config = ResNetConfig(num_labels=1000)
    yield "transformers ResNetForImageClassification", ResNetForImageClassification(config)
    yield "transformers ResNetModel", ResNetModel(config)
    basic = ResNetConfig(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=1000)
    yield "transformers basic", ResNetForImageClassification(basic)


def _keras_tensors(network):
    entries = [[f"{layer.name}/{it.name}", list(it.shape)] for layer in network.layers for it in layer.weights]
    return _shortened(entries)


if __name__ == "__main__":
    with torch.device("meta"):
        described = {name: _described(network) for name, network in _networks()}
    for kind in _KERAS:
        described[f"keras {kind}"] = _keras_tensors(getattr(keras.applications, kind)(weights=None))
    lines = (f"{json.dumps(name)}: {json.dumps(entries, separators=(',', ':'))}" for name, entries in described.items())
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
