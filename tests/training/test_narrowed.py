"""Activations that are made of others, without the trunk."""

from __future__ import annotations

import numpy as np

import greffon
from greffon.backbone.freeze import freeze
from greffon.backbone.resnet import resnet
from greffon.frozen.activations import Activations
from greffon.frozen.cut import find_cut
from greffon.frozen.even import at_even_positions
from greffon.frozen.graph import flatten
from greffon.frozen.trunk import Trunk
from greffon.training.narrowed import hand_over, with_blocks


def test_a_cut_at_even_positions_is_made_of_the_map_at_all_of_them():
    backbone = resnet((1, 1, 1, 1), "thin", input_shape=(64, 64, 3))
    pictures = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype("float32")

    def behind(pool, *, blocks_beside):
        model = greffon.graft(backbone, 4, greffon.Head(pool=pool), preprocessing="caffe")
        freeze(model, "conv5")
        graph = flatten(model)
        graph = at_even_positions(with_blocks(graph, "blocks2") if blocks_beside else graph)
        trunk = Trunk(find_cut(model, graph=graph), [(64, 64, 3)], store=None, dtype="float32", label="test")
        return model, Activations(trunk, [b"%016d" % row for row in range(3)], lambda rows: [pictures[rows]])

    _, known = behind("avg", blocks_beside=True)
    model, wanted = behind("grid2", blocks_beside=False)
    assert (4, 4, 512) in known.shapes
    assert wanted.shapes == [(2, 2, 512)]
    known.fill()
    assert hand_over([known], [wanted], model, None) == 3
    assert wanted.held == 3
    _, computed = behind("grid2", blocks_beside=False)
    np.testing.assert_allclose(wanted.all()[0], computed.all()[0], rtol=1e-4, atol=1e-4)
