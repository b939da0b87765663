"""ResNets in torch for tests: the names, the shapes and the arithmetic that torchvision, timm and detectors have.

Written from the papers and the published names, not from the libraries' code. torch is imported by whoever builds one.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with torchvision's names; `stride_in_1x1` as Caffe's networks have it."""

    def __init__(self, inwards, width, stride, *, groups=1, base=64, stride_in_1x1=False, frozen=False):
        super().__init__()
        norm = FrozenNorm if frozen else nn.BatchNorm2d
        inner, outwards = width * base * groups // 64, 4 * width
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inwards, inner, 1, first, bias=False)
        self.bn1 = norm(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, 1, groups=groups, bias=False)
        self.bn2 = norm(inner)
        self.conv3 = nn.Conv2d(inner, outwards, 1, bias=False)
        self.bn3 = norm(outwards)
        self.downsample = None
        if stride != 1 or inwards != outwards:
            self.downsample = nn.Sequential(nn.Conv2d(inwards, outwards, 1, stride, bias=False), norm(outwards))

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class FrozenNorm(nn.Module):
    """BatchNorm of detectors: four buffers and nothing that counts."""

    def __init__(self, size):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((size,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ResNet(nn.Module):
    """A bottleneck ResNet v1.5 (v1 with `stride_in_1x1`) whose state dict has the names of torchvision and timm."""

    def __init__(self, blocks=(1, 1, 1, 1), *, width=64, classes=10, **options):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenNorm(64) if options.get("frozen") else nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inwards = 64
        for stage, count in enumerate(blocks):
            filters = width * 2**stage
            inside = []
            for block in range(count):
                stride = 2 if stage and not block else 1
                inside.append(Bottleneck(inwards, filters, stride, **options))
                inwards = 4 * filters
            setattr(self, f"layer{stage + 1}", nn.Sequential(*inside))
        self.fc = nn.Linear(inwards, classes) if classes else None
        self.stages = len(blocks)

    def pooled(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.pooled(x))


def randomised(net, seed=0):
    """Random weights and BatchNorm statistics that keep activations near 1; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1:
                spread = math.sqrt(2 / tensor[0].numel())
                tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return net.eval()
