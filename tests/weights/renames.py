"""What other libraries call the tensors of a ResNet that torchvision names."""


def hugging_face_name(name):
    """What transformers' ResNetForImageClassification calls the tensor that torchvision calls `name`."""
    kind = {"conv": "convolution", "bn": "normalization"}
    parts = name.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    if parts[0] in {"conv1", "bn1"}:
        return f"resnet.embedder.embedder.{kind[parts[0][:-1]]}.{parts[1]}"
    place = f"resnet.encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{place}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[4]}"
    return f"{place}.layer.{int(parts[2][-1]) - 1}.{kind[parts[2][:-1]]}.{parts[3]}"


def detectron_name(name):
    """What detectron2 calls the tensor that torchvision calls `name` (its own converter, read the other way)."""
    if "layer" not in name:
        name = f"stem.{name}"
    for stage in (1, 2, 3, 4):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
