"""What the scripts that write golden files have in common: one small network, its random weights, its pictures.

Each old release of Keras builds it with its own layers. It is variant v1 of two stages at width 4, with a top of 5
classes; `tests/weights/test_old_keras.py` builds the same one with Greffon.
"""

import re
import sys
import zlib
from pathlib import Path

import numpy as np

BLOCKS, WIDTH, CLASSES, SIDE = (2, 1), 4, 5, 32
EPSILON = 1.001e-5
_BRANCHES = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}
_OLD_ENDS = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"}


def pictures():
    """Float32 (3, 32, 32, 3), about what preprocessing gives."""
    return np.random.RandomState(7).uniform(-2, 2, (3, SIDE, SIDE, 3)).astype(np.float32)


def values(layer, weight, shape):
    """Random values for a weight, BN statistics too; by the layer's present name, so the same in every release."""
    random = np.random.RandomState(zlib.crc32(f"{layer}/{weight}".encode()) % 2**31)
    if weight == "kernel":
        result = random.normal(0, np.sqrt(2.0 / np.prod(shape[:-1])), shape)
    elif weight in {"gamma", "moving_variance"}:
        result = random.uniform(0.5, 1.5, shape)
    else:
        result = random.normal(0, 0.2, shape)
    return result.astype(np.float32)


def old_name(layer):
    """`conv3_block1_0_bn` -> `bn3a_branch1`: what Keras called it until 2.2."""
    match = re.match(r"conv(\d)_block(\d)_(\d)_(conv|bn)$", layer)
    if not match:
        return _OLD_ENDS.get(layer, layer)
    stage, block, place, kind = match.groups()
    kind = "res" if kind == "conv" else "bn"
    return "{}{}{}_branch{}".format(kind, stage, "abcdef"[int(block) - 1], _BRANCHES[place])


def layer_names():
    """The layers that have weights, as Keras calls them now."""
    yield from ("conv1_conv", "conv1_bn", "predictions")
    for stage, count in enumerate(BLOCKS, 2):
        for number in range(1, count + 1):
            for place in range(4):
                for kind in ("conv", "bn"):
                    yield f"conv{stage}_block{number}_{place}_{kind}"


def network(make, x):
    """The layers from the input to the pooled features and the classes; `make` has one method for each kind.

    `conv(x, filters, size, stride, same, name)`, `norm(x, name)`, `relu(x)`, `pad(x, by)`, `pool(x)`, `add(x, y)`,
    `average(x)`, `dense(x, classes, name)`.
    """

    def conv(x, filters, size, stride, name):
        return make.norm(make.conv(x, filters, size, stride, size == 3, name + "_conv"), name + "_bn")

    x = make.relu(conv(make.pad(x, 3), 64, 7, 2, "conv1"))
    x = make.pool(make.pad(x, 1))
    for stage, count in enumerate(BLOCKS):
        filters = WIDTH * 2**stage
        for number in range(1, count + 1):
            name = f"conv{stage + 2}_block{number}"
            stride = 2 if number == 1 and stage > 0 else 1
            shortcut = conv(x, 4 * filters, 1, stride, name + "_0") if number == 1 else x
            x = make.relu(conv(x, filters, 1, stride, name + "_1"))
            x = make.relu(conv(x, filters, 3, 1, name + "_2"))
            x = make.relu(make.add(shortcut, conv(x, 4 * filters, 1, 1, name + "_3")))
    pooled = make.average(x)
    return pooled, make.dense(pooled, CLASSES, "predictions")


def folder():
    """Where to write: the first argument, else beside the scripts."""
    return Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent


def save_outputs(name, **outputs):
    """What the framework itself computed, beside the files that it wrote."""
    np.savez(str(folder() / (name + ".npz")), pictures=pictures(), **outputs)
